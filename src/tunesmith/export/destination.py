"""What must hold before an export writes anything: where it goes, what is there already, what it may not merge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.errors import ExportError
from tunesmith.infer.locate import Located
from tunesmith.model.adapters import has_effect
from tunesmith.model.checkpoints import RESUME, checkpoints
from tunesmith.model.methods.places import own_base
from tunesmith.model.verify import read_json_object, read_model_config, weight_files

BASE_FILE = "base.json"
"""Where a run records the fingerprint of the weights it started from."""
PROOF_FILE = "proof.json"
"""The mark by which a folder is known as an earlier export, which may be replaced."""

BYTES_OF_DTYPE = {"float32": 4, "float16": 2, "bfloat16": 2}
_TOKENIZER_BYTES = 50 * 10**6


def check_destination(config: Config) -> Path:
    """The folder to write. Raises: ExportError when it is not named, or holds what is not an earlier export."""
    if not config.export_dir:
        raise ExportError("no export folder is named", fix="Set export_dir to a new folder.")
    folder = Path(config.export_dir).expanduser()
    if folder.is_file():
        raise ExportError(f"export_dir {folder} is a file", fix="Name a folder.")
    foreign = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if foreign and PROOF_FILE not in foreign:
        raise ExportError(
            f"export_dir {folder} holds files that are not an earlier export: {', '.join(foreign[:4])}",
            why="An export replaces the whole folder, and these would be lost.",
            fix="Name a new folder, or empty this one.",
        )
    return folder


def refuse_quantized(config: Config, base: Path) -> None:
    """Raises: ExportError when the base would be, or is, quantized."""
    reason = (
        "An adapter is trained as a small difference to weights; added to rounded 4- or 8-bit weights and rounded "
        "again, most of it is lost."
    )
    if config.quantization_bit is not None:
        raise ExportError(
            f"quantization_bit is {config.quantization_bit}: adapters are not merged into a quantized base",
            why=reason,
            fix="Add quantization_bit=null to the command (or remove the line): the adapter is merged into the "
            "unquantized base.",
        )
    quantization = read_model_config(base).get("quantization_config")
    if quantization:
        raise ExportError(
            f"{base} is quantized ({quantization.get('quant_method', 'method unknown')}): nothing is merged into it",
            why=reason,
            fix="Set model_name_or_path to the unquantized model of the same name.",
        )


def refuse_idle_adapters(located: Located) -> None:
    """Raises: ExportError when an adapter changes nothing, since the export would be the untouched base."""
    for name in located.adapters:
        if not has_effect(name):
            raise ExportError(
                f"the adapter {name} has no effect: all its updates are zero",
                why="The export would be the base model under another name.",
                fix="Look at the run: did it take a step, with a learning rate above 0? Then export again.",
            )


def check_base_record(located: Located, base: Path) -> None:
    """Raises: ExportError when the run of the adapters recorded other base weights than these.

    An adapter of a run that wrote a base of its own (LoftQ) acts on that one, which is found by `locate`.
    """
    from tunesmith.model.fingerprint import weights_fingerprint

    if not located.adapters or located.run_dir is None or own_base(Path(located.adapters[-1])) is not None:
        return
    recorded = recorded_base(located.run_dir)
    if recorded is None or not recorded.rpartition(":")[0].endswith("sha256"):  # none, or trained from scratch
        return
    if weights_fingerprint(base) != recorded:
        raise ExportError(
            f"wrong base: {located.run_dir} was trained on other weights than those of {base}",
            why="An adapter is a small difference to the weights it was trained on; on others it does something else.",
            fix="Set model_name_or_path to the very base of the run (its run.yaml names it).",
        )


def recorded_base(run_dir: Path) -> str | None:
    """The fingerprint of the base weights that a run was trained on; None when it recorded none."""
    found = _json(run_dir / BASE_FILE).get("base_weights")
    for checkpoint in reversed(checkpoints(run_dir)):
        found = found or _json(checkpoint / RESUME).get("must_match", {}).get("base weights")
    return None if found is None else str(found)


def _json(file: Path) -> dict[str, Any]:
    return read_json_object(file) if file.is_file() else {}


def check_disk(base: Path, destination: Path, dtype: str, *, is_quantized: bool = False) -> None:
    """Raises: ExportError when the disk has no room for the export beside what it replaces.

    Args:
        is_quantized: a plain copy stands beside the quantized one for a while.
    """
    needed = export_size_bytes(base, dtype) * (2 if is_quantized else 1)
    existing = next(folder for folder in destination.absolute().parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ExportError(
            f"the disk of {destination} has {free / 1e9:.1f} GB free, the export needs about {needed / 1e9:.1f} GB",
            fix="Free some space, or set export_dir to another disk.",
        )


def export_size_bytes(base: Path, dtype: str) -> int:
    """Estimated size of the exported folder: the base's weights in the new dtype, and the tokenizer."""
    stored = sum(path.stat().st_size for path in weight_files(base))
    per_value = BYTES_OF_DTYPE.get(stored_dtype(base), BYTES_OF_DTYPE["float32"])
    return stored * BYTES_OF_DTYPE[dtype] // per_value + _TOKENIZER_BYTES


def folder_bytes(folder: Path) -> int:
    """Size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def stored_dtype(base: Path) -> str:
    """The dtype that a model's configuration names; float32 when it names none."""
    config = read_model_config(base)
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")
