"""Oracles: trusted implementations and formulas, and the table of how far Tunesmith's losses are from them.

To add rows, write a module whose functions return `Row`s, hand them to `table.check`, and name the module below.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: docs/decisions/0012
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from tests.oracles import group_runs, pairs, policies, token_runs, tokens, trajectories
from tests.oracles.table import CHECKS as ALL_CHECKS

__all__ = ["ALL_CHECKS", "group_runs", "pairs", "policies", "token_runs", "tokens", "trajectories"]
