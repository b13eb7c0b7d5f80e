"""`tunesmith export FILE.yaml`: merge adapters into a plain model folder and prove the result."""

from __future__ import annotations


def run(argv: list[str]) -> int:
    """Export as `argv` says; the settings are checked before torch is imported."""
    from tunesmith.config.resolve import resolve

    resolved = resolve(argv, verb="export")
    if resolved.config.export_format == "gguf_adapter":
        from tunesmith.export.gguf_adapter import export_adapter

        return export_adapter(resolved)
    from tunesmith.export.merge import export

    return export(resolved)
