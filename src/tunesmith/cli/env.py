"""`tunesmith env`: what a bug report needs, in 0.2 s: versions, processor, memory, devices, environment variables.

Versions come from package metadata, devices from /dev and /proc: nothing heavy is imported. `--full` appends torch's
own report, made by a separate process.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

from tunesmith import __version__
from tunesmith.errors import UserError

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy", "pyarrow")
OPTIONAL = ("gguf", "sentencepiece", "bitsandbytes", "deepspeed", "flash-attn", "trl", "datasets")
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "FORCE_TORCHRUN",
    "NPROC_PER_NODE",
    "HF_HOME",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "TUNESMITH_CACHE",
    "TUNESMITH_LANG",
)


def run(argv: list[str]) -> int:
    """Print the report; `--full` adds torch's. Raises: UserError for any other argument."""
    if any(word != "--full" for word in argv):
        raise UserError(
            f"`env` knows only --full, not '{' '.join(argv)}'", fix="run `tunesmith env` or `tunesmith env --full`"
        )
    print("\n".join(f"- {label}: {value}" for label, value in _facts()))
    if not argv:
        return 0
    from tunesmith.runs.process import run_module

    print("\ntorch.utils.collect_env:", flush=True)
    return run_module("torch.utils.collect_env", [], capture=False).returncode


def _facts() -> list[tuple[str, str]]:
    from tunesmith.runs.machine import memory_bytes, num_visible_gpus, processor

    cpu = processor()
    total, available = memory_bytes()
    facts = [("tunesmith", __version__), ("python", f"{platform.python_version()} ({sys.executable})")]
    facts += [("platform", platform.platform())]
    facts += [(name, _version(name) or "not installed") for name in PACKAGES]
    facts += [(name, version) for name in OPTIONAL if (version := _version(name))]
    facts += [
        ("processor", f"{cpu.name or platform.machine()}, {cpu.num_cores} usable cores"),
        ("instruction sets", ", ".join(cpu.flags) or "unknown"),
        ("bf16 in hardware (cpu)", "yes" if cpu.has_fast_bf16 else "no"),
        ("memory", f"{_gib(total)} in all, {_gib(available)} free"),
        ("GPUs", str(num_visible_gpus()) if num_visible_gpus() else "none visible"),
    ]
    facts += [(name, os.environ[name]) for name in VARIABLES if name in os.environ]
    return facts


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gib(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"
