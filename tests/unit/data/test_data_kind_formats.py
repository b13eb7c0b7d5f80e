"""Pairs, labelled answers, documents and prompts as each format writes them, and in which words others are refused."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.data.fit import check_stage, format_of, kinds_of, recognise
from tunesmith.data.formats import default_layouts
from tunesmith.data.kinds import KINDS, STAGE_KIND, KindName
from tunesmith.data.rows import Row, RowError
from tunesmith.data.schema import DatasetEntry, parse_entry
from tunesmith.errors import DataError
from tunesmith.types import Conversation, Feedback, Message, Preference, Prompt, RowRef, Text, TrainingRow


def entry(formatting: str = "alpaca", **more: Any) -> DatasetEntry:
    raw = {"file_name": "x.json", "formatting": formatting, **more}
    return parse_entry("d", raw, "dataset_info.json", default_layouts())


def read(kind: KindName, fields: dict[str, Any], layout: DatasetEntry, file: str = "x.json") -> TrainingRow:
    return KINDS[kind].read(Row(RowRef("d", file, 1, 0), fields), layout, format_of(layout))


def refusal(kind: KindName, fields: dict[str, Any], layout: DatasetEntry, file: str = "x.json") -> RowError:
    with pytest.raises(RowError) as caught:
        read(kind, fields, layout, file)
    return caught.value


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def bot(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


ALPACA_PAIRS = entry(
    ranking=True,
    columns={"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected", "system": "system"},
)
SHAREGPT_PAIRS = entry(
    "sharegpt", ranking=True, columns={"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
)
OPENAI_PAIRS = entry(
    "openai", ranking=True, columns={"messages": "messages", "chosen": "chosen", "rejected": "rejected"}
)
QUESTION = Message("user", "q")
GOOD, BAD = Message("assistant", "good"), Message("assistant", "bad")


class TestPairs:
    @pytest.mark.parametrize(
        ("layout", "row"),
        [
            (ALPACA_PAIRS, {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"}),
            (SHAREGPT_PAIRS, {"conversations": [human("q")], "chosen": gpt("good"), "rejected": gpt("bad")}),
            (OPENAI_PAIRS, {"messages": [user("q")], "chosen": bot("good"), "rejected": bot("bad")}),
            (OPENAI_PAIRS, {"messages": [user("q")], "chosen": [bot("good")], "rejected": [bot("bad")]}),
            (OPENAI_PAIRS, {"messages": [user("q")], "chosen": "good", "rejected": "bad"}),
        ],
        ids=["alpaca", "sharegpt", "openai", "openai, lists of one", "openai, texts"],
    )
    def test_each_format_reads_prompt_and_answers(self, layout: DatasetEntry, row: dict[str, Any]) -> None:
        pair = read("preference", row, layout)
        assert isinstance(pair, Preference)
        assert (pair.prompt, pair.chosen, pair.rejected) == ((QUESTION,), GOOD, BAD)

    def test_the_prompt_may_have_a_system_text_and_earlier_turns(self) -> None:
        turns = [{"from": "system", "value": "s"}, human("q1"), gpt("a1"), human("q2")]
        pair = read(
            "preference", {"conversations": turns, "chosen": gpt("good"), "rejected": gpt("bad")}, SHAREGPT_PAIRS
        )
        assert isinstance(pair, Preference)
        assert [message.role for message in pair.prompt] == ["system", "user", "assistant", "user"]

    def test_two_whole_conversations_share_what_comes_before_their_last_turn(self) -> None:
        layout = entry("openai", columns={"chosen": "chosen", "rejected": "rejected"})
        opening = [{"role": "system", "content": "s"}, user("q1"), bot("a1"), user("q2")]
        pair = read("preference", {"chosen": [*opening, bot("good")], "rejected": [*opening, bot("bad")]}, layout)
        assert isinstance(pair, Preference)
        assert [message.content for message in pair.prompt] == ["s", "q1", "a1", "q2"]
        assert (pair.chosen, pair.rejected) == (GOOD, BAD)

    def test_two_conversations_that_part_earlier_are_refused_at_the_turn(self) -> None:
        layout = entry("openai", columns={"chosen": "chosen", "rejected": "rejected"})
        row = {
            "chosen": [user("q"), bot("a"), user("q2"), bot("good")],
            "rejected": [user("q"), bot("b"), user("q2"), bot("bad")],
        }
        error = refusal("preference", row, layout)
        assert (error.field, error.why) == ("rejected[1]", "is not `chosen[1]`, though another turn follows")
        assert "differ in their last turn only" in error.fix

    @pytest.mark.parametrize(
        ("layout", "row", "field", "why"),
        [
            (ALPACA_PAIRS, {"instruction": "q", "chosen": "a"}, "rejected", "is missing"),
            (ALPACA_PAIRS, {"instruction": "q", "chosen": None, "rejected": "b"}, "chosen", "is null"),
            (ALPACA_PAIRS, {"instruction": "q", "chosen": " ", "rejected": "b"}, "chosen", "is empty"),
            (ALPACA_PAIRS, {"instruction": "q", "chosen": ["a"], "rejected": "b"}, "chosen", "is a list, expected"),
            (ALPACA_PAIRS, {"instruction": "q", "chosen": "a", "rejected": "a"}, "rejected", "is the same answer as"),
            (ALPACA_PAIRS, {"instruction": "", "chosen": "a", "rejected": "b"}, "instruction", "is empty"),
            (SHAREGPT_PAIRS, {"conversations": [human("q"), gpt("a")], "chosen": gpt("x"), "rejected": gpt("y")},
             "conversations[1]", "is an answer, but the answers of the row stand in columns of their own"),
            (SHAREGPT_PAIRS, {"conversations": [human("q")], "chosen": human("x"), "rejected": gpt("y")},
             "chosen", "is a turn of the user, expected the assistant's"),
            (SHAREGPT_PAIRS, {"conversations": [human("q")], "chosen": gpt(""), "rejected": gpt("y")},
             "chosen", "is empty"),
            (SHAREGPT_PAIRS, {"conversations": [human("q")], "chosen": {"from": "x", "value": "y"}, "rejected": {}},
             "chosen.from", "no known speaker"),
            (OPENAI_PAIRS, {"messages": [user("q")], "chosen": [bot("x"), user("y")], "rejected": [bot("z")]},
             "chosen", "holds 2 messages, expected one answer"),
            (OPENAI_PAIRS, {"messages": [user("q")], "chosen": [], "rejected": [bot("z")]},
             "chosen", "holds 0 messages, expected one answer"),
        ],
    )  # fmt: skip
    def test_an_unusable_pair_is_refused_by_its_field(
        self, layout: DatasetEntry, row: dict[str, Any], field: str, why: str
    ) -> None:
        error = refusal("preference", row, layout)
        assert error.field == field
        assert why in error.why

    def test_a_system_message_counts_when_a_turn_is_named_by_its_place(self) -> None:
        turns = [{"from": "system", "value": "s"}, human("q"), gpt("a")]
        row = {"conversations": turns, "chosen": gpt("x"), "rejected": gpt("y")}
        assert refusal("preference", row, SHAREGPT_PAIRS).field == "conversations[2]"

    def test_pairs_without_their_columns_are_caught_for_the_whole_dataset(self) -> None:
        layout = entry("sharegpt", ranking=True)
        with pytest.raises(DataError) as caught:
            format_of(layout).check(layout, [{"conversations": [human("q")], "chosen": gpt("a"), "rejected": gpt("b")}])
        assert "which column holds the chosen" in caught.value.what
        assert '"chosen": "COLUMN"' in caught.value.fix

    def test_wrong_tags_are_seen_although_a_prompt_has_no_answer_turn(self) -> None:
        tags = {"role_tag": "from", "content_tag": "value", "user_tag": "user", "assistant_tag": "assistant"}
        columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
        layout = entry("sharegpt", ranking=True, columns=columns, tags=tags)
        with pytest.raises(DataError) as caught:
            format_of(layout).check(layout, [{"conversations": [human("q")], "chosen": gpt("a"), "rejected": gpt("b")}])
        assert '"user_tag": "human", "assistant_tag": "gpt"' in caught.value.fix


ALPACA_LABELS = entry(columns={"prompt": "instruction", "response": "output", "kto_tag": "label"})


class TestFeedback:
    @pytest.mark.parametrize(
        ("layout", "row"),
        [
            (ALPACA_LABELS, {"instruction": "q", "output": "good", "label": True}),
            (
                entry("openai", columns={"messages": "messages", "kto_tag": "label"}),
                {"messages": [user("q"), bot("good")], "label": True},
            ),
            (
                entry("openai", columns={"messages": "prompt", "response": "completion", "kto_tag": "label"}),
                {"prompt": [user("q")], "completion": [bot("good")], "label": True},
            ),
            (
                entry("sharegpt", columns={"messages": "conversations", "kto_tag": "label"}),
                {"conversations": [human("q"), gpt("good")], "label": True},
            ),
        ],
        ids=["alpaca", "openai", "openai, answer apart", "sharegpt"],
    )
    def test_each_format_reads_prompt_answer_and_verdict(self, layout: DatasetEntry, row: dict[str, Any]) -> None:
        feedback = read("feedback", row, layout)
        assert isinstance(feedback, Feedback)
        assert (feedback.prompt, feedback.answer, feedback.desirable) == ((QUESTION,), GOOD, True)

    @pytest.mark.parametrize(
        ("label", "why"),
        [(1, "is 1, expected true or false"), ("true", "is 'true', expected"), (None, "is null, expected"),
         ([True], "is a list, expected")],
    )  # fmt: skip
    def test_a_verdict_that_is_not_true_or_false_is_refused(self, label: Any, why: str) -> None:
        error = refusal("feedback", {"instruction": "q", "output": "a", "label": label}, ALPACA_LABELS)
        assert error.field == "label"
        assert why in error.why

    def test_a_missing_verdict_is_refused(self) -> None:
        assert refusal("feedback", {"instruction": "q", "output": "a"}, ALPACA_LABELS).why == "is missing"

    def test_a_csv_file_writes_its_verdicts_as_text(self) -> None:
        for text, verdict in (("True", True), ("false", False)):
            row = {"instruction": "q", "output": "a", "label": text}
            feedback = read("feedback", row, ALPACA_LABELS, "x.csv")
            assert isinstance(feedback, Feedback)
            assert feedback.desirable is verdict
        row = {"instruction": "q", "output": "a", "label": "yes"}
        assert "'yes'" in refusal("feedback", row, ALPACA_LABELS, "x.csv").why


class TestDocumentsAndPrompts:
    def test_a_document_is_the_prompt_column_and_the_query_behind_it(self) -> None:
        text = read("text", {"text": "one"}, entry(columns={"prompt": "text"}))
        assert isinstance(text, Text)
        assert text.text == "one"
        both = read("text", {"title": "one", "body": "two"}, entry(columns={"prompt": "title", "query": "body"}))
        assert isinstance(both, Text)
        assert both.text == "one\ntwo"

    @pytest.mark.parametrize(
        ("row", "why"), [({"text": " \n"}, "is empty"), ({"text": 3}, "is a number"), ({"other": ""}, "is missing")]
    )
    def test_a_document_without_text_is_refused(self, row: dict[str, Any], why: str) -> None:
        assert why in refusal("text", row, entry(columns={"prompt": "text"})).why

    def test_a_prompt_ends_with_the_last_question_and_keeps_the_answer_and_the_columns_apart(self) -> None:
        row = {"instruction": "q", "input": "", "output": "42", "level": 3}
        prompt = read("prompt", row, entry())
        assert isinstance(prompt, Prompt)
        assert (prompt.messages, prompt.answer) == ((QUESTION,), Message("assistant", "42"))
        assert prompt.fields == row

    def test_a_prompt_needs_no_answer(self) -> None:
        layout = entry(columns={"prompt": "instruction", "response": "output"})
        for row in ({"instruction": "q"}, {"instruction": "q", "output": ""}, {"instruction": "q", "output": None}):
            prompt = read("prompt", row, layout)
            assert isinstance(prompt, Prompt)
            assert (prompt.messages, prompt.answer) == ((QUESTION,), None)
        alone = read("prompt", {"messages": [user("q")]}, entry("openai"))
        assert isinstance(alone, Prompt)
        assert (alone.messages, alone.answer) == ((QUESTION,), None)


# name, a row as it stands in files that nobody registered, its format, the columns read, what it is first of all
UNREGISTERED: list[tuple[str, dict[str, Any], str, dict[str, str | None], KindName]] = [
    ("texts", {"prompt": "q", "chosen": "a", "rejected": "b"}, "alpaca", {"prompt": "prompt"}, "preference"),
    ("system and question", {"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, "alpaca",
     {"prompt": "question", "system": "system"}, "preference"),
    ("message lists", {"prompt": [user("q")], "chosen": [bot("a")], "rejected": [bot("b")]}, "openai",
     {"messages": "prompt", "chosen": "chosen"}, "preference"),
    ("whole conversations", {"chosen": [user("q"), bot("a")], "rejected": [user("q"), bot("b")]}, "openai",
     {"messages": None, "chosen": "chosen"}, "preference"),
    ("whole conversations beside the prompt",
     {"prompt": "q", "chosen": [user("q"), bot("a")], "rejected": [user("q"), bot("b")], "score_chosen": 8.0},
     "openai", {"messages": None, "prompt": None}, "preference"),
    ("from and value", {"conversations": [human("q")], "chosen": gpt("a"), "rejected": gpt("b")}, "sharegpt",
     {"messages": "conversations"}, "preference"),
    ("labelled texts", {"prompt": "q", "completion": "a", "label": False}, "alpaca",
     {"prompt": "prompt", "response": "completion", "kto_tag": "label"}, "feedback"),
    ("labelled messages", {"messages": [user("q"), bot("a")], "label": True}, "openai",
     {"messages": "messages", "kto_tag": "label"}, "feedback"),
    ("labelled lists", {"prompt": [user("q")], "completion": [bot("a")], "label": True}, "openai",
     {"messages": "prompt", "response": "completion"}, "feedback"),
    ("documents", {"text": "t", "url": "u"}, "alpaca", {"prompt": "text"}, "text"),
    ("prompts", {"prompt": "q", "level": 1}, "alpaca", {"prompt": "prompt", "response": None}, "prompt"),
    ("prompt lists", {"prompt": [user("q")], "solution": "42"}, "openai", {"messages": "prompt"}, "prompt"),
    ("an answer apart", {"prompt": [user("q")], "completion": [bot("a")]}, "openai",
     {"messages": "prompt", "response": "completion"}, "conversation"),
]  # fmt: skip


class TestRecognition:
    @pytest.mark.parametrize(
        ("row", "formatting", "columns", "kind"), [case[1:] for case in UNREGISTERED], ids=[c[0] for c in UNREGISTERED]
    )
    def test_rows_that_nobody_registered_are_recognised_and_read(
        self, row: dict[str, Any], formatting: str, columns: dict[str, str | None], kind: KindName
    ) -> None:
        found = recognise("rows.jsonl", [row], kind)
        check_stage(found, kind, KINDS[kind].stages[0], [row])
        assert found.formatting == formatting
        assert {part: getattr(found.columns, part) for part in columns} == columns
        format_of(found).check(found, [row])
        types = {"preference": Preference, "feedback": Feedback, "text": Text, "prompt": Prompt}
        assert isinstance(read(kind, row, found), types.get(kind, Conversation))

    def test_documents_with_other_columns_are_documents_for_pretraining_only(self) -> None:
        row = {"instruction": "q", "output": "a", "text": "q a"}
        assert recognise("x", [row], "text").columns.prompt == "text"
        assert recognise("x", [row], "conversation").columns.response == "output"

    def test_pairs_without_a_known_prompt_column_say_what_to_register(self) -> None:
        with pytest.raises(DataError) as caught:
            recognise("x", [{"chosen": "Human: q Assistant: a", "rejected": "Human: q Assistant: b"}], "preference")
        assert '"columns": {"prompt": "COLUMN", "chosen": "chosen"' in caught.value.fix


PLAIN, DOCUMENTS = entry(), entry(columns={"prompt": "text"})
LAYOUTS = {"conversation": PLAIN, "preference": ALPACA_PAIRS, "feedback": ALPACA_LABELS, "text": DOCUMENTS}


class TestStages:
    def test_every_stage_has_a_kind(self) -> None:
        assert STAGE_KIND == {
            "pt": "text", "sft": "conversation", "gkd": "conversation", "rm": "preference", "dpo": "preference",
            "kto": "feedback", "ppo": "prompt", "grpo": "prompt",
        }  # fmt: skip

    @pytest.mark.parametrize("stage", STAGE_KIND)
    @pytest.mark.parametrize("made_for", LAYOUTS)
    def test_a_dataset_fits_its_stages_and_is_refused_by_the_others_with_those(
        self, stage: str, made_for: KindName
    ) -> None:
        layout, kind = LAYOUTS[made_for], STAGE_KIND[stage]
        fits = {"conversation": ("conversation", "prompt"), "text": ("text", "prompt")}.get(made_for, (made_for,))
        assert kinds_of(layout) == fits
        if kind in fits:
            check_stage(layout, kind, stage)
            return
        with pytest.raises(DataError) as caught:
            check_stage(layout, kind, stage)
        assert KINDS[made_for].holds in caught.value.what
        assert f"`stage: {stage}` cannot learn from" in caught.value.what
        assert f"it fits stage {KINDS[made_for].stages[0]}" in caught.value.fix

    def test_pairs_for_sft_and_the_reverse_read_like_this(self) -> None:
        with pytest.raises(DataError) as caught:
            check_stage(ALPACA_PAIRS, "conversation", "sft")
        assert caught.value.render() == (
            "error: dataset 'd' holds pairs of a better and a worse answer, which `stage: sft` cannot learn from\n"
            "where: dataset_info.json, d\n"
            "why:   it would train on the worse answers as on the better ones, or on no answer at all\n"
            "do:    it fits stage rm or dpo; `stage: sft` needs a dataset of questions and answers, "
            "or of conversations"
        )
        with pytest.raises(DataError) as caught:
            check_stage(PLAIN, "preference", "dpo")
        assert caught.value.render() == (
            "error: dataset 'd' holds questions with one answer each, which `stage: dpo` cannot learn from\n"
            "where: dataset_info.json, d\n"
            "do:    it fits stage sft, gkd, ppo or grpo; `stage: dpo` needs "
            'a dataset of pairs ("ranking": true, with the columns chosen and rejected)'
        )

    @pytest.mark.parametrize(
        ("kind", "stage", "row", "said"),
        [
            ("preference", "dpo", {"instruction": "q", "chosen": "a", "rejected": "b"}, '"ranking": true'),
            ("feedback", "kto", {"instruction": "q", "output": "a", "good": True}, '"kto_tag": "good"'),
            ("text", "pt", {"text": "t"}, '"columns": {"prompt": "text"}'),
        ],
    )
    def test_an_entry_that_is_silent_about_columns_of_the_rows_is_told_what_to_add(
        self, kind: KindName, stage: str, row: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(DataError) as caught:
            check_stage(PLAIN, kind, stage, [row])
        assert said in caught.value.fix
