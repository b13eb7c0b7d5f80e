"""What a long-running server asks of the machine: memory that stays flat, and threads that are there when needed.

glibc raises the size from which it asks the system for separate memory as such pieces are given back, up to 32 MB. Then
key/value buffers of many sizes lie between small lasting objects, and the heap grows by the gaps. Fixing the size lets
each buffer go back to the system as soon as its request has ended.

OpenMP keeps a team of threads for each thread that ever computed. When the teams together have more threads than there
are processors, all of them go to sleep between any two parallel steps, of which a pass has hundreds: one client was
answered a quarter more slowly because the thread that had loaded the model still had a team.
"""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # <malloc.h>
_PAUSE_SOFT = 1  # omp_pause_soft, OpenMP 5.0, section 3.2.44
SEPARATE_BYTES = 1 << 19


def keep_large_tensors_apart() -> bool:
    """Ask glibc for it; False where the C library is another one (nothing is changed then)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, SEPARATE_BYTES) == 1


def give_back_threads() -> bool:
    """End the team of the thread that calls this; it gets a new one when it computes again.

    Returns: whether there is an OpenMP library that can. torch loads it where others find it, on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
    return pause is not None and pause(_PAUSE_SOFT) == 0
