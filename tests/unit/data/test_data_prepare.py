"""Preparing a run's data: accounts, bad rows, cutting, duplicates, splitting, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_workspace import STOP_ID, CharacterRenderer, Workspace, many, qa

from tunesmith.data.prepare import Prepared
from tunesmith.errors import DataError


def dropped_lines(prepared: Prepared) -> list[int]:
    return [entry.ref.line for entry in prepared.ledger.dropped()]


def text_of(prepared: Prepared, index: int) -> str:
    ids, _ = prepared.train.example(index)
    return "".join("|" if token == STOP_ID else chr(token) for token in ids)


# A defect of each kind: what stands on its line of a JSON Lines file.
DEFECTS = {
    "broken JSON": '{"instruction": "q", "output": "a"',
    "not an object": '["q", "a"]',
    "answer missing": '{"instruction": "q"}',
    "answer empty": '{"instruction": "q", "output": ""}',
    "answer of a wrong type": '{"instruction": "q", "output": ["a"]}',
    "prompt empty": '{"instruction": "", "input": "", "output": "a"}',
    "answer beyond the limit": json.dumps({"instruction": "long " * 60, "output": "a"}),
}


class TestBadRows:
    def test_each_of_seven_planted_defects_of_each_kind_is_listed_by_its_line(self, workspace: Workspace) -> None:
        lines = [json.dumps(row) for row in many(1000)]
        planted = {}
        for kind_number, (kind, text) in enumerate(DEFECTS.items()):
            for repeat in range(7):
                number = 17 + 130 * repeat + 11 * kind_number
                lines[number - 1] = text
                planted[number] = kind
        assert len(planted) == 49
        workspace.write("rows.jsonl", "\n".join(lines))
        prepared = workspace.prepare("rows.jsonl", on_bad_row="drop", cutoff_len=200)
        assert dropped_lines(prepared) == sorted(planted)
        assert all(entry.reason and entry.ref.file.endswith("rows.jsonl") for entry in prepared.ledger.dropped())
        (counts,) = prepared.ledger.files
        assert (counts.num_rows, counts.num_whole, counts.num_dropped) == (1000, 951, 49)
        assert len(prepared.train) == 951

    def test_unset_one_percent_of_a_file_may_be_bad(self, workspace: Workspace) -> None:
        rows = many(200)
        rows[5]["output"] = rows[150]["output"] = ""
        workspace.write("rows.jsonl", rows)
        assert dropped_lines(workspace.prepare("rows.jsonl")) == [6, 151]

    def test_unset_more_than_one_percent_is_refused_with_the_lines(self, workspace: Workspace) -> None:
        rows = many(200)
        for index in (5, 6, 150):
            rows[index]["output"] = ""
        workspace.write("rows.jsonl", rows)
        with pytest.raises(DataError) as caught:
            workspace.prepare("rows.jsonl")
        assert "3 of 200 rows of data/rows.jsonl" in caught.value.what
        for line in (6, 7, 151):
            assert f"data/rows.jsonl:{line}: `output` is empty" in caught.value.why
        assert "on_bad_row: drop" in caught.value.fix

    def test_the_share_is_counted_per_file(self, workspace: Workspace) -> None:
        workspace.write("parts/a.jsonl", many(1000))
        workspace.write("parts/b.jsonl", [*many(3), {"instruction": "q", "output": ""}])
        with pytest.raises(DataError, match=r"1 of 4 rows of data/parts/b.jsonl"):
            workspace.prepare("parts")

    def test_error_refuses_a_single_bad_row(self, workspace: Workspace) -> None:
        rows = many(1000)
        rows[5]["output"] = ""
        workspace.write("rows.jsonl", rows)
        with pytest.raises(DataError, match="1 of 1000 rows"):
            workspace.prepare("rows.jsonl", on_bad_row="error")

    def test_only_the_first_bad_rows_are_listed_and_the_rest_counted(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [*many(5), *[{"instruction": "q", "output": ""}] * 30])
        with pytest.raises(DataError, match="30 of 35") as caught:
            workspace.prepare("rows.jsonl")
        assert "and 20 more" in caught.value.why

    def test_a_row_that_the_renderer_refuses_is_a_bad_row_with_its_reason(self, workspace: Workspace) -> None:
        turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
        tools = json.dumps([{"name": "f", "description": "", "parameters": {}}])
        rows = [{"conversations": turns, "tools": tools if index == 3 else ""} for index in range(6)]
        workspace.write("rows.jsonl", rows)
        prepared = workspace.prepare("rows.jsonl", on_bad_row="drop")
        assert [(entry.ref.line, entry.reason) for entry in prepared.ledger.dropped()] == [
            (4, "tool turns are not rendered yet")
        ]

    def test_a_row_without_anything_to_train_is_a_bad_row(self, workspace: Workspace) -> None:
        def row(weight: int) -> dict[str, Any]:
            answer = {"role": "assistant", "content": "a", "weight": weight}
            return {"messages": [{"role": "user", "content": "q"}, answer]}

        workspace.write("rows.jsonl", [row(1), row(0), row(1)])
        prepared = workspace.prepare("rows.jsonl", on_bad_row="drop")
        assert dropped_lines(prepared) == [2]

    def test_a_broken_element_of_an_array_is_dropped_by_its_line(self, workspace: Workspace) -> None:
        lines = ["[", *[json.dumps(row) + "," for row in many(300)]]
        lines[-1] = lines[-1][:-1]
        lines[100] = lines[100].replace('"output": "', '"output": ', 1)
        workspace.write("rows.json", "\n".join([*lines, "]"]))
        assert dropped_lines(workspace.prepare("rows.json")) == [101]


class TestLedger:
    def test_every_row_is_accounted_for_once(self, workspace: Workspace) -> None:
        rows = [*many(20), qa("question 3", "answer 3"), qa("q", ""), qa("q", "x" * 400)]
        workspace.write("rows.jsonl", rows)
        prepared = workspace.prepare("rows.jsonl", on_bad_row="drop", cutoff_len=100, min_stop_fraction=0.5)
        (counts,) = prepared.ledger.files
        assert (counts.num_rows, counts.num_whole, counts.num_cut, counts.num_dropped) == (23, 21, 1, 1)
        assert counts.num_duplicates == 1
        assert counts.num_cut_tokens == len("q") + 1 + 400 + 1 - 100

    def test_a_lost_row_breaks_the_law(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", many(3))
        ledger = workspace.prepare("rows.jsonl").ledger
        ledger.count_input(ledger.entries[0].ref if ledger.entries else _ref(ledger.files[0]), "train")
        with pytest.raises(AssertionError, match="4 rows in, 3 accounted for"):
            ledger.check()

    def test_it_is_written_with_file_line_and_reason(self, workspace: Workspace, tmp_path: Path) -> None:
        workspace.write("rows.jsonl", [qa("q", "a"), qa("q", "a"), qa("q", ""), qa("q", "long " * 30)])
        prepared = workspace.prepare("rows.jsonl", on_bad_row="drop", cutoff_len=50, min_stop_fraction=0)
        prepared.ledger.write(tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text("utf-8").splitlines()]
        assert [(line["line"], line["outcome"]) for line in lines] == [(2, "whole"), (3, "dropped"), (4, "cut")]
        assert lines[0]["duplicate_of"] == "data/rows.jsonl:1"
        assert lines[1]["field"] == "output"
        assert lines[1]["reason"] == "is empty"
        assert lines[2]["num_cut_tokens"] == 2 + 150 + 1 - 50
        summary = json.loads((tmp_path / "ledger_summary.json").read_text("utf-8"))
        assert summary["files"][0]["num_rows"] == 4
        assert summary["totals"]["train"]["num_rows"] == 3
        assert summary["dropped_reasons"] == {"is empty": 1}
        assert summary["most_repeated"] == [{"row": "data/rows.jsonl:1", "num_times": 2}]

    def test_the_totals_are_those_of_the_examples(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("abc", "de"), qa("f", "ghij")])
        totals = workspace.prepare("rows.jsonl").ledger.totals["train"]
        assert (totals.num_rows, totals.num_tokens, totals.num_trained_tokens) == (2, 7 + 7, 3 + 5)
        assert (totals.num_turns, totals.num_stops, totals.max_length, totals.mean_length) == (2, 2, 7, 7.0)

    def test_the_summary_is_aligned_and_sums_up_several_files(self, workspace: Workspace) -> None:
        workspace.write("parts/a.jsonl", many(1200))
        workspace.write("parts/much_longer_name.jsonl", many(3))
        lines = workspace.prepare("parts").ledger.summary_lines()
        assert lines[0].split() == ["file", "rows", "in", "whole", "cut", "dropped", "duplicates"]
        assert len({len(line) for line in lines[:4]}) == 1
        assert lines[1].split() == ["data/parts/a.jsonl", "1,200", "1,200", "0", "0", "0"]
        assert lines[3].split() == ["all", "files", "1,203", "1,203", "0", "0", "3"]

    def test_the_most_repeated_row_is_named(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [*many(5), *[qa("你好", "皇上好")] * 101])
        lines = workspace.prepare("rows.jsonl").ledger.summary_lines()
        assert any("100 rows repeat an earlier one; most often data/rows.jsonl:6, 101 times" in line for line in lines)


def _ref(counts: Any) -> Any:
    from tunesmith.types import RowRef

    return RowRef(counts.dataset, counts.file, 1, 0)


class TestCutting:
    def test_the_head_is_kept_and_the_stop_token_is_missed(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("q", "0123456789")])
        prepared = workspace.prepare("rows.jsonl", cutoff_len=7, min_stop_fraction=0)
        assert text_of(prepared, 0) == "q|01234"
        assert prepared.ledger.totals["train"].num_stops == 0
        assert prepared.ledger.entries[0].num_cut_tokens == 6

    def test_context_behind_the_last_trained_token_is_stripped(self, workspace: Workspace) -> None:
        turns = [("human", "q1"), ("gpt", "a1"), ("human", "a long second question"), ("gpt", "a2")]
        messages = [{"from": role, "value": value} for role, value in turns]
        workspace.write("rows.jsonl", [{"conversations": messages}])
        prepared = workspace.prepare("rows.jsonl", cutoff_len=15)
        assert text_of(prepared, 0) == "q1|a1|"
        totals = prepared.ledger.totals["train"]
        assert (totals.num_turns, totals.num_stops) == (1, 1)
        assert prepared.ledger.files[0].num_cut == 1

    def test_a_row_of_exactly_the_limit_is_whole(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("q", "a" * 5)])
        assert workspace.prepare("rows.jsonl", cutoff_len=8).ledger.files[0].num_whole == 1

    def test_no_example_is_longer_than_the_limit(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("q" * (index % 9 + 1), "a" * (index + 1)) for index in range(60)])
        prepared = workspace.prepare("rows.jsonl", cutoff_len=20, min_stop_fraction=0)
        assert prepared.train.lengths.max() == 20
        assert (prepared.train.lengths > 0).all()

    def test_every_answer_longer_than_the_limit_is_refused_with_the_limit_to_set(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("q", "a" * (100 + index)) for index in range(10)])
        with pytest.raises(DataError) as caught:
            workspace.prepare("rows.jsonl", cutoff_len=50)
        assert "only 0 of 10 trained turns" in caught.value.what
        assert "10 rows are cut" in caught.value.why
        assert "cutoff_len: 112" in caught.value.fix
        workspace.prepare("rows.jsonl", cutoff_len=112)

    def test_every_prompt_longer_than_the_limit_is_refused_with_the_limit_to_set(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("q" * 100, "a")] * 3)
        with pytest.raises(DataError) as caught:
            workspace.prepare("rows.jsonl", cutoff_len=50)
        assert "answer lies beyond cutoff_len" in caught.value.why
        assert "cutoff_len: 103" in caught.value.fix

    def test_every_row_dropped_is_refused_too(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("q" * 100, "a")] * 3)
        with pytest.raises(DataError, match="no row is left"):
            workspace.prepare("rows.jsonl", cutoff_len=50, on_bad_row="drop")

    def test_stops_just_under_the_fraction_are_refused_and_at_the_fraction_accepted(self, workspace: Workspace) -> None:
        rows = many(100)
        rows[3]["output"] = "a" * 300
        workspace.write("rows.jsonl", rows)
        assert len(workspace.prepare("rows.jsonl", cutoff_len=100).train) == 100
        rows[4]["output"] = "b" * 300
        workspace.write("rows.jsonl", rows)
        with pytest.raises(DataError, match=r"98 of 100 trained turns \(98.0 %\)") as caught:
            workspace.prepare("rows.jsonl", cutoff_len=100)
        assert "min_stop_fraction: 0.98" in caught.value.fix
        workspace.prepare("rows.jsonl", cutoff_len=100, min_stop_fraction=0.98)

    def test_a_template_without_an_end_token_is_told_apart(self, workspace: Workspace) -> None:
        workspace.renderer = CharacterRenderer(has_end=False)
        workspace.write("rows.jsonl", many(10))
        with pytest.raises(DataError) as caught:
            workspace.prepare("rows.jsonl")
        assert "template has no end token" in caught.value.why
        assert "template" in caught.value.where
        workspace.prepare("rows.jsonl", min_stop_fraction=0)


class TestPolicies:
    def test_train_on_prompt_trains_every_token(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", many(3))
        store = workspace.prepare("rows.jsonl", train_on_prompt=True).train
        assert store.num_trained_tokens == store.num_tokens

    def test_mask_history_trains_the_last_answer_only(self, workspace: Workspace) -> None:
        messages = [{"from": role, "value": "xy"} for role in ("human", "gpt", "human", "gpt")]
        workspace.write("rows.jsonl", [{"conversations": messages}])
        assert workspace.prepare("rows.jsonl").train.num_trained_tokens == 6
        assert workspace.prepare("rows.jsonl", mask_history=True).train.num_trained_tokens == 3

    def test_max_samples_takes_the_first_rows_of_each_dataset_and_says_so(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", many(10))
        workspace.write("b.jsonl", many(3, lambda index: qa(f"b{index}", "x")))
        prepared = workspace.prepare("a.jsonl", "b.jsonl", max_samples=4)
        assert [text_of(prepared, index).split("|")[0] for index in range(7)] == [
            *(f"question {index}" for index in range(4)), "b0", "b1", "b2",
        ]  # fmt: skip
        assert [note for note in prepared.notes if "max_samples" in note] == [
            "a.jsonl: only the first 4 rows are taken (max_samples: 4)"
        ]

    def test_num_samples_takes_a_fixed_choice_of_rows(self, workspace: Workspace) -> None:
        workspace.write("rows.json", many(50))
        workspace.register(d={"file_name": "rows.json", "num_samples": 20})
        prepared = workspace.prepare("d")
        chosen = [prepared.train.ref(index).index for index in range(20)]
        assert len(prepared.train) == len(set(chosen)) == 20
        assert chosen != list(range(20))
        assert workspace.prepare("d").train.content_hash() == prepared.train.content_hash()
        assert workspace.prepare("d", seed=7).train.content_hash() != prepared.train.content_hash()

    def test_num_samples_above_the_number_of_rows_repeats_rows(self, workspace: Workspace) -> None:
        workspace.write("rows.json", many(4))
        workspace.register(d={"file_name": "rows.json", "num_samples": 10})
        prepared = workspace.prepare("d")
        times = np.bincount([prepared.train.ref(index).index for index in range(10)])
        assert sorted(times) == [2, 2, 3, 3]
        assert any("10 of 4 rows, 6 of them again" in note for note in prepared.notes)

    def test_name_and_author_are_filled_in(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("who?", "I am {{name}} by {{ author }}."), qa("q", "a")])
        prepared = workspace.prepare("rows.jsonl", identity_name="Amy", identity_author="Bo")
        assert text_of(prepared, 0) == "who?|I am Amy by Bo.|"
        assert "{{name}} is 'Amy' in 1 row" in prepared.notes

    def test_unset_placeholders_are_counted_and_mentioned(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("who?", f"I am {{{{name}}}} {index}.") for index in range(3)])
        prepared = workspace.prepare("rows.jsonl")
        assert "{{name}}" in text_of(prepared, 0)
        assert any(note.startswith("{{name}} stands in 3 rows and `name` is not set") for note in prepared.notes)

    def test_a_name_that_no_row_asks_for_is_mentioned(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", many(2))
        assert (
            "`name: Amy` is set, but no row holds {{name}}"
            in workspace.prepare("rows.jsonl", identity_name="Amy").notes
        )

    def test_no_dataset_is_an_error(self, workspace: Workspace) -> None:
        with pytest.raises(DataError, match="no dataset is named"):
            workspace.prepare()

    def test_an_empty_dataset_is_refused(self, workspace: Workspace) -> None:
        workspace.write("rows.json", "[]")
        with pytest.raises(DataError, match=r"'rows\.json' is empty"):
            workspace.prepare("rows.json")

    def test_tags_of_the_second_tutorial_are_caught_before_anything_is_dropped(self, workspace: Workspace) -> None:
        turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
        workspace.write("dataset_name.json", [{"conversations": turns, "system": "s", "tools": ""}] * 91)
        workspace.register(
            dataset_name={
                "file_name": "dataset_name.json",
                "formatting": "sharegpt",
                "columns": {"messages": "conversations", "system": "system", "tools": "tools"},
                "tags": {
                    "role_tag": "from",
                    "content_tag": "value",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                },
            }
        )
        with pytest.raises(DataError) as caught:
            workspace.prepare("dataset_name", on_bad_row="drop")
        assert "'human' (91x), 'gpt' (91x)" in caught.value.what
        assert '"user_tag": "human", "assistant_tag": "gpt"' in caught.value.fix


class TestDuplicates:
    def test_they_are_marked_counted_and_still_trained(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("q", "a"), qa("q", "b"), qa("q", "a"), qa("q", "a")])
        prepared = workspace.prepare("rows.jsonl")
        assert len(prepared.train) == 4
        duplicates = [(entry.ref.line, str(entry.duplicate_of)) for entry in prepared.ledger.entries]
        assert duplicates == [(3, "data/rows.jsonl:1"), (4, "data/rows.jsonl:1")]

    def test_drop_leaves_them_out(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("q", "a"), qa("q", "b"), qa("q", "a")])
        prepared = workspace.prepare("rows.jsonl", on_duplicate="drop")
        assert len(prepared.train) == 2
        assert dropped_lines(prepared) == [3]

    def test_the_same_content_in_another_format_is_a_duplicate(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [qa("q", "a")])
        turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
        workspace.write("b.jsonl", [{"conversations": turns}])
        assert workspace.prepare("a.jsonl", "b.jsonl").ledger.files[1].num_duplicates == 1

    def test_another_system_text_is_other_content(self, workspace: Workspace) -> None:
        workspace.write("a.jsonl", [qa("q", "a", system="x"), qa("q", "a", system="y")])
        assert workspace.prepare("a.jsonl").ledger.files[0].num_duplicates == 0


class TestEvaluation:
    @pytest.mark.parametrize(
        ("val_size", "count"), [(0.1, 3), (0.09, 3), (0.5, 15), (1, 1), (1.0, 1), (7, 7), (29, 29)]
    )
    def test_val_size_is_a_fraction_or_a_count(self, workspace: Workspace, val_size: float, count: int) -> None:
        workspace.write("rows.jsonl", many(30))
        prepared = workspace.prepare("rows.jsonl", val_size=val_size)
        assert (len(prepared.evals[""]), len(prepared.train)) == (count, 30 - count)
        assert prepared.ledger.num_held_out == count

    @pytest.mark.parametrize(("val_size", "said"), [(30, "none is left"), (2.5, "whole count"), (0.99, "none is left")])
    def test_an_impossible_val_size_is_refused(self, workspace: Workspace, val_size: float, said: str) -> None:
        workspace.write("rows.jsonl", many(30))
        with pytest.raises(DataError) as caught:
            workspace.prepare("rows.jsonl", val_size=val_size)
        assert said in caught.value.render()

    def test_equal_rows_never_stand_on_both_sides(self, workspace: Workspace) -> None:
        rows = [qa(f"q{index % 40}", "a") for index in range(200)]
        workspace.write("rows.jsonl", rows)
        for seed in range(5):
            prepared = workspace.prepare("rows.jsonl", val_size=0.2, seed=seed)
            sides = [
                {store.example(index)[0].tobytes() for index in range(len(store))}
                for store in (prepared.train, prepared.evals[""])
            ]
            assert not sides[0] & sides[1]
            assert (len(prepared.train), len(prepared.evals[""])) == (160, 40)

    def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_rows(self, workspace: Workspace) -> None:
        def held_out(rows: list[dict[str, Any]], seed: int) -> set[bytes]:
            workspace.write("rows.jsonl", rows)
            store = workspace.prepare("rows.jsonl", val_size=10, seed=seed).evals[""]
            return {store.example(index)[0].tobytes() for index in range(len(store))}

        assert held_out(many(50), 1) == held_out(many(50)[::-1], 1)
        assert held_out(many(50), 1) != held_out(many(50), 2)

    def test_one_group_of_equal_rows_cannot_be_split(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", [qa("q", "a")] * 10)
        with pytest.raises(DataError, match="every group of equal rows is larger"):
            workspace.prepare("rows.jsonl", val_size=2)

    def test_evaluation_sets_are_merged_or_kept_apart(self, workspace: Workspace) -> None:
        for name in ("train", "one", "two"):
            workspace.write(f"{name}.jsonl", many(4, lambda index, name=name: qa(f"{name} {index}", "a")))
        evals = ("one.jsonl", "two.jsonl")
        merged = workspace.prepare("train.jsonl", eval_dataset=evals)
        assert {key: len(store) for key, store in merged.evals.items()} == {"": 8}
        apart = workspace.prepare("train.jsonl", eval_dataset=evals, eval_on_each_dataset=True)
        assert {key: len(store) for key, store in apart.evals.items()} == {"one": 4, "two": 4}
        assert [counts.use for counts in apart.ledger.files] == ["train", "eval", "eval"]

    def test_two_evaluation_files_of_the_same_name_stay_apart(self, workspace: Workspace) -> None:
        workspace.write("train.jsonl", many(4))
        workspace.write("a/test.jsonl", many(2, lambda index: qa(f"a{index}", "a")))
        workspace.write("b/test.jsonl", many(3, lambda index: qa(f"b{index}", "a")))
        evals = ("a/test.jsonl", "b/test.jsonl")
        prepared = workspace.prepare("train.jsonl", eval_dataset=evals, eval_on_each_dataset=True)
        assert {key: len(store) for key, store in prepared.evals.items()} == {"test": 2, "test_2": 3}

    def test_rows_in_both_are_counted_and_mentioned(self, workspace: Workspace) -> None:
        workspace.write("train.jsonl", many(20))
        workspace.write("eval.jsonl", [*many(3), qa("new", "row")])
        prepared = workspace.prepare("train.jsonl", eval_dataset=("eval.jsonl",))
        assert prepared.ledger.num_overlap == 3
        assert any(note.startswith("3 of 4 evaluation rows are also in the training data") for note in prepared.notes)

    def test_evaluation_sets_are_not_read_when_they_are_not_wanted(self, workspace: Workspace) -> None:
        workspace.write("train.jsonl", many(4))
        prepared = workspace.prepare("train.jsonl", eval_dataset=("missing",), need_eval=False)
        assert prepared.evals == {}

    def test_held_out_rows_are_not_trained_on_either_way(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", many(30))
        with_eval = workspace.prepare("rows.jsonl", val_size=5)
        without = workspace.prepare("rows.jsonl", val_size=5, need_eval=False)
        assert without.evals == {}
        assert without.train.content_hash() == with_eval.train.content_hash()


class TestFingerprint:
    def test_it_names_each_file_and_the_rows(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", many(30))
        before = workspace.prepare("rows.jsonl", val_size=5).fingerprint
        assert set(before) == {"rows.jsonl: rows.jsonl", "rows", "evaluation rows"}
        workspace.write("rows.jsonl", [*many(29), qa("changed", "row")])
        after = workspace.prepare("rows.jsonl", val_size=5).fingerprint
        assert before["rows.jsonl: rows.jsonl"] != after["rows.jsonl: rows.jsonl"]
        assert before["rows"] != after["rows"]

    def test_other_settings_change_the_rows_and_not_the_file(self, workspace: Workspace) -> None:
        workspace.write("rows.jsonl", many(30))
        one, other = workspace.prepare("rows.jsonl"), workspace.prepare("rows.jsonl", train_on_prompt=True)
        assert one.fingerprint["rows.jsonl: rows.jsonl"] == other.fingerprint["rows.jsonl: rows.jsonl"]
        assert one.fingerprint["rows"] != other.fingerprint["rows"]
