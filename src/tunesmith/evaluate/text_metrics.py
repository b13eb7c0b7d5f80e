"""BLEU-4 and ROUGE of a predicted text against its label, as the public tool computes them, and plain agreement.

Words are cut by jieba (which leaves English words whole) and compared by rouge-chinese; BLEU-4 is NLTK's sentence BLEU
over characters with smoothing 3 (Chen and Cherry 2014, https://aclanthology.org/W14-3346). Each is in percent, rounded
to 4 digits per row, and averaged over rows. The packages are asked for before anything is computed.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ConfigError

NAMES = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
_PACKAGES = ("jieba", "rouge_chinese", "nltk")
_DIGITS = 4


def require_metrics() -> None:
    """Raises: ConfigError when a package that the metrics are computed with is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the text metrics need {', '.join(missing)}",
            why="the rows have labels to compare the answers with",
            fix='pip install "tunesmith[metrics]"',
        )


@dataclass
class TextMetrics:
    """The loaded packages. Raises: ConfigError when one is missing."""

    def __post_init__(self) -> None:
        require_metrics()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jieba's own source has invalid escapes, and it asks for pkg_resources
            import jieba
            from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
            from rouge_chinese import Rouge
        jieba.setLogLevel(logging.WARNING)
        self._cut: Any = jieba.cut
        self._rouge: Any = Rouge()
        self._bleu: Any = sentence_bleu
        self._smoothing: Any = SmoothingFunction().method3

    def of(self, predicted: str, label: str) -> dict[str, float]:
        """The four metrics of one row, in percent; all 0 where either side has no word."""
        words, label_words = (" ".join(self._cut(text)) for text in (predicted, label))
        scores = dict.fromkeys(NAMES, 0.0)
        if not words.split() or not label_words.split():
            return scores
        scores["bleu-4"] = _percent(self._bleu([list(label)], list(predicted), smoothing_function=self._smoothing))
        if words.replace(".", " ").split() and label_words.replace(".", " ").split():  # it splits at dots
            rouge = self._rouge.get_scores(words, label_words)[0]
            scores |= {name: _percent(rouge[name]["f"]) for name in NAMES[1:]}
        return scores


def _percent(share: float) -> float:
    return round(float(share) * 100, _DIGITS)


def mean_metrics(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The mean of each metric over (predicted, label) pairs, and `exact_match_percent`; nothing without pairs."""
    if not pairs:
        return {}
    metrics = TextMetrics()
    rows = [metrics.of(predicted, label) for predicted, label in pairs]
    means = {name: round(sum(row[name] for row in rows) / len(rows), _DIGITS) for name in NAMES}
    num_equal = sum(predicted.strip() == label.strip() for predicted, label in pairs)
    return {**means, "exact_match_percent": round(100 * num_equal / len(pairs), _DIGITS)}
