"""Settings of every test process."""

from __future__ import annotations

import os

# Idle threads soon sleep, so that parallel test processes share cores (docs/decisions/0012).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
