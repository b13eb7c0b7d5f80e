"""BLEU-4 and ROUGE of single rows against numbers worked out by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tunesmith.evaluate.text_metrics import NAMES, TextMetrics, mean_metrics


@pytest.fixture(scope="module")
def metrics() -> TextMetrics:
    return TextMetrics()


def test_equal_texts_have_full_marks(metrics: TextMetrics) -> None:
    assert metrics.of("The cat sat on the mat", "The cat sat on the mat") == dict.fromkeys(NAMES, 100.0)
    assert metrics.of("我是一个小助手。", "我是一个小助手。") == dict.fromkeys(NAMES, 100.0)


def test_words_are_compared_by_rouge(metrics: TextMetrics) -> None:
    found = metrics.of("the cat sat", "the cat ran")
    assert found["rouge-1"] == pytest.approx(100 * 2 / 3, abs=1e-3)  # the, cat of three on both sides
    assert found["rouge-2"] == pytest.approx(100 * 1 / 2, abs=1e-3)  # "the cat" of two on both sides
    assert found["rouge-l"] == pytest.approx(100 * 2 / 3, abs=1e-3)


def test_chinese_is_cut_into_words_not_characters(metrics: TextMetrics) -> None:
    found = metrics.of("北京大学", "北京天安门")  # one word and two: none in common; the characters 北 and 京 are
    assert found["rouge-1"] == 0
    found = metrics.of("我喜欢苹果", "我喜欢香蕉")  # 我 / 喜欢 / 苹果 against 我 / 喜欢 / 香蕉
    assert found["rouge-1"] == pytest.approx(100 * 2 / 3, abs=1e-3)


def test_bleu_counts_characters(metrics: TextMetrics) -> None:
    # 1- to 4-grams of characters: 4/5, 3/4, 2/3, 1/2; the same length, so no penalty
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert metrics.of("abcdf", "abcde")["bleu-4"] == pytest.approx(expected, abs=1e-4)


def test_bleu_smooths_orders_that_have_no_match_with_method_3(metrics: TextMetrics) -> None:
    # "abx" against "aby": 2/3, 1/2, then 0 of 1 and 0 of 1 (none): 1/2 and 1/4 in their place
    expected = 100 * (2 / 3 * 1 / 2 * 1 / 2 * 1 / 4) ** 0.25
    assert metrics.of("abx", "aby")["bleu-4"] == pytest.approx(expected, abs=1e-4)


def test_a_short_answer_pays_for_its_length(metrics: TextMetrics) -> None:
    from math import exp

    assert metrics.of("abcd", "abcdefgh")["bleu-4"] == pytest.approx(100 * exp(1 - 8 / 4), abs=1e-4)


@pytest.mark.parametrize(("predicted", "label"), [("", "a"), ("a", ""), (" \n", "a"), ("", "")])
def test_an_empty_side_counts_zero(metrics: TextMetrics, predicted: str, label: str) -> None:
    assert metrics.of(predicted, label) == dict.fromkeys(NAMES, 0.0)


@pytest.mark.parametrize("text", [".", "...", ". ."])
def test_dots_alone_have_no_words(metrics: TextMetrics, text: str) -> None:
    """rouge-chinese splits at dots and raises where nothing is left."""
    found = metrics.of(text, "a word")
    assert [found[name] for name in NAMES[1:]] == [0.0, 0.0, 0.0]


def test_the_mean_is_over_rows_each_rounded() -> None:
    found = mean_metrics([("abcdf", "abcde"), ("same", " same "), ("", "x")])
    one = round(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, 4)
    same = TextMetrics().of("same", " same ")["bleu-4"]
    assert found["bleu-4"] == pytest.approx((one + same) / 3, abs=1e-4)
    assert found["exact_match_percent"] == pytest.approx(100 / 3, abs=1e-3)
    assert mean_metrics([]) == {}


def test_the_packages_are_quiet_and_load_only_when_used() -> None:
    code = (
        "import sys; from tunesmith.evaluate import text_metrics as t; assert 'jieba' not in sys.modules; "
        "print(t.TextMetrics().of('我是', '我是')['rouge-1'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "100.0\n"
    assert done.stderr == ""
