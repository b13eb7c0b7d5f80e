"""`tunesmith chat FILE.yaml`: talk to a model, or to what a training file has tuned."""

from __future__ import annotations


def run(argv: list[str]) -> int:
    """Chat as `argv` says; the settings are checked before torch is imported."""
    from tunesmith.config.resolve import resolve

    resolved = resolve(argv, verb="chat")
    from tunesmith.cli.help import language
    from tunesmith.serve.terminal import chat

    return chat(resolved, language())
