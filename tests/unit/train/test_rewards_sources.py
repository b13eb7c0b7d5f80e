"""Rewards without own code: patterns, answers, JSON, ends, lengths; and how the names of a list become sources."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from reward_samples import REF, sample

from tunesmith.errors import ConfigError, DataError
from tunesmith.train.rewards.answers import as_number, is_right
from tunesmith.train.rewards.combine import Rewards, short_labels
from tunesmith.train.rewards.sources import open_source


def score(name: str, completion: str, **details) -> float:
    return open_source(name, ()).score([sample(completion, **details)])[0]


RIGHT = [
    ("6 * 7 = 42.", "42"),
    ("= 42.", "42"),
    ("There were 12, then 42 apples", "42.0"),
    ("1 + 1 is 2. The answer is 42 apples, of 3 kinds", "42"),
    ("**Answer:** 42\nI checked it 2 times.", "42"),
    ("<think>no, 41? 40?</think>it must be 42", "42"),
    ("I get \\boxed{42}, not 41", "42"),
    ("I get \\boxed{\\frac{1}{2}} of 3", "0.5"),
    ("<answer> 1,000 </answer> (see page 7)", "1000"),
    ("so\n#### 1000\n", "He has 400 + 600 = 1000.\n#### 1,000"),
    ("costs $3.50", "3.5"),
    ("50%", "50"),
    ("½", ".5"),
    ("it is −7", "-7"),
    ("10-3", "3"),
    ("5e3", "5000"),
    ("0.1", "1/10"),
    ("答案是４２。", "42"),
    ("答案：42\n检查了3次", "42"),
    ("The capital is\n  Paris.", "paris"),
    ('The answer is "New  York".', "new york"),
    ("(B)", "B"),
    ("a\nb", "A\nB"),
    ("...", "..."),
]
WRONG = [
    ("42, no: 43", "42"),
    ("", "42"),
    ("forty-two", "42"),
    ("0.1", "0.10000000000000001"),
    ("0.50", "50%"),
    ("-42", "42"),
    ("x" * 5000 + "9" * 5000, "42"),
    ("1/0", "42"),
    ("Not Paris, London", "Paris"),
    ("", "..."),
    ("b", "a\nb"),
]


@pytest.mark.parametrize(("completion", "expected"), RIGHT)
def test_a_right_answer_is_recognised_in_its_many_forms(completion: str, expected: str) -> None:
    assert is_right(completion, expected)


@pytest.mark.parametrize(("completion", "expected"), WRONG)
def test_a_wrong_answer_is_not(completion: str, expected: str) -> None:
    assert not is_right(completion, expected)


def test_a_number_is_read_only_when_the_text_is_nothing_else() -> None:
    assert as_number("1,234.50") == as_number("1234.5") is not None
    assert [as_number(text) for text in ("12 apples", "", "1,23", "nan", "inf", "1/0", "--1")] == [None] * 7


def test_the_right_answer_is_looked_for_in_the_named_column_else_in_answer_else_in_the_rows_own_answer() -> None:
    assert score("exact:solution", "it is 4", fields={"solution": 4, "answer": 5}) == 1.0
    assert score("exact", "it is 5", fields={"answer": "5", "response": "6"}) == 1.0
    assert score("exact", "it is 6", fields={"response": "6"}) == 1.0
    assert score("exact", "it is 6", fields={"answer": ["5", 6.0]}) == 1.0
    assert score("exact", "it is 6", fields={"answer": ["5", "7"]}) == 0.0


@pytest.mark.parametrize("value", [None, True, "", " ", {"a": 1}, [], ["a", None]])
def test_a_row_without_a_usable_answer_is_named(value) -> None:
    with pytest.raises(DataError, match=r"is no answer") as caught:
        open_source("exact", ()).check_row({"answer": value}, REF)
    assert caught.value.where == "data/rows.json:7, column 'answer'"


def test_a_row_without_the_column_is_named_with_the_nearest_one() -> None:
    with pytest.raises(DataError) as caught:
        open_source("exact:anwser", ()).check_row({"answer": 1, "question": "?"}, REF)
    assert "data/rows.json:7" in caught.value.render()
    assert "Did you mean 'answer'?" in caught.value.render()


def test_a_pattern_is_found_anywhere_or_must_be_everything() -> None:
    assert score(r"regex:<b>\d{1,3}</b>", "so <b>42</b>!") == 1.0
    assert score(r"regex:<b>\d{1,3}</b>", "so <b>4242</b>!") == 0.0
    assert score(r"fullmatch:<b>.+</b>", " <b>4\n2</b>\n") == 1.0
    assert score(r"fullmatch:<b>\d+</b>", "so <b>42</b>") == 0.0
    assert score("regex:a:b", "a:b") == 1.0


def test_json_is_the_whole_answer_or_one_block_and_nothing_else() -> None:
    for text in ('{"a": 1}', " [1, 2]\n", "null", '```json\n{"a": 1}\n```', '```\n{"a": 1}\n```\n'):
        assert score("json", text) == 1.0, text
    for text in ("", "{'a': 1}", 'Here: {"a": 1}', '{"a": 1} {"b": 2}', "NaN", '{"a": Infinity}', "[" * 100_000):
        assert score("json", text) == 0.0, text


def test_equal_json_has_the_same_values_in_any_order_and_writing() -> None:
    expected = {"total": 3, "items": [{"n": 1.0, "ok": True}]}
    for column in (expected, json.dumps(expected)):
        fields = {"answer": column}
        assert score("json_equal", '{"items": [{"ok": true, "n": 1}], "total": 3.0}', fields=fields) == 1.0
        assert score("json_equal", '{"items": [{"ok": 1, "n": 1}], "total": 3}', fields=fields) == 0.0
        assert score("json_equal", '{"items": [], "total": 3}', fields=fields) == 0.0
        assert score("json_equal", '{"items": [{"ok": true, "n": 1}]}', fields=fields) == 0.0
        assert score("json_equal", "three", fields=fields) == 0.0
    with pytest.raises(DataError, match="no JSON"):
        open_source("json_equal", ()).check_row({"answer": "three"}, REF)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}


def test_a_schema_accepts_or_refuses_the_answer(tmp_path) -> None:
    (tmp_path / "person.json").write_text(json.dumps(SCHEMA))
    of_file = open_source("json_schema:person.json", (tmp_path / "elsewhere", tmp_path))
    cases = {'{"name": "Ada", "age": 3}': 1.0, '{"name": "Ada"}': 1.0, '{"age": 3}': 0.0, '{"name": 1}': 0.0}
    cases |= {'{"name": "Ada", "age": -1}': 0.0, '{"name": "Ada", "x": 1}': 0.0, "Ada": 0.0, "[]": 0.0}
    for text, expected in cases.items():
        assert of_file.score([sample(text)]) == [expected], text
        assert score("json_schema", text, fields={"schema": SCHEMA}) == expected
        assert score("json_schema:shape", text, fields={"shape": json.dumps(SCHEMA)}) == expected


def test_a_schema_that_is_none_is_refused_before_training(tmp_path) -> None:
    with pytest.raises(DataError, match="not valid"):
        open_source("json_schema", ()).check_row({"schema": {"type": "objekt"}}, REF)
    with pytest.raises(DataError, match="no JSON schema"):
        open_source("json_schema", ()).check_row({"schema": "3"}, REF)
    with pytest.raises(ConfigError, match="cannot be read"):
        open_source("json_schema:missing.json", (tmp_path,))


def test_a_schema_fetches_nothing() -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        schema = {"$ref": f"http://127.0.0.1:{server.server_port}/schema.json"}
        with pytest.raises(DataError, match="outside itself"):
            score("json_schema", "{}", fields={"schema": schema})
    finally:
        server.shutdown()
        server.server_close()
    assert asked == []


def test_an_answer_that_ended_by_itself_is_told_from_one_that_was_cut() -> None:
    assert (score("finished", "a", finished=True), score("finished", "a", finished=False)) == (1.0, 0.0)


def test_the_overlong_penalty_equals_that_of_trl() -> None:
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=8)
    lengths = list(range(30))
    source = open_source("overlong:20:8", ())
    ours = source.score([sample("", completion_ids=(1,) * n) for n in lengths])
    assert ours == pytest.approx(theirs([[1] * n for n in lengths]), abs=1e-12)
    assert (min(ours), max(ours)) == (-1.0, 0.0)


UNUSABLE = {
    "regex:(": "no regular expression",
    "regex": "is no reward",
    "exakt": "Did you mean 'exact'",
    "3}</b>": "YAML list",
    "overlong:20": "two numbers",
    "overlong:8:20": "smaller margin",
    "overlong:8:0": "smaller margin",
    "missing.py:reward": "no reward file",
    "no_such_package.rewards:f": "no module 'no_such_package'",
    "json:x y": "is no reward",
    "finished:0.5": "is no reward",
    "regex:": "is no reward",
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_name_that_is_no_reward_is_refused_with_the_way_out(name: str, tmp_path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_source(name, (tmp_path,))
    assert UNUSABLE[name] in caught.value.render()


def test_logs_call_a_file_or_folder_by_its_last_part_where_that_is_clear() -> None:
    names = ["/data/rewards.py:brevity", "saves/reward", r"regex:</b>\d", "http://127.0.0.1:1/score", "exact"]
    assert short_labels(names) == ("rewards.py:brevity", "reward", names[2], names[3], "exact")
    assert short_labels(["a/r.py:f", "b/r.py:f"]) == ("a/r.py:f", "b/r.py:f")


def test_sources_are_summed_with_their_weights_and_kept_apart() -> None:
    rewards = Rewards([open_source("finished", ()), open_source("regex:x", ())], [2.0, -0.5])
    scored = rewards.score([sample("x", finished=True), sample("x", finished=False), sample("", finished=True)])
    assert scored.totals == [1.5, -0.5, 2.0]
    assert scored.by_source == {"finished": [1.0, 0.0, 1.0], "regex:x": [1.0, 1.0, 0.0]}
    assert scored.means() == pytest.approx({"finished": 2 / 3, "regex:x": 2 / 3})
    unweighted = Rewards([open_source("finished", ()), open_source("regex:x", ())])
    assert unweighted.score([sample("x", finished=True)]).totals == [2.0]
    assert (rewards.score([]).totals, rewards.score([]).means()) == ([], {})


def test_weights_must_be_as_many_as_rewards_and_names_different() -> None:
    sources = [open_source("finished", ()), open_source("json", ())]
    with pytest.raises(ConfigError, match="3 numbers for 2 rewards: finished, json"):
        Rewards(sources, [1, 2, 3])
    with pytest.raises(ConfigError, match="json is named twice"):
        Rewards([*sources, open_source("json", ())])
