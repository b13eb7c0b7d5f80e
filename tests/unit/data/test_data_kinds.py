"""From files to the examples of each stage: pieces, weights, cuts, accounts and refusals, one token per character."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from data_workspace import STOP_ID, CharacterRenderer, Workspace, many, qa

from tunesmith.data.kinds.feedback import DESIRABLE, mismatched
from tunesmith.data.store import ExampleStore
from tunesmith.errors import DataError


def pieces(store: ExampleStore, index: int = 0) -> list[str]:
    """The pieces of an example as text, `|` for the stop token."""
    ids, _ = store.example(index)
    text = "".join("|" if token == STOP_ID else chr(token) for token in ids)
    borders = np.cumsum([0, *store.piece_lengths(index)])
    return [text[start:end] for start, end in pairwise(borders)]


def weights(store: ExampleStore, index: int = 0) -> list[float]:
    return store.example(index)[1].tolist()


def pair(question: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"prompt": question, "chosen": chosen, "rejected": rejected, **more}


def pairs(count: int) -> list[dict[str, Any]]:
    return [pair(f"question {index}", f"good {index}", f"bad {index}") for index in range(count)]


def labelled(question: str, answer: str, label: Any) -> dict[str, Any]:
    return {"prompt": question, "completion": answer, "label": label}


def labels(count: int) -> list[dict[str, Any]]:
    return [labelled(f"question {index}", f"answer {index}", index % 2 == 0) for index in range(count)]


class TestPairs:
    def test_the_prompt_stands_once_before_both_answers(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [pair("ask", "good", "no")])
        store = workspace.prepare("a.jsonl", stage="dpo").train
        assert pieces(store) == ["ask|", "good|", "no|"]
        assert weights(store) == [0.0] * 4 + [1.0] * 5 + [1.0] * 3
        assert store.num_sequences(0) == 2

    def test_earlier_answers_are_context(self, workspace: Workspace) -> None:
        turns = [
            {"role": "user", "content": "q1"},
            {"role": "assistant", "content": "a1"},
            {"role": "user", "content": "q2"},
        ]
        answers = {name: [*turns, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
        workspace.write("a.jsonl", [answers])
        store = workspace.prepare("a.jsonl", stage="rm").train
        assert pieces(store) == ["q1|a1|q2|", "chosen|", "rejected|"]
        assert store.num_trained_tokens == len("chosen|rejected|")

    def test_answers_that_begin_alike_are_two_branches_from_their_first_token_on(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [pair("q", "same start, good", "same start, bad")])
        assert pieces(workspace.prepare("a.jsonl", stage="dpo").train)[0] == "q|"

    def test_each_answer_is_cut_for_itself(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [pair("q", "0123456789", "no")])
        prepared = workspace.prepare("a.jsonl", stage="dpo", cutoff_len=6, min_stop_fraction=0)
        assert pieces(prepared.train) == ["q|", "0123", "no|"]
        (counts,) = prepared.ledger.files
        assert (counts.num_cut, counts.num_cut_tokens) == (1, 7)
        totals = prepared.ledger.totals["train"]
        assert (totals.num_turns, totals.num_stops) == (2, 1)

    def test_missing_stops_are_refused_as_for_sft(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [pair(f"q{index}", "a" * 50, "no") for index in range(10)])
        with pytest.raises(DataError, match="only 10 of 20 trained turns") as caught:
            workspace.prepare("a.jsonl", stage="dpo", cutoff_len=20)
        assert "10 rows are cut; the longest has 54 tokens" in caught.value.why
        workspace.prepare("a.jsonl", stage="dpo", cutoff_len=54)

    @pytest.mark.parametrize(
        ("row", "reason", "needed"),
        [
            (pair("q" * 30, "good", "bad"), "`chosen` answer lies beyond cutoff_len", 36),
            (pair("q", "0123456789" * 3 + "x", "0123456789" * 3 + "y"),
             "`rejected` is equal to `chosen` within cutoff_len", 34),
        ],
        ids=["prompt too long", "equal by the cut"],
    )  # fmt: skip
    def test_a_pair_that_the_cut_makes_useless_is_bad_and_says_which_limit_it_needs(
        self, workspace: Workspace, row: dict[str, Any], reason: str, needed: int
    ) -> None:
        workspace.write("a.jsonl", [*pairs(3), row])
        with pytest.raises(DataError) as caught:
            workspace.prepare("a.jsonl", stage="dpo", cutoff_len=20)
        assert f"a.jsonl:4: {reason}" in caught.value.why
        assert f"cutoff_len: {needed}" in caught.value.fix
        assert len(workspace.prepare("a.jsonl", stage="dpo", cutoff_len=needed).train) == 4

    def test_a_pair_of_one_answer_is_a_bad_row(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [*pairs(3), pair("q", "a", "a")])
        with pytest.raises(DataError) as caught:
            workspace.prepare("a.jsonl", stage="dpo")
        assert caught.value.render() == (
            "error: 1 of 4 rows of data/a.jsonl cannot be trained on (unset, on_bad_row allows 1% of a file)\n"
            "where: data/a.jsonl:4\n"
            "why:   data/a.jsonl:4: `rejected` is the same answer as `chosen`\n"
            "do:    a pair of equal answers teaches nothing; remove the row\n"
            "       or set `on_bad_row: drop`: they are left out and listed in ledger.jsonl"
        )

    def test_answers_that_the_template_writes_alike_are_a_bad_row(self, workspace: Workspace) -> None:
        class Stripping(CharacterRenderer):
            """Writes answers without the space around them, as many templates do."""

            def examples(self, conversation: Any, policy: Any) -> Any:
                messages = tuple(replace(message, content=message.content.strip()) for message in conversation.messages)
                return super().examples(replace(conversation, messages=messages), policy)

        workspace.renderer = Stripping()
        workspace.write("a.jsonl", [*pairs(3), pair("q", "a", " a\n")])
        with pytest.raises(DataError) as caught:
            workspace.prepare("a.jsonl", stage="dpo")
        assert "a.jsonl:4: `rejected` has the same tokens as `chosen` in this template" in caught.value.why

    def test_an_answer_with_a_weight_is_refused(self, workspace: Workspace) -> None:
        good = {"role": "assistant", "content": "a", "weight": 0}
        bad = {"role": "assistant", "content": "b"}
        workspace.write(
            "a.jsonl", [{"prompt": [{"role": "user", "content": "q"}], "chosen": [good], "rejected": [bad]}]
        )
        with pytest.raises(DataError) as caught:
            workspace.prepare("a.jsonl", stage="dpo")
        assert "`chosen` has the weight 0, but it is judged, not weighed" in caught.value.why

    def test_a_pair_the_other_way_round_is_no_duplicate(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [pair("q", "a", "b"), pair("q", "b", "a"), pair("q", "a", "b")])
        ledger = workspace.prepare("a.jsonl", stage="dpo").ledger
        assert [entry.ref.line for entry in ledger.entries] == [3]

    def test_a_thought_before_one_answer_only_leaves_it_out_of_the_shared_prompt(self, workspace: Workspace) -> None:
        class Thinking(CharacterRenderer):
            """Writes an untrained `~` before answers that begin with `x`, as templates do with an empty thought."""

            def examples(self, conversation: Any, policy: Any) -> Any:
                (example,) = super().examples(conversation, policy)
                if not conversation.messages[-1].content.startswith("x"):
                    return [example]
                start = example.spans[-1].start
                ids = (*example.input_ids[:start], ord("~"), *example.input_ids[start:])
                loss = (*example.weights[:start], 0.0, *example.weights[start:])
                return [type(example)(ids, loss, example.spans, example.num_turns, example.num_stops, example.ref)]

        workspace.renderer = Thinking()
        workspace.write("a.jsonl", [pair("q", "x1", "y1")])
        store = workspace.prepare("a.jsonl", stage="dpo").train
        assert pieces(store) == ["q|", "~x1|", "y1|"]
        assert weights(store) == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]


class TestFeedback:
    def test_the_answer_of_the_next_row_is_the_third_piece(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [labelled("p", "one", True), labelled("q", "two", False), labelled("r", "3", True)])
        store = workspace.prepare("a.jsonl", stage="kto").train
        assert [pieces(store, index) for index in range(3)] == [
            ["p|", "one|", "two|"],
            ["q|", "two|", "3|"],
            ["r|", "3|", "one|"],
        ]
        assert weights(store) == [0.0] * 2 + [1.0] * 8
        assert store.per_example[DESIRABLE].tolist() == [1.0, 0.0, 1.0]

    def test_an_answer_to_the_same_prompt_is_passed_over(self, workspace: Workspace) -> None:
        rows = [("p", "a1"), ("p", "a2"), ("p", "a3"), ("q", "b1"), ("q", "b2"), ("p", "a4")]
        workspace.write("a.jsonl", [labelled(*row, index % 2 == 0) for index, row in enumerate(rows)])
        store = workspace.prepare("a.jsonl", stage="kto").train
        assert mismatched(store, "train") == [3, 3, 3, 5, 5, 3]

    def test_where_all_prompts_are_one_the_next_answer_is_taken(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [labelled("p", f"a{index}", index == 0) for index in range(3)])
        store = workspace.prepare("a.jsonl", stage="kto").train
        assert mismatched(store, "train") == [1, 2, 0]

    def test_rows_held_out_take_their_third_piece_among_themselves(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", labels(30))
        prepared = workspace.prepare("a.jsonl", stage="kto", val_size=10)
        for store in (prepared.train, prepared.evals[""]):
            answers = {pieces(store, index)[1] for index in range(len(store))}
            assert {pieces(store, index)[2] for index in range(len(store))} == answers

    def test_the_accounts_count_the_own_answer_only(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", labels(4))
        totals = workspace.prepare("a.jsonl", stage="kto").ledger.totals["train"]
        assert (totals.num_trained_tokens, totals.num_turns) == (4 * len("answer 0|"), 4)
        assert totals.max_length == len("question 0|answer 0|")

    def test_no_sequence_is_longer_than_the_limit(self, workspace: Workspace) -> None:
        rows = [labelled("q" * (1 + index), "a" * (20 - index), index % 2 == 0) for index in range(18)]
        workspace.write("a.jsonl", rows)
        store = workspace.prepare("a.jsonl", stage="kto", cutoff_len=20, min_stop_fraction=0).train
        for index in range(len(store)):
            prompt, *branches = store.piece_lengths(index)
            assert max(prompt + branch for branch in branches) <= 20
            assert min(branches) >= 1

    @pytest.mark.parametrize(("label", "other"), [(True, "false"), (False, "true")])
    def test_one_sided_labels_are_refused(self, workspace: Workspace, label: bool, other: str) -> None:
        workspace.write("a.jsonl", [labelled(f"q{index}", "a", label) for index in range(5)])
        with pytest.raises(DataError) as caught:
            workspace.prepare("a.jsonl", stage="kto")
        assert f"all 5 rows to train on are labelled {str(label).lower()}" in caught.value.what
        assert "contrast of both" in caught.value.why
        assert f"add rows labelled {other}" in caught.value.fix
        assert ("stage: sft" in caught.value.fix) == label

    def test_a_single_row_has_no_other_answer(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", labels(5))
        with pytest.raises(DataError) as caught:
            workspace.prepare("a.jsonl", stage="kto", val_size=1)
        assert caught.value.what == "there is just one row to evaluate on"
        assert "val_size" in caught.value.fix

    def test_the_same_answer_with_the_other_label_is_no_duplicate(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [labelled("q", "a", True), labelled("q", "a", False), labelled("q", "a", True)])
        ledger = workspace.prepare("a.jsonl", stage="kto").ledger
        assert [entry.ref.line for entry in ledger.entries] == [3]


class TestDocuments:
    def test_a_document_is_learned_whole_with_its_end(self, workspace: Workspace) -> None:
        workspace.write("a.txt", "abc\nde\n")
        store = workspace.prepare("a.txt", stage="pt").train
        assert [pieces(store, index) for index in range(2)] == [["abc|"], ["de|"]]
        assert weights(store) == [0.0, 1.0, 1.0, 1.0]  # nothing predicts the first token

    def test_the_start_token_stands_before_the_text_and_takes_no_token_away(self, workspace: Workspace) -> None:
        workspace.renderer.text_start_id = ord("^")
        workspace.write("a.txt", "abcdefg\n")
        store = workspace.prepare("a.txt", stage="pt", cutoff_len=5).train
        assert [pieces(store, index) for index in range(3)] == [["^abcd"], ["^defg"], ["^g|"]]
        assert [weights(store, index) for index in range(3)] == [
            [0.0] + [1.0] * 4,
            [0.0, 0.0] + [1.0] * 3,
            [0.0, 0.0, 1.0],
        ]

    @pytest.mark.parametrize("start", [None, ord("^")])
    @pytest.mark.parametrize("cutoff_len", [2, 3, 5, 16, 17, 64])
    def test_every_token_of_a_document_is_predicted_exactly_once(
        self, workspace: Workspace, start: int | None, cutoff_len: int
    ) -> None:
        workspace.renderer.text_start_id = start
        texts = ["".join(chr(97 + (index + place) % 26) for place in range(length)) for index, length in
                 enumerate((1, 2, 3, 4, 15, 16, 17, 31, 32, 33, 63, 64))]  # fmt: skip
        workspace.write("a.txt", "\n".join(texts))
        store = workspace.prepare("a.txt", stage="pt", cutoff_len=cutoff_len).train
        assert store.lengths.max() <= cutoff_len
        learned: dict[int, str] = {}
        for index in range(len(store)):
            ids, loss = store.example(index)
            new = "".join("|" if token == STOP_ID else chr(token) for token in ids[loss > 0])
            learned[store.ref(index).index] = learned.get(store.ref(index).index, "") + new
        first = 0 if start is not None else 1
        assert learned == {index: (text + "|")[first:] for index, text in enumerate(texts)}

    def test_the_ledger_says_into_how_many_chunks(self, workspace: Workspace) -> None:
        workspace.write("a.txt", "short\n" + "x" * 100 + "\n")
        prepared = workspace.prepare("a.txt", stage="pt", cutoff_len=20)
        (counts,) = prepared.ledger.files
        assert (counts.num_whole, counts.num_cut, counts.num_split) == (2, 0, 1)
        totals = prepared.ledger.totals["train"]
        assert (totals.num_rows, totals.num_examples, totals.num_turns, totals.num_stops) == (2, 7, 2, 2)
        (entry,) = prepared.ledger.entries
        assert (entry.ref.line, entry.to_json()["num_chunks"]) == (2, 6)
        assert "split: 1 long documents into 6 chunks of at most cutoff_len tokens; no token is lost" in "\n".join(
            prepared.ledger.summary_lines()
        )

    def test_chunks_of_a_document_stay_on_one_side(self, workspace: Workspace) -> None:
        workspace.write("a.txt", "\n".join(f"{index:02d}" * 40 for index in range(20)))
        prepared = workspace.prepare("a.txt", stage="pt", cutoff_len=20, val_size=5)
        sides = [
            {store.ref(index).line for index in range(len(store))} for store in (prepared.train, prepared.evals[""])
        ]
        assert [len(side) for side in sides] == [15, 5]
        assert not sides[0] & sides[1]

    def test_a_tokenizer_without_an_end_token_is_refused_in_words(self, workspace: Workspace) -> None:
        workspace.renderer = CharacterRenderer(has_end=False)
        workspace.write("a.txt", "abc\nde\n")
        with pytest.raises(DataError) as caught:
            workspace.prepare("a.txt", stage="pt")
        assert "the tokenizer names no end token, so none of the 2 documents would end" in caught.value.what
        assert pieces(workspace.prepare("a.txt", stage="pt", min_stop_fraction=0).train) == ["abc"]

    def test_placeholders_in_documents_are_text(self, workspace: Workspace) -> None:
        workspace.write("a.txt", "{{name}}\n")
        prepared = workspace.prepare("a.txt", stage="pt", identity_name="Amy")
        assert pieces(prepared.train) == ["{{name}}|"]

    def test_questions_and_answers_are_refused(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", many(3))
        with pytest.raises(DataError) as caught:
            workspace.prepare("a.jsonl", stage="pt")
        assert "questions with one answer each" in caught.value.what
        assert "never see the answers" in caught.value.why


class TestPrompts:
    def test_nothing_is_trained_and_the_columns_are_kept(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [qa("ask", "42", level=3)])
        prepared = workspace.prepare("a.jsonl", stage="grpo")
        assert pieces(prepared.train) == ["ask|"]
        assert weights(prepared.train) == [0.0] * 4
        assert prepared.train.rows == (
            {
                "instruction": "ask", "input": "", "output": "42", "level": 3,
                "messages": [{"role": "user", "content": "ask"}], "response": "42",
            },
        )  # fmt: skip
        assert prepared.ledger.totals["train"].num_turns == 0

    def test_a_column_called_response_is_left_as_it_is(self, workspace: Workspace) -> None:
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        workspace.write("a.jsonl", [{"messages": turns, "response": "mine"}, {"messages": turns}])
        rows = workspace.prepare("a.jsonl", stage="ppo").train.rows
        assert rows is not None
        assert [row["response"] for row in rows] == ["mine", "a"]
        assert rows[0]["messages"] == turns[:1]

    def test_a_prompt_beyond_the_limit_is_not_cut_but_left_out(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [{"prompt": "short"}, {"prompt": "x" * 30}])
        with pytest.raises(DataError) as caught:
            workspace.prepare("a.jsonl", stage="ppo", cutoff_len=20)
        assert "a.jsonl:2: the prompt is longer than cutoff_len" in caught.value.why
        assert "cutoff_len: 31" in caught.value.fix
        assert len(workspace.prepare("a.jsonl", stage="ppo", cutoff_len=20, on_bad_row="drop").train) == 1

    def test_registered_rows_need_no_column_of_answers(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [{"instruction": "q", "input": ""}])
        workspace.register(d={"file_name": "a.jsonl"})
        assert pieces(workspace.prepare("d", stage="ppo").train) == ["q|"]

    def test_rows_of_a_split_go_with_their_examples(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [{"prompt": f"q{index}", "answer": index} for index in range(20)])
        prepared = workspace.prepare("a.jsonl", stage="grpo", val_size=5)
        for store in (prepared.train, prepared.evals[""]):
            assert store.rows is not None
            assert [pieces(store, index) for index in range(len(store))] == [
                [f"q{row['answer']}|"] for row in store.rows
            ]

    def test_distillation_reads_conversations_and_on_request_prompts(self, workspace: Workspace) -> None:
        from tunesmith.config import Config
        from tunesmith.data.prepare import prepare

        workspace.write("a.jsonl", [qa("ask", "42")])
        config = Config(stage="gkd", dataset=("a.jsonl",))
        off_policy = prepare(config, workspace.renderer, workspace.folder, need_eval=False)
        on_policy = prepare(config, workspace.renderer, workspace.folder, need_eval=False, kind="prompt")
        assert pieces(off_policy.train) == ["ask|42|"]
        assert pieces(on_policy.train) == ["ask|"]


STAGE_ROWS: dict[str, tuple[str, Any]] = {
    "pt": ("a.txt", "\n".join(f"document {index} " * (1 + index % 7) for index in range(40))),
    "sft": ("a.jsonl", many(40)),
    "dpo": ("a.jsonl", pairs(40)),
    "rm": ("a.jsonl", pairs(40)),
    "kto": ("a.jsonl", labels(40)),
    "ppo": ("a.jsonl", [{"prompt": f"question {index}"} for index in range(40)]),
    "grpo": ("a.jsonl", [{"prompt": f"question {index}", "answer": index} for index in range(40)]),
    "gkd": ("a.jsonl", many(40)),
}


@pytest.mark.parametrize("stage", STAGE_ROWS)
class TestEveryStage:
    def prepare(self, workspace: Workspace, stage: str, **settings: Any) -> Any:
        name, content = STAGE_ROWS[stage]
        workspace.write(name, content)
        return workspace.prepare(name, stage=stage, **settings)

    def test_the_examples_are_the_same_every_time_and_in_the_order_of_the_file(
        self, workspace: Workspace, stage: str
    ) -> None:
        one, other = (self.prepare(workspace, stage, cutoff_len=30, val_size=7) for _ in range(2))
        assert one.fingerprint == other.fingerprint
        assert one.train.content_hash() == other.train.content_hash()
        places = [one.train.ref(index).index for index in range(len(one.train))]
        assert places == sorted(places)
        assert self.prepare(workspace, stage, cutoff_len=30, val_size=7, seed=1).fingerprint != one.fingerprint

    def test_every_row_is_accounted_for(self, workspace: Workspace, stage: str) -> None:
        name, content = STAGE_ROWS[stage]
        lines = content.splitlines() if isinstance(content, str) else [json.dumps(row) for row in content]
        if stage != "pt":  # a line of text is never broken
            lines[7], lines[20] = '{"broken', '{"other": 1}'
        lines[30] = lines[29]
        workspace.write(name, "\n".join(lines))
        prepared = workspace.prepare(name, stage=stage, on_bad_row="drop", val_size=5, cutoff_len=60)
        (counts,) = prepared.ledger.files
        assert counts.num_rows == 40 == counts.num_whole + counts.num_cut + counts.num_dropped
        assert (counts.num_dropped, counts.num_duplicates) == (0 if stage == "pt" else 2, 1)
        totals = prepared.ledger.totals
        assert totals["train"].num_rows + totals["eval"].num_rows == counts.num_whole + counts.num_cut

    def test_equal_rows_stay_on_one_side(self, workspace: Workspace, stage: str) -> None:
        name, content = STAGE_ROWS[stage]
        repeated = "\n".join([content] * 3) if isinstance(content, str) else content * 3
        workspace.write(name, repeated)
        prepared = workspace.prepare(name, stage=stage, val_size=30)
        assert prepared.ledger.num_held_out == 30
        sides = [
            {store.ref(index).index % 40 for index in range(len(store))}
            for store in (prepared.train, prepared.evals[""])
        ]
        assert [len(side) for side in sides] == [30, 10]
        assert not sides[0] & sides[1]

    def test_duplicates_may_be_dropped(self, workspace: Workspace, stage: str) -> None:
        name, content = STAGE_ROWS[stage]
        workspace.write(name, "\n".join([content] * 2) if isinstance(content, str) else content * 2)
        prepared = workspace.prepare(name, stage=stage, on_duplicate="drop")
        assert prepared.ledger.totals["train"].num_rows == 40
