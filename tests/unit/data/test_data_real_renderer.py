"""The data part with the real renderer and a small real tokenizer; the shipped data with it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from data_workspace import Workspace, qa
from tests.tiny import tiny_tokenizer

from tunesmith.config import Config
from tunesmith.data.inspect import Preview, PreviewedRow, Token, preview, text_lines
from tunesmith.data.prepare import prepare
from tunesmith.data.preview_html import html_page
from tunesmith.errors import DataError
from tunesmith.render import Renderer, load_renderer
from tunesmith.types import Message, RowRef

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return load_renderer(Config(template="chatml"), tiny_tokenizer())


def test_the_shipped_identity_data_are_all_trained_whole(renderer: Renderer) -> None:
    config = Config(dataset=("identity",), identity_name="Amy", identity_author="Bo")
    prepared = prepare(config, renderer, ROOT, need_eval=False)
    (counts,) = prepared.ledger.files
    assert 100 <= counts.num_rows == counts.num_whole <= 120
    assert counts.num_duplicates == 0
    texts = [renderer.decode(prepared.train.example(index)[0]) for index in range(len(prepared.train))]
    assert all("Amy" in text and "{{" not in text for text in texts)
    assert prepared.ledger.totals["train"].num_stops == len(texts)


def test_the_shipped_identity_data_hold_the_five_questions_in_two_languages() -> None:
    rows = json.loads((ROOT / "data" / "identity.json").read_text("utf-8"))
    questions = [row["instruction"] for row in rows]
    assert {"Who are you?", "你是谁？", "What is your name?", "你叫什么名字？", "Who created you?"} <= set(questions)
    num_chinese = sum(not question.isascii() for question in questions)
    assert 0.4 < num_chinese / len(questions) < 0.6
    assert len(set(questions)) == len(questions)


def test_the_trained_tokens_are_the_answer_and_its_end(workspace: Workspace, renderer: Renderer) -> None:
    workspace.renderer = renderer  # type: ignore[assignment]
    workspace.write("rows.jsonl", [qa("Who are you?", "I am 小助手.")])
    store = workspace.prepare("rows.jsonl").train
    ids, weights = store.example(0)
    assert renderer.decode(ids[weights > 0], skip_special_tokens=False) == "I am 小助手.<|im_end|>"
    assert tuple(ids[weights == 0]) == renderer.prompt([Message("user", "Who are you?")])


def _row_with_call(arguments: object) -> dict[str, object]:
    call = json.dumps({"name": "f", "arguments": arguments})
    turns = [("human", "q"), ("function_call", call), ("observation", "1"), ("gpt", "a")]
    tools = json.dumps([{"name": "f", "description": "d", "parameters": {}}])
    return {"conversations": [{"from": role, "value": value} for role, value in turns], "tools": tools}


def test_a_row_with_tools_trains_the_call_and_the_answer_with_their_ends(
    workspace: Workspace, renderer: Renderer
) -> None:
    workspace.renderer = renderer  # type: ignore[assignment]
    workspace.write("rows.jsonl", [_row_with_call({"a": "天"})])
    ids, weights = workspace.prepare("rows.jsonl").train.example(0)
    trained = renderer.decode(ids[weights > 0], skip_special_tokens=False)
    assert trained == 'Action: f\nAction Input: {"a": "天"}<|im_end|>a<|im_end|>'
    shown = renderer.decode(ids, skip_special_tokens=False)
    assert "> Tool Name: f\nTool Description: d" in shown
    assert "<|im_start|>tool\n1<|im_end|>" in shown


def test_a_call_whose_arguments_are_no_object_is_a_bad_row(workspace: Workspace, renderer: Renderer) -> None:
    workspace.renderer = renderer  # type: ignore[assignment]
    workspace.write("rows.jsonl", [_row_with_call({}), _row_with_call([1])])
    with pytest.raises(DataError) as caught:
        workspace.prepare("rows.jsonl")
    assert "rows.jsonl:2: the arguments of a call of 'f' cannot be written" in caught.value.why
    assert len(workspace.prepare("rows.jsonl", on_bad_row="drop").train) == 1


def test_a_long_answer_is_cut_and_counted(workspace: Workspace, renderer: Renderer) -> None:
    workspace.renderer = renderer  # type: ignore[assignment]
    workspace.write("rows.jsonl", [qa("q", "word " * 200), qa("q", "short")])
    with pytest.raises(DataError, match="1 of 2 trained turns"):
        workspace.prepare("rows.jsonl", cutoff_len=64)
    prepared = workspace.prepare("rows.jsonl", cutoff_len=64, min_stop_fraction=0.5)
    assert prepared.train.lengths[0] == 64
    assert prepared.ledger.files[0].num_cut == 1


class _TokenReader(HTMLParser):
    """The texts of the <i> elements of a page, as a browser reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.inside = tag == "i"
        if self.inside:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


