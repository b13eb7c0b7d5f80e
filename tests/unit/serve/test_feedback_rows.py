"""Votes, edits and choices as training rows: every record accounted for, and rows that our own data layer trains on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_model
from tests.training import history, run_training

from tunesmith.cli.feedback import run
from tunesmith.errors import ConfigError, DataError
from tunesmith.serve.feedback import Account, make_rows, read_verdicts
from tunesmith.serve.feedback_files import entry_of

GOOD, BAD, WRITTEN = "It is four.", "It is five.", "4"


def record(kind: str, question: str = "2+2?", answer: str = GOOD, **more: Any) -> dict[str, Any]:
    """One line as the web chat writes it."""
    return {
        "kind": kind,
        "time": "2026-01-01T00:00:00+00:00",
        "model": "tuned",
        "sampling": {"temperature": 0.5},
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": question}],
        "answer": {"role": "assistant", "content": answer},
        **more,
    }


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def up(question: str = "2+2?", answer: str = GOOD) -> dict[str, Any]:
    return record("vote", question, answer, vote="up")


def down(question: str = "2+2?", answer: str = BAD) -> dict[str, Any]:
    return record("vote", question, answer, vote="down")


def edit(question: str = "2+2?", answer: str = BAD, text: str = WRITTEN) -> dict[str, Any]:
    return record("edit", question, answer, edited=says(text))


def choice(question: str = "2+2?", better: str = GOOD, worse: str = BAD) -> dict[str, Any]:
    return record("choice", question, better, rejected=says(worse), rejected_model="base")


def write(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records), encoding="utf-8")
    return path


def account_of(tmp_path: Path, aim: str, *records: dict[str, Any]) -> Account:
    account = make_rows(read_verdicts(write(tmp_path / "f.jsonl", records)), aim)  # type: ignore[arg-type]
    assert len(account.used | set(account.unused)) == len(records), "every record is accounted for"
    return account


def answers(account: Account) -> list[tuple[str, bool]]:
    return [(row["messages"][-1]["content"], row["kto_tag"]) for row in account.rows]


def pairs(account: Account) -> list[tuple[str, str]]:
    return [(row["chosen"]["content"], row["rejected"]["content"]) for row in account.rows]


def test_a_vote_is_a_row_of_kto_with_its_whole_conversation(tmp_path: Path) -> None:
    account = account_of(tmp_path, "kto", up(), down())
    assert answers(account) == [(GOOD, True), (BAD, False)]
    assert [turn["role"] for turn in account.rows[0]["messages"]] == ["system", "user", "assistant"]


def test_an_edit_is_a_good_answer_and_a_bad_one(tmp_path: Path) -> None:
    assert answers(account_of(tmp_path, "kto", edit())) == [(WRITTEN, True), (BAD, False)]
    assert pairs(account_of(tmp_path, "dpo", edit())) == [(WRITTEN, BAD)]
    liked = account_of(tmp_path, "kto", up(answer=BAD), edit())
    assert answers(liked) == [(BAD, True), (WRITTEN, True)], "an answer that was liked is not made a bad one"


def test_a_choice_is_a_pair(tmp_path: Path) -> None:
    account = account_of(tmp_path, "dpo", choice())
    assert pairs(account) == [(GOOD, BAD)]
    assert entry_of(account.rows, "dpo", "f.jsonl")["ranking"] is True
    assert answers(account_of(tmp_path, "kto", choice())) == [(GOOD, True), (BAD, False)]


def test_votes_on_answers_to_one_question_are_paired_each_at_least_once(tmp_path: Path) -> None:
    votes = [up(answer="a"), down(answer="x"), up(answer="b"), up(answer="c"), down(answer="y")]
    account = account_of(tmp_path, "dpo", *votes)
    assert pairs(account) == [("a", "x"), ("b", "y"), ("c", "x")]


def test_votes_on_different_questions_are_no_pair(tmp_path: Path) -> None:
    account = account_of(tmp_path, "dpo", up("one?"), down("two?"))
    assert account.rows == []
    assert account.reasons() == {
        "no answer to the same conversation has a thumb down": 1,
        "no answer to the same conversation has a thumb up": 1,
    }


def test_a_later_vote_replaces_an_earlier_one(tmp_path: Path) -> None:
    account = account_of(tmp_path, "kto", up(), record("vote", vote="down"))
    assert answers(account) == [(GOOD, False)]
    assert account.reasons() == {"replaced by a later verdict on the same answer": 1}
    gone = account_of(tmp_path, "kto", up(), record("vote", vote="none"))
    assert gone.rows == []
    assert sum(gone.reasons().values()) == 2


def test_sft_takes_what_people_liked_or_wrote(tmp_path: Path) -> None:
    account = account_of(tmp_path, "sft", up("one?"), down("two?"), up("2+2?", BAD), edit(), choice("three?"))
    assert [row["messages"][-1]["content"] for row in account.rows] == [GOOD, WRITTEN, GOOD]
    assert sum(account.reasons().values()) == 2


def test_a_thought_stands_inside_the_text_of_a_row(tmp_path: Path) -> None:
    thinking = record("vote", vote="up")
    thinking["answer"]["reasoning_content"] = "2 and 2"
    (row,) = account_of(tmp_path, "sft", thinking).rows
    assert row["messages"][-1] == says(f"<think>\n2 and 2\n</think>\n\n{GOOD}")


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "f.jsonl", [up(), {"kind": "party"}])
    with pytest.raises(ConfigError, match=r"f\.jsonl:2 is no vote"):
        read_verdicts(file)


def feedback(tmp_path: Path, aim: str, records: Sequence[dict[str, Any]], *more: str) -> Path:
    out = tmp_path / "data"
    file = write(tmp_path / "votes.jsonl", records)
    assert run([str(file), "--as", aim, "--out", str(out), *more]) == 0
    return out


def test_the_registry_keeps_its_other_entries(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    registry = tmp_path / "data" / "dataset_info.json"
    registry.write_text('{"中文": {"file_name": "rows.json"}}', encoding="utf-8")
    out = feedback(tmp_path, "kto", [up(), down()])
    feedback(tmp_path, "dpo", [edit()])
    feedback(tmp_path, "kto", [up(), down(), edit()])
    entries = json.loads(registry.read_text(encoding="utf-8"))
    assert list(entries) == ["中文", "feedback_kto", "feedback_dpo"]
    assert entries["中文"] == {"file_name": "rows.json"}
    assert len((out / "feedback_kto.jsonl").read_text(encoding="utf-8").splitlines()) == 3, "a second time replaces"


def test_somebody_elses_dataset_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    registry = tmp_path / "data" / "dataset_info.json"
    registry.write_text('{"feedback_kto": {"file_name": "mine.json"}}', encoding="utf-8")
    with pytest.raises(DataError, match="another dataset named"):
        feedback(tmp_path, "kto", [up()])
    (tmp_path / "data" / "other.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="not registered"):
        feedback(tmp_path, "kto", [up()], "--name", "other")


def test_the_account_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feedback(tmp_path, "kto", [up(), down(), record("vote", answer=BAD, vote="down")])
    printed = capsys.readouterr().out
    assert "3 records -> 2 rows for kto; 1 records unused" in printed
    assert "1 x replaced by a later verdict" in printed


def test_nothing_usable_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row to write"):
        feedback(tmp_path, "dpo", [up()])


@pytest.mark.parametrize("arguments", [[], ["f"], ["f", "--as", "rm", "--out", "d"], ["f", "--as", "kto"]])
def test_a_wrong_command_line_shows_the_right_one(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="--as kto"):
        run(arguments)


@pytest.mark.parametrize("aim", ["kto", "dpo", "sft"])
def test_the_rows_train(tmp_path: Path, aim: str) -> None:
    questions = [f"What is {number} plus {number}?" for number in range(4)]
    records = [item for text in questions for item in (up(text), down(text))]
    out = feedback(tmp_path, aim, [*records, edit("2+2?")])
    tiny_model(tmp_path / "model")
    run_dir = run_training(
        tmp_path, dataset=f"feedback_{aim}", dataset_dir=out, stage=aim, max_steps=1, num_train_epochs=1
    )
    assert len(history(run_dir, "loss")) == 1


def test_rows_with_tool_calls_train_as_openai_messages(tmp_path: Path) -> None:
    calling = record("vote", vote="up")
    function = {"name": "add", "arguments": '{"a": 2}'}
    calling["answer"] = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    calling["tools"] = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}]
    out = feedback(tmp_path, "sft", [calling])
    entry = json.loads((out / "dataset_info.json").read_text(encoding="utf-8"))["feedback_sft"]
    assert entry["formatting"] == "openai"
    assert entry["columns"]["tools"] == "tools"
    row = json.loads((out / "feedback_sft.jsonl").read_text(encoding="utf-8"))
    assert row["messages"][-1]["tool_calls"][0]["function"] == function
    assert json.loads(row["tools"])[0]["name"] == "add"
    tiny_model(tmp_path / "model")
    settings = {"dataset": "feedback_sft", "dataset_dir": out, "template": "qwen", "cutoff_len": 512}
    run_dir = run_training(tmp_path, max_steps=1, num_train_epochs=1, **settings)
    assert len(history(run_dir, "loss")) == 1
