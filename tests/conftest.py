"""Settings of every test process."""

from __future__ import annotations

import os
import tempfile

# Idle threads soon sleep, so that parallel test processes share cores (docs/decisions/0012).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# What one test run caches (log-probabilities of references) is nobody else's.
os.environ.setdefault("TUNESMITH_CACHE", tempfile.mkdtemp(prefix="tunesmith-tests-"))
