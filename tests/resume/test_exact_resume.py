"""Kill it anywhere: the finished run is the unbroken run, bit for bit.

The training process is killed with SIGKILL at chosen steps and inside a save (a hook in a sitecustomize module of
the test's own stops the process between two writes), started again with the same command, and its final
weights are compared by sha256 with those of a run that nobody disturbed.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.training import arguments, write_project

pytestmark = pytest.mark.slow  # each test starts several training processes

SETTINGS: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lora_dropout": 0.1,
    "packing": True,
    "save_strategy": "steps",
    "save_steps": 2,
    "micro_batch_tokens": 128,
}

# Run by the child before training: kills itself where the environment says.
KILLER = """
import os, signal, sys
from pathlib import Path
place = os.environ.get("KILL_AT", "")
from tunesmith.train import checkpoint, loop
kind, _, step = place.partition(":")
if kind == "step":
    advance = loop.Loop._advance
    def killed(self, num_steps):
        advance(self, num_steps)
        if self.state.global_step == int(step):
            os.kill(os.getpid(), signal.SIGKILL)
    loop.Loop._advance = killed
elif kind in ("save", "rename"):
    name = "_write_manifest" if kind == "save" else "put_in_place"
    original = getattr(checkpoint, name)
    def torn(*args):
        if f"checkpoint-{step}" in str(args[0]):
            if kind == "save":
                victim = next(iter(sorted(Path(args[0]).glob("*.safetensors"))))
                victim.write_bytes(victim.read_bytes()[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)
    setattr(checkpoint, name, torn)
from tunesmith.cli.main import main
raise SystemExit(main(sys.argv[1:]))
"""


def _train(project: Path, output: str, kill_at: str = "", **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLER, "train", *arguments(project, output, **{**SETTINGS, **settings})]
    environment = {**os.environ, "KILL_AT": kill_at, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def _sha256(run: Path) -> str:
    name = "adapter_model.safetensors" if (run / "adapter_model.safetensors").is_file() else "model.safetensors"
    return hashlib.sha256((run / name).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bf16": True},
        {"finetuning_type": "full", "optim": "adamw_torch"},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1, "bf16": True},
        {"optim": "adafactor", "packing": False},
        {"finetuning_type": "full", "use_galore": True, "galore_layerwise": True, "pure_bf16": True},
        {"finetuning_type": "full", "use_apollo": True, "apollo_update_interval": 3},
        {"finetuning_type": "full", "use_badam": True, "badam_switch_interval": 3, "bf16": True},
        {"finetuning_type": "full", "use_muon": True, "optim": "adamw_torch"},
        {"optim": "adamw_8bit", "loraplus_lr_ratio": 4.0},
    ],
    ids=[
        "lora-fp32",
        "lora-bf16",
        "full-fp32",
        "freeze-bf16",
        "adafactor-rows",
        "galore-bf16",
        "apollo",
        "badam-bf16",
        "muon",
        "8bit-loraplus",
    ],
)
def test_a_run_killed_three_times_equals_the_unbroken_run(tmp_path: Path, settings: dict[str, Any]) -> None:
    project = write_project(tmp_path, num_rows=40)
    if settings.get("finetuning_type"):
        settings = {**settings, "lora_dropout": 0.0}
    unbroken = _train(project, "unbroken", **settings)
    assert unbroken.returncode == 0, unbroken.stderr
    for place in ("step:3", "save:6", "rename:8"):
        killed = _train(project, "broken", place, **settings)
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    last = _train(project, "broken", **settings)
    assert last.returncode == 0, last.stderr
    assert "resuming from" in last.stdout
    assert _sha256(project / "broken") == _sha256(project / "unbroken")
    logs = [(project / run / "trainer_log.jsonl").read_text().count("\n") for run in ("broken", "unbroken")]
    assert logs[0] == logs[1]


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    """The comparison above can fail: dropout and order do depend on the seed."""
    project = write_project(tmp_path, num_rows=16)
    for seed in (1, 2):
        assert _train(project, f"seed{seed}", seed=seed, num_train_epochs=1).returncode == 0
    assert _sha256(project / "seed1") != _sha256(project / "seed2")


def test_a_torn_checkpoint_is_passed_over_by_name(tmp_path: Path) -> None:
    project = write_project(tmp_path, num_rows=16)
    assert _train(project, "out", "step:5").returncode == -signal.SIGKILL
    run = project / "out"
    newest = run / "checkpoint-4"
    (newest / "adapter_model.safetensors").write_bytes(b"torn")
    done = _train(project, "out")
    assert done.returncode == 0, done.stderr
    assert "passed over checkpoint-4: adapter_model.safetensors is 4 of" in done.stdout
    assert "checkpoint-2 (step 2)" in done.stdout


@pytest.mark.parametrize(
    ("change", "named"),
    [("data", "data"), ("template", "template"), ("weights", "base weights"), ("rank", "lora of rank 8")],
)
def test_a_changed_input_is_refused_by_name(tmp_path: Path, change: str, named: str) -> None:
    project = write_project(tmp_path, num_rows=16)
    assert _train(project, "out", "step:3").returncode == -signal.SIGKILL
    settings: dict[str, Any] = {}
    if change == "data":
        file = project / "data" / "rows.json"
        file.write_text(file.read_text().replace("assistant", "Assistant"))
    elif change == "template":
        settings["default_system"] = "Be brief."
    elif change == "weights":
        write_project(project, num_rows=16, seed=7)
    else:
        settings["lora_rank"] = 8
    done = _train(project, "out", **settings)
    assert done.returncode == 2, done.stdout + done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert (project / "out" / "checkpoint-2" / "manifest.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_saves_and_goes_on_exactly(tmp_path: Path, number: signal.Signals) -> None:
    project = write_project(tmp_path, num_rows=40)
    settings = {"num_train_epochs": 60, "save_steps": 1000, "max_steps": 60}
    command = [sys.executable, "-m", "tunesmith", "train", *arguments(project, "out", **{**SETTINGS, **settings})]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("step 5/"):
                run.send_signal(number)
                break
        rest = run.stdout.read()
        assert run.wait(120) == 130
    assert "the same command goes on from there" in rest
    assert _train(project, "out", **settings).returncode == 0
    assert _train(project, "whole", **settings).returncode == 0
    assert _sha256(project / "out") == _sha256(project / "whole")
