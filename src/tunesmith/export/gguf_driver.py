"""Runs one of llama.cpp's conversion scripts in this process, with the name of the pre-tokenizer given from outside.

    python -m tunesmith.export.gguf_driver TOOLS_FOLDER SCRIPT PRE_TOKENIZER [arguments of the script]

llama.cpp splits a text before its BPE merges by a rule that a GGUF file names. Its converter finds the name by the hash
of one tokenized text: a tokenizer that was made at home or has new tokens is missed, and one that differs from a
published one only where that text does not look is taken for it. So the name that `gguf_pretokenizer.py` has read off
tokenizer.json goes before ("" for none: the converter decides). The proof compares tokens, so a wrong one cannot pass.

The scripts ask transformers to trust code beside a tokenizer. `gguf_convert.py` gives them a folder that holds no code
and an environment without network and without a cache of modules, so there is none to run.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any


def main(argv: list[str]) -> int:
    """Run the script; it leaves through SystemExit where it fails."""
    tools, script, pre_tokenizer, *arguments = argv
    sys.path[:0] = [str(Path(tools) / "gguf-py"), tools]
    if pre_tokenizer:
        _set_name(pre_tokenizer)
    sys.argv = [script, *arguments]
    runpy.run_path(str(Path(tools) / script), run_name="__main__")
    return 0


def _set_name(pre_tokenizer: str) -> None:
    """Let the converter take `pre_tokenizer` in place of what its table says."""
    import importlib

    base: Any = importlib.import_module("conversion.base").TextModel
    base.get_vocab_base_pre = lambda model, tokenizer: pre_tokenizer


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
