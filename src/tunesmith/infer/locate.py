"""Find what a configuration means by "the model": which base, which adapters, which run they come from.

An inference file names its adapters. A training file does not, so what its run left in `output_dir` is found:
the final adapter, else that of the newest complete checkpoint; for full and freeze runs the model itself.
Only file names and headers are read here, no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.config import Config
from tunesmith.config.resolve import Resolved
from tunesmith.errors import ModelError, UserError
from tunesmith.model.checkpoints import checkpoints
from tunesmith.model.methods.places import own_base
from tunesmith.model.verify import verify_model_folder, verify_safetensors

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Located:
    """The parts of a model.

    Attributes:
        model: folder (or hub name) of the base, or of the fully tuned model.
        adapters: adapter folders in the order in which they act; empty for none.
        run_dir: folder of the run whose render contract holds, when there is one.
        notes: what was chosen without being asked for, and why.
    """

    model: str
    adapters: tuple[str, ...]
    run_dir: Path | None
    notes: tuple[str, ...]

    def describe(self) -> str:
        """`base + adapter a + adapter b`, for the first line of a chat or an export."""
        return " + adapter ".join((self.model, *self.adapters))


def locate(resolved: Resolved) -> Located:
    """The model that `resolved` stands for.

    Raises:
        ModelError: no model is named, an adapter folder is missing or damaged, or the run has left nothing yet.
    """
    config = resolved.config
    if config.model_name_or_path is None:
        raise ModelError("no model is named", fix="Set model_name_or_path to a model folder.")
    if config.adapter_name_or_path and not _is_training_file(resolved):
        return _with_named_adapters(config)
    if config.output_dir is None:
        return Located(config.model_name_or_path, (), None, ())
    return _from_run(config, Path(config.output_dir))


def _is_training_file(resolved: Resolved) -> bool:
    """Whether adapters in the file are where training started, rather than what the user wants to talk to."""
    if resolved.config.output_dir is None:
        return False
    origin = resolved.origins.get("adapter_name_or_path")
    return origin is None or origin.kind != "flag"


def _with_named_adapters(config: Config) -> Located:
    adapters, notes = [], []
    for name in config.adapter_name_or_path:
        folder, note = _newest(Path(name).expanduser(), adapter_problem)
        if folder is None:
            raise ModelError(f"no adapter at {name}", why=note, fix="Check adapter_name_or_path.")
        adapters.append(str(folder))
        notes += [note] if note else []
    base, acting, base_notes = _on_own_base(str(config.model_name_or_path), adapters)
    return Located(base, acting, run_of(Path(adapters[-1])), (*notes, *base_notes))


def _from_run(config: Config, output_dir: Path) -> Located:
    """What training has left in `output_dir`, on top of what it started from."""
    makes_adapter = config.trains_adapter
    folder, note = _newest(output_dir, adapter_problem if makes_adapter else _model_problem)
    if folder is None:
        raise ModelError(
            f"output_dir {output_dir} holds no tuned {'adapter' if makes_adapter else 'model'}",
            why=note,
            fix="Train first (tunesmith train FILE), or name what to use: adapter_name_or_path for an adapter. "
            "To use the base model alone, add output_dir=null.",
        )
    notes = (note,) if note else ()
    if not makes_adapter:
        return Located(str(folder), (), output_dir, notes)
    earlier = config.adapter_name_or_path if config.create_new_adapter else config.adapter_name_or_path[:-1]
    base, acting, base_notes = _on_own_base(str(config.model_name_or_path), [*earlier, str(folder)])
    return Located(base, acting, output_dir, (*notes, *base_notes))


def _on_own_base(named: str, adapters: Sequence[str]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """(base, adapters that act on it, notes): an adapter's run may have written a base of its own (LoftQ).

    What stands before such an adapter is in its base already.
    """
    for index in reversed(range(len(adapters))):
        own = own_base(Path(adapters[index]))
        if own is not None and own.resolve() != Path(named).expanduser().resolve():
            note = (
                f"using {own} as the base: the run of {adapters[index]} changed the values of {named} before training"
            )
            return str(own), tuple(adapters[index:]), (note,)
    return named, tuple(adapters), ()


def _newest(folder: Path, problem_of: Callable[[Path], str]) -> tuple[Path | None, str]:
    """`folder` itself when it is usable, else its newest usable checkpoint; and a note (or why there is none)."""
    problem = problem_of(folder)
    if not problem:
        return folder, ""
    skipped: list[str] = []
    for checkpoint in reversed(checkpoints(folder)):
        fault = problem_of(checkpoint)
        if not fault:
            also = f"; skipped {', '.join(skipped)}" if skipped else ""
            return checkpoint, f"using {checkpoint}, the newest complete checkpoint ({problem}{also})"
        skipped.append(f"{checkpoint.name} ({fault})")
    return None, "; ".join([problem, *skipped])


def adapter_problem(folder: Path) -> str:
    """Why `folder` is not a usable adapter; empty when it is."""
    if not folder.is_dir():
        return f"{folder} does not exist"
    if not (folder / ADAPTER_CONFIG).is_file():
        return f"{folder} has no {ADAPTER_CONFIG}"
    if not (folder / ADAPTER_WEIGHTS).is_file():
        if (folder / "adapter_model.bin").is_file():
            return f"{folder} has only adapter_model.bin, a pickle that can run code: save it as safetensors"
        return f"{folder} has no {ADAPTER_WEIGHTS}"
    return _problem(verify_safetensors, folder / ADAPTER_WEIGHTS)


def _model_problem(folder: Path) -> str:
    """Why `folder` is not a whole model; empty when it is."""
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json" if folder.is_dir() else f"{folder} does not exist"
    return _problem(verify_model_folder, folder)


def _problem(verify: Callable[[Path], object], path: Path) -> str:
    try:
        verify(path)
    except UserError as error:
        return error.what
    return ""


def run_of(folder: Path) -> Path | None:
    """The run folder that a tuned model or adapter lies in (itself, or the parent of a checkpoint)."""
    for candidate in (folder, folder.parent):
        if (candidate / "render_contract.json").is_file():
            return candidate
    return None
