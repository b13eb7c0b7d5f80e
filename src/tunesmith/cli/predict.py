"""`tunesmith predict FILE.yaml`: the model's answer to every row, written as it comes, and how good the answers are."""

from __future__ import annotations


def run(argv: list[str]) -> int:
    """Predict as `argv` says; the settings are checked before torch is imported."""
    from tunesmith.config.resolve import resolve

    resolved = resolve(argv, verb="predict")
    from tunesmith.evaluate.predict import predict

    return predict(resolved)
