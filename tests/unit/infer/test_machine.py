"""Memory of ended requests goes back to the system, and no idle thread keeps the engine's from being awake."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import torch
from tunesmith.infer.machine import keep_large_tensors_apart
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


THREADS = """
import os
import sys
from tests.tiny import tiny_model
from pathlib import Path
import torch
from tunesmith.config.resolve import resolve
from tunesmith.infer import opening
from tunesmith.infer.session import open_session

if sys.argv[2] == "kept":
    opening.give_back_threads = lambda: False
torch.ones(500, 500) @ torch.ones(500, 500)  # a team for this thread, whatever loading does
folder = tiny_model(Path(sys.argv[1]))
before = len(os.listdir("/proc/self/task"))
session = open_session(resolve([f"model_name_or_path={folder}", "template=qwen"], verb="chat"))
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the threads of a process are listed by Linux")
def test_the_thread_that_loaded_the_model_keeps_no_team_of_its_own(tmp_path) -> None:
    more = {}
    for way in ("kept", "given back"):
        command = [sys.executable, "-c", THREADS, str(tmp_path / way), way]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "3"}
        )
        more[way] = int(done.stdout)
    assert more["given back"] < more["kept"]
