"""Runs one of llama.cpp's conversion scripts in this process, with the name of the pre-tokenizer given from outside.

    python -m tunesmith.export.gguf_driver TOOLS_FOLDER SCRIPT PRE_TOKENIZER [arguments of the script]

llama.cpp splits a text before its BPE merges by a rule that a GGUF file names. Its converter finds the name by the hash
of one tokenized text, which knows published models only and misses one whose vocabulary was extended or that was made
at home. Such a tokenizer gets the name that `gguf_pretokenizer.py` read off tokenizer.json ("" for none: the script's
own message then says that it does not know it). The proof afterwards compares tokens, so a wrong name cannot pass.

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
        _name_unknown(pre_tokenizer)
    sys.argv = [script, *arguments]
    runpy.run_path(str(Path(tools) / script), run_name="__main__")
    return 0


def _name_unknown(pre_tokenizer: str) -> None:
    """Let the converter take `pre_tokenizer` where its own table has no name."""
    import importlib

    base: Any = importlib.import_module("conversion.base").TextModel
    known = base.get_vocab_base_pre

    def named(model: Any, tokenizer: Any) -> str:
        try:
            return str(known(model, tokenizer))
        except NotImplementedError:
            return pre_tokenizer

    base.get_vocab_base_pre = named


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
