"""Rewards from Python functions: how they are found, what they are given, what is said when they fail."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from reward_samples import REF, sample

from tunesmith.errors import ConfigError, DataError, TrainingError
from tunesmith.train.rewards.function import FunctionReward, load_function
from tunesmith.types import RowRef

SAMPLES = [
    sample("one", fields={"answer": "1", "level": 3}, finished=True, ref=RowRef("rows", "rows.json", 1, 0)),
    sample("three", fields={"answer": "3"}, finished=False, ref=RowRef("rows", "rows.json", 9, 1)),
]


def write(folder: Path, text: str, name: str = "rewards.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


def failure(function, samples=SAMPLES) -> TrainingError:
    with pytest.raises(TrainingError) as caught:
        FunctionReward(function, "rewards.py:f").score(samples)
    return caught.value


def test_a_function_of_a_file_is_found_beside_the_training_file_first(tmp_path) -> None:
    (tmp_path / "near").mkdir()
    write(tmp_path / "near", "def f(completions): return [1] * len(completions)")
    write(tmp_path, "def f(completions): return [2] * len(completions)")
    near = load_function("rewards.py:f", (tmp_path / "near", tmp_path))
    assert near.score(SAMPLES) == [1.0, 1.0]
    assert near.name == "rewards.py:f"
    assert load_function("rewards.py:f", (tmp_path / "none", tmp_path)).score(SAMPLES) == [2.0, 2.0]
    assert load_function(f"{tmp_path / 'rewards.py'}:f", (Path("/"),)).score(SAMPLES) == [2.0, 2.0]


def test_a_file_may_import_its_neighbour_and_leaves_the_search_path_alone(tmp_path) -> None:
    write(tmp_path, "VALUE = 4", "neighbour_of_rewards.py")
    write(tmp_path, "from neighbour_of_rewards import VALUE\ndef f(prompts, **rest): return [VALUE] * len(prompts)")
    before = list(sys.path)
    assert load_function("rewards.py:f", (tmp_path,)).score(SAMPLES) == [4.0, 4.0]
    assert sys.path == before


def test_a_function_of_an_installed_module_is_found_by_its_name() -> None:
    reward = load_function("reward_samples:lengths", ())
    assert (reward.name, reward.score(SAMPLES)) == ("reward_samples:lengths", [3.0, 5.0])


def test_a_function_is_given_what_it_names_and_everything_when_it_takes_everything() -> None:
    given = {}

    def named(completions, answer, *, finished, unknown="default"):
        given.update(named=(completions, answer, finished, unknown))
        return [0, 0]

    def everything(**columns):
        given.update(columns)
        return [0, 0]

    FunctionReward(named, "f").score(SAMPLES)
    assert given["named"] == (["one", "three"], ["1", "3"], [True, False], "default")
    FunctionReward(everything, "f").score(SAMPLES)
    assert given["level"] == [3, None]
    assert given["prompts"] == [SAMPLES[0].prompt_text, SAMPLES[1].prompt_text]
    assert (given["prompt_ids"], given["completion_ids"]) == ([[1, 10, 11, 2]] * 2, [[12, 13, 2]] * 2)


def test_a_column_cannot_take_the_place_of_the_completions() -> None:
    reward = FunctionReward(lambda completions: [len(text) for text in completions], "f")
    assert reward.score([sample("four", fields={"completions": "a much longer text"})]) == [4.0]


def test_a_function_written_for_trl_works_unchanged() -> None:
    from trl.rewards import get_soft_overlong_punishment

    reward = FunctionReward(get_soft_overlong_punishment(max_completion_len=4, soft_punish_cache=2), "trl")
    assert reward.score([sample("a", completion_ids=(1,) * n) for n in (1, 3, 9)]) == [0.0, -0.5, -1.0]


@pytest.mark.parametrize(
    "values", [[1, True], (1, 1.0), np.array([1, 1.0]), torch.ones(2), [np.float32(1), torch.tensor(1)]]
)
def test_numbers_of_any_kind_are_numbers(values) -> None:
    scores = FunctionReward(lambda **_: values, "f").score(SAMPLES)
    assert scores == [1.0, 1.0]
    assert [type(score) for score in scores] == [float, float]


@pytest.mark.parametrize(
    ("value", "shown"), [(math.nan, "nan"), (-math.inf, "-inf"), (None, "None"), ("1", "'1'"), (1j, "1j"), ([1], "[1]")]
)
def test_a_value_that_is_no_finite_number_names_function_row_and_completion(value, shown: str) -> None:
    error = failure(lambda **_: [1.0, value])
    assert error.what == f"reward function rewards.py:f returned {shown}, which is no finite number"
    assert error.where == 'rows.json:9; completion "three"'
    assert error.exit_code == 2


@pytest.mark.parametrize("value", [torch.tensor(math.nan), np.float64("inf"), torch.ones(2)])
def test_the_numbers_of_libraries_are_held_to_the_same(value) -> None:
    assert "no finite number" in failure(lambda **_: [1.0, value]).what


def test_a_wrong_number_of_values_is_refused() -> None:
    assert failure(lambda **_: [1.0]).what.endswith("returned 1 numbers for 2 completions")
    assert failure(lambda **_: [1.0] * 3).what.endswith("returned 3 numbers for 2 completions")
    assert "NoneType" in failure(lambda **_: None).what
    assert "without `return`" in failure(lambda **_: None).why
    assert "float in place of a list" in failure(lambda **_: 0.5).what
    assert "dict in place of a list" in failure(lambda **_: {"a": 1, "b": 2}).what


def test_an_asynchronous_function_is_refused() -> None:
    async def f(**_):
        return [1.0, 1.0]

    assert "asynchronous" in failure(f).what


def test_a_function_that_raises_is_shown_with_its_line_the_row_and_the_shortened_completion(tmp_path) -> None:
    write(tmp_path, "def f(completions, **_):\n    return [1 / (len(text) - 400) for text in completions]\n")
    reward = load_function("rewards.py:f", (tmp_path,))
    long = sample("word " * 80, ref=RowRef("rows", "rows.json", 9, 1))
    with pytest.raises(TrainingError) as caught:
        reward.score([SAMPLES[0], long, SAMPLES[0]])
    error = caught.value
    assert error.what == "reward function rewards.py:f raised ZeroDivisionError: division by zero"
    assert error.where.startswith(f"{tmp_path / 'rewards.py'}:2; rows.json:9; completion")
    assert "word wo ... rd word" in error.where
    assert len(error.where) < len(str(tmp_path)) + 300
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_a_function_that_raises_on_the_whole_batch_only_says_so() -> None:
    def f(completions):
        if len(completions) > 1:
            raise KeyError("batch")
        return [0.0]

    assert "no completion alone makes it raise" in failure(f).where


def test_a_missing_column_is_named_before_training_and_an_optional_one_is_not() -> None:
    reward = FunctionReward(lambda completions, anwser, level=None: [], "rewards.py:f")
    with pytest.raises(DataError) as caught:
        reward.check_row({"answer": 1, "question": "?"}, REF)
    assert "column 'anwser'" in caught.value.what
    assert "Did you mean 'answer'?" in caught.value.fix
    FunctionReward(lambda completions, answer, level=None: [], "f").check_row({"answer": 1}, REF)


BROKEN_FILES = {
    "def f(:": "SyntaxError",
    "import no_such_package": "No module named 'no_such_package'",
    "1 / 0": "ZeroDivisionError",
    "def g(**_): return []": "It has: g",
    "f = 3": "is no function",
}


@pytest.mark.parametrize("text", BROKEN_FILES)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(text: str, tmp_path) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_function("rewards.py:f", (tmp_path,))
    assert BROKEN_FILES[text] in caught.value.render()
    if text in ("def f(:", "1 / 0"):
        assert f"{tmp_path / 'rewards.py'}:1" in caught.value.where


def test_a_file_that_is_nowhere_is_refused_with_the_places_looked_at(tmp_path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_function("rewards.py:f", (tmp_path / "a", tmp_path / "b"))
    assert str(tmp_path / "a" / "rewards.py") in caught.value.where
    assert str(tmp_path / "b" / "rewards.py") in caught.value.where


def test_a_function_that_cannot_be_called_by_keyword_is_refused() -> None:
    with pytest.raises(ConfigError, match="by position only"):
        FunctionReward(lambda completions, /: [], "f")


def test_no_samples_call_nothing() -> None:
    assert FunctionReward(lambda **_: 1 / 0, "f").score([]) == []
