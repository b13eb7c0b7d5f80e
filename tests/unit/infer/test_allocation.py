"""Memory of ended requests goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from tunesmith.infer.allocation import keep_large_tensors_apart
import sys
if sys.argv[1] == "apart":
    assert keep_large_tensors_apart()
def rss():
    return int([l for l in open("/proc/self/status") if l.startswith("VmRSS")][0].split()[1]) / 1024
lasting = []
for size in range(1, 30):  # buffers of many sizes come and go, and something small stays after each
    del_me = [torch.ones(size * 300_000) for _ in range(3)]
    lasting.append(torch.ones(20_000))
    del del_me
before = rss()
buffers = []
for size in range(1, 200):
    buffers.append(torch.ones(1_000_000 + 5_000 * size))
    lasting.append(torch.ones(2_000))
del buffers
print(rss() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_buffers_between_lasting_objects_are_given_back() -> None:
    grown = {}
    for way in ("apart", "heap"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, way], capture_output=True, text=True, check=True)
        grown[way] = float(done.stdout)
    assert grown["apart"] < 30
    assert grown["heap"] > 10 * grown["apart"]  # else this guards against nothing
