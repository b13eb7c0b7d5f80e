"""The run folder: whose it is, what may be replaced in it, and the files that describe the run.

Rules, as in the public tool where they are right: an unfinished run is resumed from its newest complete
checkpoint; final weights without a checkpoint are not overwritten unless `overwrite_output_dir: true`, which
removes the earlier run's own files and nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tunesmith import __version__
from tunesmith.config.resolve import Resolved
from tunesmith.errors import ConfigError, ResumeError
from tunesmith.model.checkpoints import checkpoints, why_incomplete
from tunesmith.model.methods.places import METHOD_FOLDERS
from tunesmith.model.rope import RECORD_FILE
from tunesmith.model.value_head import VALUE_HEAD
from tunesmith.train.checkpoint import newest_complete, remove_parts
from tunesmith.train.predict import PREDICT_RESULTS, PREDICT_STATE, PREDICTIONS
from tunesmith.train.samplelog import SAMPLES_FILE
from tunesmith.train.sinks import RUN_LOG, TRAINER_LOG
from tunesmith.train.state import STATE_FILE

RUN_FILE, CONTRACT_FILE, BASE_FILE = "run.yaml", "render_contract.json", "base.json"
WEIGHT_FILES = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
RUN_FILES = (
    RUN_FILE,
    CONTRACT_FILE,
    BASE_FILE,
    TRAINER_LOG,
    RUN_LOG,
    STATE_FILE,
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "ledger.jsonl",
    SAMPLES_FILE,
    "ledger_summary.json",
    PREDICTIONS,
    PREDICT_RESULTS,
    PREDICT_STATE,
    VALUE_HEAD,
    RECORD_FILE,
    *WEIGHT_FILES,
)


def find_start(resolved: Resolved, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to continue from, None to start anew.

    Raises:
        ResumeError: the folder holds a finished run, or the named checkpoint cannot be used.
        ConfigError: the folder is a file.
    """
    config = resolved.config
    assert config.output_dir is not None
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"`output_dir: {folder}` is a file", fix="choose a folder")
    wanted = config.resume_from_checkpoint
    if isinstance(wanted, str):
        return _named(Path(wanted))
    if not folder.is_dir():
        return None
    if config.overwrite_output_dir and wanted is not True:
        return None
    if wanted is False and not config.overwrite_output_dir:
        _refuse_leftovers(folder)
        return None
    start = newest_complete(folder, say)
    if start is None:
        _refuse_leftovers(folder)
        if wanted is True:
            raise ResumeError(
                f"`resume_from_checkpoint: true`, but {folder} holds no complete checkpoint",
                fix="remove the key to start anew",
            )
    return start


def _named(checkpoint: Path) -> Path:
    if not checkpoint.is_dir():
        raise ResumeError(f"`resume_from_checkpoint: {checkpoint}`: no such folder", fix="correct the path")
    problem = why_incomplete(checkpoint)
    if problem:
        raise ResumeError(f"{checkpoint} cannot be resumed from", why=problem, fix="name another checkpoint")
    return checkpoint


def _refuse_leftovers(folder: Path) -> None:
    """Weights or checkpoints that would be overwritten or mixed up with a new run's."""
    found = [name for name in WEIGHT_FILES if (folder / name).is_file()] + [path.name for path in checkpoints(folder)]
    if found:
        raise ResumeError(
            f"{folder} holds an earlier run ({', '.join(found[:3])}) that cannot be continued",
            why="starting anew there would overwrite or mix with it",
            fix="choose another `output_dir`, or set `overwrite_output_dir: true` to replace it",
        )


def clear_for_new_run(folder: Path, say: Callable[[str], None]) -> None:
    """Remove what an earlier run left, before a new one starts in its folder; other files stay."""
    old = checkpoints(folder) if folder.is_dir() else []
    files = [folder / name for name in RUN_FILES if (folder / name).is_file()]
    old += [folder / name for name in METHOD_FOLDERS if (folder / name).is_dir()]
    if old or files:
        say(f"overwrite_output_dir: removing {len(old)} folder(s) and {len(files)} file(s) of the earlier run")
    for path in old:
        shutil.rmtree(path)
    for path in files:
        path.unlink()


def open_folder(folder: Path) -> None:
    """Make the folder and clear unfinished saves."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_parts(folder)


def write_run_file(folder: Path, resolved: Resolved) -> None:
    """`run.yaml`: the settings that make this run, usable as a training file; the decided ones with their reasons."""
    values = {**resolved.effective(), **_absolute(resolved)}
    given = {key: values[key] for key in sorted(values) if resolved.given(key) or key == "dataset_dir"}
    decided = {key: origin.why for key, origin in sorted(resolved.origins.items()) if origin.kind == "decided"}
    lines = [f"# Tunesmith {__version__}: the settings of this run; `tunesmith config show` lists the defaults too"]
    lines += [_entry(key, value) for key, value in given.items() if key not in decided]
    lines += ["# decided by Tunesmith:"] if decided else []
    lines += [f"{_entry(key, values[key])}  # {why}" for key, why in decided.items()]
    (folder / RUN_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _absolute(resolved: Resolved) -> dict[str, str | list[str]]:
    """Paths as they were meant, so that the file works from anywhere."""
    config = resolved.config
    beside = resolved.config_dir / config.dataset_dir
    found: dict[str, str | list[str]] = {
        "dataset_dir": str((beside if beside.is_dir() else Path(config.dataset_dir)).resolve())
    }
    for key in ("model_name_or_path", "output_dir", "ref_model", "new_special_tokens_config"):
        value = getattr(config, key)
        if value is not None:
            found[key] = str(Path(value).resolve()) if Path(value).exists() else value
    for key in ("adapter_name_or_path", "ref_model_adapters"):
        if getattr(config, key):
            found[key] = [str(Path(a).resolve()) for a in getattr(config, key)]
    return found


def _entry(key: str, value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip()
    return f"{key}: {text.removesuffix('...').strip()}"


def write_json(file: Path, data: Any) -> None:
    """JSON for people and programs: indented, UTF-8."""
    file.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