class TestPreview:
    ROWS = (
        qa("q1", "<b>answer & one</b>"),
        {"instruction": "q2", "output": ""},
        qa("q3", "line one\nline two 你好"),
    )

    def shown(self, workspace: Workspace, renderer: Renderer, **settings: int):
        workspace.write("rows.jsonl", list(self.ROWS))
        return preview(Config(dataset=("rows.jsonl",)), renderer, workspace.folder, **settings)

    def test_trained_text_stands_in_brackets_without_colours(self, workspace: Workspace, renderer: Renderer) -> None:
        text = "\n".join(text_lines(self.shown(workspace, renderer), colour=False, with_ids=False))
        assert "<|im_start|>user\nq1<|im_end|>" in text
        assert "[[<b>answer & one</b><|im_end|>]]" in text
        assert "row 2, data/rows.jsonl:2: `output` is empty" in text
        assert "\x1b" not in text

    def test_trained_text_is_coloured_line_by_line(self, workspace: Workspace, renderer: Renderer) -> None:
        text = "\n".join(text_lines(self.shown(workspace, renderer), colour=True, with_ids=False))
        assert "\x1b[30;42mline one\x1b[0m\n\x1b[30;42mline two 你好<|im_end|>\x1b[0m" in text
        assert "[[" not in text

    def test_ids_are_one_line_per_token_with_their_weight(self, workspace: Workspace, renderer: Renderer) -> None:
        shown = self.shown(workspace, renderer, limit=1)
        lines = text_lines(shown, colour=False, with_ids=True)
        rows = [line.split(maxsplit=3) for line in lines[lines.index("") + 2 :]]
        (example,) = shown.rows[0].examples
        assert [(int(row[1]), float(row[2])) for row in rows] == [(token.id, token.weight) for token in example]

    def test_rows_are_chosen_by_number(self, workspace: Workspace, renderer: Renderer) -> None:
        shown = self.shown(workspace, renderer, start=3, limit=5)
        assert [(row.number, row.ref.line) for row in shown.rows] == [(3, 3)]

    def test_the_page_is_self_contained_and_marks_every_token(self, workspace: Workspace, renderer: Renderer) -> None:
        shown = self.shown(workspace, renderer)
        page = html_page(shown, "rows")
        assert "http" not in page
        assert "<script" not in page
        assert "prefers-color-scheme: dark" in page
        tokens = [token for row in shown.rows for example in row.examples for token in example]
        assert page.count('title="#') == len(tokens)
        assert page.count('<i class="t') == sum(token.weight != 0 for token in tokens)
        assert "data/rows.jsonl:2: `output` is empty" in page

    def test_text_of_the_data_is_escaped_in_the_page(self) -> None:
        texts = ["<b>", "&lt;", "\"'>", "</i><script>"]
        tokens = tuple(Token(number, text, 1.0) for number, text in enumerate(texts))
        problem = PreviewedRow(2, RowRef("d", "<f>", 2, 1), (), problem="<p>")
        shown = Preview([PreviewedRow(1, RowRef("d", "<f>", 1, 0), (tokens,)), problem], ["<note>"], "<template>")
        page = html_page(shown, "<title>")
        reader = _TokenReader()
        reader.feed(page)
        assert reader.texts == texts
        for text in ("<f>", "<p></p>", "<note>", "<template>", "<title>:", "<script"):
            assert text not in page
