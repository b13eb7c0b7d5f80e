"""`tunesmith webchat FILE.yaml`: a page in the browser for talking to a model, judging and comparing its answers."""

from __future__ import annotations


def run(argv: list[str]) -> int:
    """Serve the page as `argv` and the environment say; the settings are checked before torch is imported."""
    from tunesmith.config.resolve import resolve

    resolved = resolve(argv, verb="webchat")
    from tunesmith.cli.help import language
    from tunesmith.serve.webchat import webchat

    return webchat(resolved, language())
