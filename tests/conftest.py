"""Settings of every test process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# Idle threads soon sleep, so that parallel test processes share cores (docs/decisions/0012).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Where the demo keeps its model, for the tests that look at a real one.
USER_CACHE = os.environ.get("TUNESMITH_CACHE") or str(Path.home() / ".cache" / "tunesmith")
os.environ.setdefault("TUNESMITH_USER_CACHE", USER_CACHE)
# What one test run caches (log-probabilities of references) is nobody else's.
os.environ.setdefault("TUNESMITH_CACHE", tempfile.mkdtemp(prefix="tunesmith-tests-"))
