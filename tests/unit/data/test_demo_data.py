"""The shipped demo data: the generators' bytes, held-out rows that are held out, and answers that are right.

Truths are worked out here again from the text of a row (the sum, the rule of the transactions, the fields of the JSON
object), not with the functions that wrote it.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scripts.demo_data.dice import Dice
from scripts.demo_data.files import FOLDER, GENERATORS, contents, dataset_name
from tests.tiny import tiny_tokenizer

from tunesmith.config import Config
from tunesmith.data.catalog import open_catalog
from tunesmith.data.prepare import prepare
from tunesmith.render import load_renderer

ROOT = Path(__file__).resolve().parents[3]
SMOLLM2 = Path(os.environ["TUNESMITH_USER_CACHE"]) / "models/SmolLM2-135M-Instruct"
LANGUAGES = ("en", "zh")
NUM_ROWS = {  # task -> (training rows, held-out rows) of each language
    "pt": (240, 40),
    "dpo": (300, 100),
    "kto": (300, 100),
    "arithmetic": (300, 100),
    "extraction": (200, 100),
    "transactions": (400, 100),
}
FILES = [dataset_name(task, lang, split) for task in NUM_ROWS for lang in LANGUAGES for split in ("train", "test")]
Row = dict[str, Any]


def read(task: str, language: str, split: str) -> list[Row]:
    path = FOLDER / f"{dataset_name(task, language, split)}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def both(task: str, language: str) -> list[Row]:
    return read(task, language, "train") + read(task, language, "test")


def prompt_of(row: Row) -> str:
    """What a row asks, whatever its layout."""
    if "text" in row:
        return row["text"]
    if "conversations" in row:
        return row["conversations"][0]["value"]
    if "messages" in row:
        return row["messages"][0]["content"]
    return row["instruction"] + "\n" + row.get("input", "")


# --- the files -------------------------------------------------------------------------------------------------------


def run_generators(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, with another seed of Python's own hashes than the one the files were written under."""
    command = [sys.executable, "-m", "scripts.demo_data", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_generators_give_the_shipped_bytes_again(tmp_path: Path) -> None:
    assert run_generators("--out", str(tmp_path)).returncode == 0
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shipped = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert len(shipped) == len(FILES) == 24
    assert sorted(written) == sorted(shipped)
    assert [name for name in shipped if written[name] != shipped[name]] == []


def test_check_finds_one_changed_byte(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "demo")
    assert run_generators("--check", "--out", str(tmp_path / "demo")).returncode == 0
    changed = tmp_path / "demo" / "pt_en_demo.jsonl"
    changed.write_bytes(changed.read_bytes().replace(b"Merrow", b"Harrow", 1))
    result = run_generators("--check", "--out", str(tmp_path / "demo"))
    assert result.returncode == 1
    assert [line.split()[-1] for line in result.stdout.splitlines() if "differs" in line] == ["pt_en_demo.jsonl"]
    assert b"Harrow" in changed.read_bytes(), "--check must not write"


def test_another_seed_gives_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents()
    monkeypatch.setattr("scripts.demo_data.dice.SEED", 1)
    after = contents()
    assert [name for name in before if before[name] == after[name]] == []


def test_the_random_choices_are_those_of_a_fixed_sequence() -> None:
    """Pins the stream itself, so that another Python version that drew differently would be seen at once."""
    dice = Dice("a", "b")
    assert [dice.number(1, 6) for _ in range(8)] == [3, 4, 1, 4, 4, 2, 1, 3]
    assert dice.shuffled("abcdef") == ["d", "a", "b", "e", "c", "f"]
    assert Counter(dice.dealt("xyz", 9)) == {"x": 3, "y": 3, "z": 3}


def test_everything_together_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_500_000


@pytest.mark.parametrize("task", NUM_ROWS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_task_has_its_rows_and_asks_nothing_twice(task: str, language: str) -> None:
    train, test = read(task, language, "train"), read(task, language, "test")
    assert (len(train), len(test)) == NUM_ROWS[task]
    prompts = [prompt_of(row) for row in train + test]
    assert len(set(prompts)) == len(prompts)
    assert len({frozenset(row) for row in train + test}) == 1, "rows of one table have the same columns"


def test_english_rows_are_english_and_chinese_rows_are_chinese() -> None:
    for task in NUM_ROWS:
        assert all(prompt_of(row).isascii() for row in both(task, "en")), task
        assert sum(not prompt_of(row).isascii() for row in both(task, "zh")) == sum(NUM_ROWS[task]), task


# --- the registry and the card ---------------------------------------------------------------------------------------


def test_every_file_is_registered_under_its_own_name() -> None:
    catalog = open_catalog("data", ROOT)
    assert sorted(GENERATORS) == sorted(NUM_ROWS)
    assert set(catalog.raw_entries) == {"identity", *FILES}
    for name in FILES:
        (file,) = catalog.find(name).files
        assert file == (FOLDER / f"{name}.jsonl").resolve() or file.samefile(FOLDER / f"{name}.jsonl")


@pytest.mark.parametrize("name", FILES)
def test_the_columns_that_the_registry_names_are_in_every_row(name: str) -> None:
    entry = open_catalog("data", ROOT).entry(name)
    rows = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()]
    for part in entry.columns_given or ():
        column = getattr(entry.columns, part)
        assert all(column in row for row in rows), f"{part}: {column}"
    assert entry.ranking == name.startswith("dpo")
    assert (entry.columns.kto_tag == "label") == name.startswith("kto")


@pytest.mark.parametrize("task", ["arithmetic", "extraction", "transactions"])
def test_graded_tasks_are_supervised_data_too_and_whole(task: str) -> None:
    renderer = load_renderer(Config(template="chatml"), tiny_tokenizer())
    for language in LANGUAGES:
        for split, num_rows in zip(("train", "test"), NUM_ROWS[task], strict=True):
            config = Config(dataset=(dataset_name(task, language, split),), cutoff_len=2048)
            prepared = prepare(config, renderer, ROOT, need_eval=False)
            assert prepared.ledger.files[0].num_whole == num_rows == len(prepared.train)
            ids, weights = prepared.train.example(0)
            expected = read(task, language, split)[0]["answer"]
            assert renderer.decode(ids[weights > 0]).removesuffix("<|im_end|>") == expected


@pytest.mark.parametrize("name", FILES)
def test_the_card_tells_the_rows_and_bytes_of_each_file(name: str) -> None:
    path = FOLDER / f"{name}.jsonl"
    num_rows = len(path.read_text("utf-8").splitlines())
    line = f"| `{name}` | {num_rows} | {path.stat().st_size:,} |"
    assert line in (ROOT / "data" / "README.md").read_text("utf-8"), line


# --- preferences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_question_is_shared_between_pairs_and_labels(language: str) -> None:
    prompts = [prompt_of(row) for task in ("dpo", "kto") for row in both(task, language)]
    assert len(set(prompts)) == len(prompts) == 800


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_answers_are_about_things_that_training_never_answers(language: str) -> None:
    """A right answer names its subject; the right answers of the two splits have no first sentence in common."""

    def statements(split: str) -> set[str]:
        rows = [row for row in read("dpo", language, split) if row["fault"] == "rude"]
        chosen = [row["chosen"]["value"] for row in rows]
        rejected = [row["rejected"]["value"] for row in rows]
        pairs = zip(chosen, rejected, strict=True)
        return {sentence for good, bad in pairs for sentence in re.findall(r"[^.。]+[.。]", good) if sentence in bad}

    train, test = (set(map(str.strip, statements(split))) for split in ("train", "test"))
    assert min(len(train), len(test)) >= 10
    assert train & test == set()


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_length_says_little_about_which_answer_is_better(language: str, split: str) -> None:
    """The best single threshold on the length (characters or words) separates the answers in under 65 % of the rows."""
    rows = read("dpo", language, split)
    for measure in (len, lambda text: len(text.split()), lambda text: len(text.encode("utf-8"))):
        good = [measure(row["chosen"]["value"]) for row in rows]
        bad = [measure(row["rejected"]["value"]) for row in rows]
        assert best_threshold(good, bad) < 0.65


def best_threshold(good: list[int], bad: list[int]) -> float:
    """The highest accuracy that any rule `longer than t` or `shorter than t` reaches."""
    shares = []
    for border in set(good + bad):
        right = sum(value >= border for value in good) + sum(value < border for value in bad)
        shares.append(right / (2 * len(good)))
    return max(max(share, 1 - share) for share in shares)


def test_the_threshold_rule_would_see_a_difference_in_length() -> None:
    assert best_threshold([9, 8, 7, 9], [3, 2, 4, 1]) == 1.0
    assert best_threshold([1, 2, 3, 4], [1, 2, 3, 4]) == 0.5


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_fault_is_what_its_name_says(language: str) -> None:
    rows = both("dpo", language)
    assert Counter(row["fault"] for row in rows) == Counter(
        {"rude": 100, "rambling": 80, "unfinished": 80, "unhelpful": 60, "language": 40, "wrong": 40}
    )
    ends = tuple(".?!。？！")
    for row in rows:
        chosen, rejected = row["chosen"]["value"], row["rejected"]["value"]
        assert chosen.endswith(ends)
        assert chosen.isascii() == (language == "en")
        assert rejected.endswith(ends) == (row["fault"] != "unfinished"), row
        if row["fault"] != "unfinished":
            assert rejected.isascii() == ((language == "en") != (row["fault"] == "language")), row


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_half_of_the_labels_are_thumbs_up(language: str, split: str) -> None:
    rows = read("kto", language, split)
    assert Counter(row["label"] for row in rows) == {True: len(rows) // 2, False: len(rows) // 2}
    assert all((row["fault"] == "") == row["label"] for row in rows)
    assert {type(row["label"]) for row in rows} == {bool}


# --- graded tasks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_sums_are_right_and_their_numbers_are_in_the_question(language: str) -> None:
    for row in both("arithmetic", language):
        a, sign, b = row["problem"].split()
        result = {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign]
        assert row["answer"] == row["output"] == str(result)
        assert result >= 0
        assert sorted(re.findall(r"\d+", row["instruction"])) == sorted([a, b])


def test_no_held_out_sum_is_practised_in_any_language() -> None:
    def sums(split: str) -> set[tuple[str, frozenset[str], str]]:
        problems = [row["problem"].split() for language in LANGUAGES for row in read("arithmetic", language, split)]
        return {(sign, frozenset((a, b)), a if sign == "-" else "") for a, sign, b in problems}

    assert len(sums("test")) > 60
    assert sums("train") & sums("test") == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_extracted_objects_obey_their_schema_and_hold_what_the_sentence_says(language: str) -> None:
    for row in both("extraction", language):
        assert row["answer"] == row["output"]
        found, schema = json.loads(row["answer"]), json.loads(row["schema"])
        assert list(found) == schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False
        for key, rule in schema["properties"].items():
            assert isinstance(found[key], {"string": str, "integer": int}[rule["type"]])
            assert re.search(rule.get("pattern", ""), str(found[key]))
        year, month, day = map(int, found.pop("date").split("-"))
        name_of_month = datetime.date(year, month, day).strftime("%B")
        spoken = f"{day} {name_of_month} {year}" if language == "en" else f"{year}年{month}月{day}日"
        rest = row["input"].replace(spoken, "", 1)
        assert rest != row["input"]
        assert all(str(value) in rest for value in found.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_name_of_a_held_out_sentence_is_in_the_training_rows(language: str) -> None:
    train, test = ({json.loads(row["answer"])["name"] for row in read("extraction", language, s)} for s in SPLITS)
    assert train & test == set()
    assert len(test) >= 30


SPLITS = ("train", "test")
LINE = re.compile(r"\[(\d\d)-(\d\d) (\d\d):(\d\d)\] (\S+) (\S+) (\d+)")


def looks_like_fraud(text: str) -> bool:
    """The rule of the data card, read off the text: 3 withdrawals of 500+, before 05:00, in an hour, in 2+ cities."""
    found = []
    for line in text.splitlines():
        parts = LINE.fullmatch(line)
        assert parts, line
        month, day, hour, minute = map(int, parts.groups()[:4])
        city, kind, amount = parts.groups()[4:]
        when = datetime.datetime(2023, month, day, hour, minute)  # an impossible date is an error here
        if kind in ("withdrawal", "取现") and int(amount) >= 500 and hour < 5:
            found.append((when, city))
    for start, _ in found:
        near = [city for when, city in found if start <= when <= start + datetime.timedelta(hours=1)]
        if len(near) >= 3 and len(set(near)) >= 2:
            return True
    return False


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("split", SPLITS)
def test_transactions_are_labelled_by_the_rule_and_the_classes_are_even(language: str, split: str) -> None:
    rows = read("transactions", language, split)
    for row in rows:
        assert looks_like_fraud(row["input"]) == (row["answer"] == "1") == (row["label"] == "fraud"), row
        assert row["answer"] == row["output"]
        times = [line[:13] for line in row["input"].splitlines()]
        assert times == sorted(times)
    assert Counter(row["answer"] for row in rows) == {"0": len(rows) // 2, "1": len(rows) // 2}


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_part_of_the_rule_alone_does_not_tell_fraud_from_normal(language: str) -> None:
    """Night, large amounts, several cities, the number of lines: each alone is right in at most 80 % of the rows.

    Both conditions of one line together (large at night) are right in 84 %: two of the six normal patterns need
    several lines to be told from fraud.
    """

    def any_line(row: Row, *patterns: str) -> bool:
        return any(all(re.search(part, line) for part in patterns) for line in row["input"].splitlines())

    night, large = r" 0[0-4]:", r" [5-9]\d\d$"
    signs = {
        "night": lambda row: any_line(row, night),
        "large": lambda row: any_line(row, large),
        "large at night": lambda row: any_line(row, night, large),
        "three cities": lambda row: len({LINE.fullmatch(line)[5] for line in row["input"].splitlines()}) >= 3,
        "six lines": lambda row: len(row["input"].splitlines()) >= 6,
    }
    rows = both("transactions", language)
    shares = {
        name: sum(sign(row) == (row["label"] == "fraud") for row in rows) / len(rows) for name, sign in signs.items()
    }
    assert 0.8 < shares.pop("large at night") < 0.88
    assert all(share <= 0.8 for share in shares.values()), shares
    assert shares["night"] > 0.7, "but the parts do say something"


# --- documents -------------------------------------------------------------------------------------------------------


def test_documents_agree_with_each_other_about_the_world() -> None:
    """Whoever names the feast of a month names the same one: a fact has one value in all documents."""
    feasts: dict[str, set[str]] = {}
    for row in both("pt", "en"):
        for month, feast in re.findall(r"In (\w+moon) the people of \w+ celebrate ([\w ]+)\.", row["text"]):
            feasts.setdefault(month, set()).add(feast)
    assert len(feasts) == 8
    assert all(len(names) == 1 for names in feasts.values()), feasts


@pytest.mark.parametrize("language", LANGUAGES)
def test_documents_have_no_gap_left_unfilled(language: str) -> None:
    rows = both("pt", language)
    assert not any(re.search(r"[{}]|  ", row["text"]) for row in rows)
    assert 60_000 < sum(len(row["text"].encode("utf-8")) for row in rows) < 120_000
    assert Counter(row["kind"] for row in rows).most_common()[-1][1] >= 40


# --- cost ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="the demo's model is not on this machine; `make demo` fetches it")
def test_prompts_are_short_for_the_demo_model() -> None:
    """Everything trains on two cores, so a prompt costs little: tokens with the chat template of SmolLM2."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(SMOLLM2))
    longest = {"dpo": 80, "kto": 80, "arithmetic": 120, "extraction": 120, "transactions": 280}
    for task, limit in longest.items():
        for language in LANGUAGES:
            turns = [[{"role": "user", "content": prompt_of(row)}] for row in both(task, language)]
            texts = [tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) for turn in turns]
            lengths = [len(tokenizer(text).input_ids) for text in texts]
            assert max(lengths) <= limit, f"{task} {language}: {max(lengths)}"
            assert sum(lengths) / len(lengths) <= 250
