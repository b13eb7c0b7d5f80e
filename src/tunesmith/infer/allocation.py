"""Keeps the memory of a long-running server flat: large tensors outside the allocator's heap.

glibc raises the size from which it asks the system for separate memory as such pieces are given back, up to 32 MB. Then
key/value buffers of many sizes lie between small lasting objects, and the heap grows by the gaps. Fixing the size lets
each buffer go back to the system as soon as its request has ended.
"""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # <malloc.h>
SEPARATE_BYTES = 1 << 19


def keep_large_tensors_apart() -> bool:
    """Ask glibc for it; False where the C library is another one (nothing is changed then)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, SEPARATE_BYTES) == 1
