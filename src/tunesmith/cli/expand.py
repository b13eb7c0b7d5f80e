"""`tunesmith expand ...`: a deeper model that computes the same, whose new blocks alone are trained (LLaMA Pro)."""

from __future__ import annotations


def run(argv: list[str]) -> int:
    """Expand as `argv` says; the settings are checked before torch is imported."""
    from tunesmith.config.resolve import resolve

    resolved = resolve(argv, verb="expand")
    from tunesmith.model.expand import expand

    expand(resolved.config)
    return 0
