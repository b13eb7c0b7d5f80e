"""Where some methods keep what they write into a run folder besides weights. Reads files only; needs no torch."""

from __future__ import annotations

from pathlib import Path

LOFTQ_BASE = "loftq_base"
PISSA_INIT, PISSA_BACKUP, PISSA_CONVERTED = "pissa_init", "pissa_backup", "pissa_converted"
LOFTQ_MARK = "loftq.json"
"""Beside an adapter that LoftQ started on a base which is quantized while it is loaded."""
METHOD_FOLDERS = (LOFTQ_BASE, PISSA_INIT, PISSA_BACKUP, PISSA_CONVERTED)


def own_base(adapter: Path) -> Path | None:
    """The base that an adapter's run wrote for it: beside the adapter, or in the run folder around its checkpoint."""
    return next((p / LOFTQ_BASE for p in (adapter, adapter.parent) if (p / LOFTQ_BASE / "config.json").is_file()), None)
