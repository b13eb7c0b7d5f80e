"""What this machine has, read from /proc, /dev and the environment: torch is never imported here.

Used before anything heavy runs: to print `tunesmith env`, and to decide whether a training needs several processes.
Off Linux a fact that cannot be read is None, never a guess.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # the last is arm64's name
OTHER_FLAGS = ("avx2", "avx512f", "avx512_fp16", "amx_tile", "f16c", "asimd", "sve")


@dataclass(frozen=True)
class Processor:
    """The CPU: its name, the cores this process may use, and the instruction sets that matter here."""

    name: str | None
    num_cores: int
    flags: tuple[str, ...]

    @property
    def has_fast_bf16(self) -> bool:
        """Whether bfloat16 products run in hardware; without it bf16 works but is slower than fp32."""
        return any(flag in self.flags for flag in BF16_FLAGS)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """The CPU as the kernel describes it."""
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags.group(1).split()) if flags else set()
    return Processor(
        name.group(1).strip() if name else None,
        num_usable_cores(),
        tuple(flag for flag in BF16_FLAGS + OTHER_FLAGS if flag in present),
    )


def num_usable_cores() -> int:
    """Cores this process may run on (smaller than the machine's where a scheduler or container says so)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes(meminfo: Path = Path("/proc/meminfo")) -> tuple[int | None, int | None]:
    """(total, available) memory in bytes; (None, None) where the kernel does not say."""
    text = meminfo.read_text(encoding="utf-8") if meminfo.exists() else ""
    sizes = {key: int(kib) * 1024 for key, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return sizes.get("MemTotal"), sizes.get("MemAvailable")


def num_visible_gpus(environ: Mapping[str, str] | None = None, dev: Path = Path("/dev")) -> int:
    """GPUs that a training would see: CUDA_VISIBLE_DEVICES where set, else the driver's device files."""
    env = os.environ if environ is None else environ
    device_files = [path for path in dev.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    chosen = env.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not device_files:
        return len(device_files)
    # CUDA stops at the first entry it does not know; -1 is the usual way to hide all of them.
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    return min(names.index("-1") if "-1" in names else len(names), len(device_files))
