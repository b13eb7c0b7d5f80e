"""Processes are started from lists, keep their arguments whole, and torchrun is given what the environment says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith.errors import ConfigError
from tunesmith.runs import process
from tunesmith.runs.machine import memory_bytes, num_visible_gpus, processor

CPUINFO = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_bf16\n\nprocessor\t: 1\n"


def test_a_module_runs_in_a_fresh_interpreter_with_its_arguments_whole(tmp_path: Path) -> None:
    (tmp_path / "echo_args.py").write_text("import sys; print(sys.argv[1:])", encoding="utf-8")
    result = process.run_module("echo_args", ["a b", "c'd", "$HOME"], env={"PYTHONPATH": str(tmp_path)}, timeout_s=60)
    assert result.returncode == 0
    assert result.stdout.strip() == str(["a b", "c'd", "$HOME"])


def test_a_file_of_the_user_does_not_shadow_a_module(tmp_path: Path) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("PYTHONSAFEPATH is read from Python 3.11 on")
    (tmp_path / "platform.py").write_text("print('shadowed')", encoding="utf-8")
    result = process.run_module("tunesmith", ["version"], cwd=tmp_path, timeout_s=60)
    assert "shadowed" not in result.stdout
    assert result.stdout.startswith("tunesmith ")


def test_a_child_that_takes_too_long_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        process.run_module("timeit", ["-n", "1", "-r", "1", "import time; time.sleep(30)"], timeout_s=0.5)


POLITE_CHILD = """
import pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
def leave(*_):
    time.sleep(1.0)  # longer than the quarter of a second that subprocess.run would give it
    (place / "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGINT, leave)
(place / "ready").touch()
time.sleep(60)
"""
PARENT = """
import sys
from tunesmith.runs.process import run_module
sys.exit(run_module("polite_child", sys.argv[1:], capture=False).returncode)
"""


@pytest.mark.parametrize("group", [True, False], ids=["ctrl-c reaches the group", "sigterm reaches the parent alone"])
def test_an_interrupted_child_is_given_the_time_to_save(group: bool, tmp_path: Path) -> None:
    (tmp_path / "polite_child.py").write_text(POLITE_CHILD, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], env=env, start_new_session=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if group:
        os.killpg(parent.pid, signal.SIGINT)
    else:
        parent.terminate()
    assert parent.wait(timeout=30) == 0
    assert (tmp_path / "saved").exists()


def test_a_child_on_our_own_output_is_ended_after_its_time() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        process.run_module(
            "timeit", ["-n", "1", "-r", "1", "import time; time.sleep(30)"], timeout_s=0.5, capture=False
        )


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"FORCE_TORCHRUN": "1"}, True),
        ({"FORCE_TORCHRUN": "true"}, True),
        ({"FORCE_TORCHRUN": "0"}, False),
        ({"FORCE_TORCHRUN": "1", "RANK": "0", "WORLD_SIZE": "2"}, False),
    ],
)
def test_torchrun_is_started_when_asked_for_and_never_inside_itself(environ: dict[str, str], expected: bool) -> None:
    assert process.wants_torchrun({"CUDA_VISIBLE_DEVICES": "", **environ}) is expected


def test_several_gpus_start_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "num_visible_gpus", lambda environ: 4)
    assert process.wants_torchrun({})
    command = process.torchrun_command(["a b.yaml"], {})
    assert command[command.index("--nproc-per-node") + 1] == "4"
    assert command[-4:] == ["-m", "tunesmith", "train", "a b.yaml"]


def test_the_fixed_form_takes_its_numbers_from_the_environment() -> None:
    environ = {
        "NNODES": "2",
        "NODE_RANK": "1",
        "NPROC_PER_NODE": "8",
        "MASTER_ADDR": "node0",
        "MASTER_PORT": "29500",
    }
    words = " ".join(process.torchrun_command(["x.yaml"], environ))
    for part in (
        "--nnodes 2",
        "--node-rank 1",
        "--nproc-per-node 8",
        "--master-addr node0",
        "--master-port 29500",
    ):
        assert part in words


@pytest.mark.slow
def test_a_failed_rank_gives_its_own_exit_code_and_no_traceback_of_the_launcher(tmp_path: Path) -> None:
    words = ["train", "--stage", "sft", "--do_train", "--finetuning_type", "lora", "--template", "empty"]
    words += ["--model_name_or_path", str(tmp_path / "missing"), "--dataset", "missing.json"]
    env = {**os.environ, "FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-m", "tunesmith", *words, "--output_dir", str(tmp_path / "run")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert f"no model folder at {tmp_path / 'missing'}" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_elastic_form_is_used_with_a_rendezvous_id() -> None:
    environ = {"RDZV_ID": "job", "MIN_NNODES": "1", "MAX_NNODES": "3", "MAX_RESTARTS": "2", "MASTER_PORT": "29500"}
    words = " ".join(process.torchrun_command(["x.yaml"], environ))
    assert "--nnodes 1:3" in words
    assert "--rdzv-id job" in words
    assert "--rdzv-endpoint 127.0.0.1:29500" in words
    assert "--max-restarts 2" in words
    assert "--master-addr" not in words


def test_a_number_that_is_none_and_a_missing_port_are_user_errors() -> None:
    with pytest.raises(ConfigError, match="NPROC_PER_NODE"):
        process.torchrun_command([], {"NPROC_PER_NODE": "two"})
    with pytest.raises(ConfigError, match="MASTER_PORT"):
        process.torchrun_command([], {"NNODES": "2"})


def test_the_processor_is_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO, encoding="utf-8")
    cpu = processor(tmp_path / "cpuinfo")
    assert (cpu.name, cpu.flags, cpu.has_fast_bf16) == ("Some CPU", ("avx512_bf16", "avx2", "avx512f"), True)
    (tmp_path / "cpuinfo").write_text(CPUINFO.replace("avx512_bf16", ""), encoding="utf-8")
    assert not processor(tmp_path / "cpuinfo").has_fast_bf16
    assert memory_bytes(tmp_path / "no_such_file") == (None, None)


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, 3), ("", 0), ("-1", 0), ("1", 1), ("0,2", 2), ("0,-1,2", 1), ("0,1,2,3,4", 3)]
)
def test_gpus_are_counted_without_torch(visible: str | None, expected: int, tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert num_visible_gpus(environ, tmp_path) == expected
