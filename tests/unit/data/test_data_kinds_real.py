"""Rows of every stage with the real renderer and a small real tokenizer: the tokens are those of sft."""

from __future__ import annotations

from typing import Any

import pytest
from data_workspace import CharacterRenderer, Workspace, qa
from tests.tiny import tiny_tokenizer

from tunesmith.config import Config
from tunesmith.data.inspect import Preview, preview, text_lines
from tunesmith.data.preview_html import html_page
from tunesmith.data.store import ExampleStore
from tunesmith.render import Renderer, load_renderer
from tunesmith.types import Message

QUESTIONS = ("Who are you?", "你是谁？", "<|im_end|> typed", "line one\nline two ", "x")
GOOD = ("I am a small assistant.", " leading space", "</think> odd", "2", "你好 👋🏽")
BAD = ("Nobody", "same start as the other", "…", "3 <|im_start|>user", "line\n\nbreak\n")


@pytest.fixture(scope="module", params=["chatml", "qwen3", None], ids=["chatml", "qwen3", "the model's own"])
def renderer(request: pytest.FixtureRequest) -> Renderer:
    return load_renderer(Config(template=request.param), tiny_tokenizer())


@pytest.fixture
def real(workspace: Workspace, renderer: Renderer) -> Workspace:
    workspace.renderer = renderer  # type: ignore[assignment]
    return workspace


def sequences(store: ExampleStore, index: int) -> list[tuple[list[int], list[float]]]:
    """Each sequence of an example with its prefix, as tokens and weights."""
    prefix, *branches = store.piece_lengths(index)
    ids, weights = (values.tolist() for values in store.example(index))
    found, start = [], prefix
    for length in branches:
        part = slice(start, start + length)
        found.append((ids[:prefix] + ids[part], weights[:prefix] + weights[part]))
        start += length
    return found


def learned_by_sft(workspace: Workspace, question: str, answer: str, **settings: Any) -> tuple[list[int], list[float]]:
    workspace.write("sft.jsonl", [qa(question, answer)])
    store = workspace.prepare("sft.jsonl", **{"min_stop_fraction": 0.0, **settings}).train
    ids, weights = (values.tolist() for values in store.example(0))
    return ids, weights


@pytest.mark.parametrize("num_lost", [0, 1, 3])
def test_the_tokens_of_a_pair_are_those_of_sft_on_each_answer(real: Workspace, num_lost: int) -> None:
    """Whole, and with so many tokens of the longer answer cut off."""
    num_compared, num_cut = 0, 0
    for question, good, bad in zip(QUESTIONS, GOOD, BAD, strict=True):
        real.write("a.jsonl", [{"prompt": question, "chosen": good, "rejected": bad}])
        prepared = real.prepare("a.jsonl", stage="dpo")
        prompt, *answers = prepared.train.piece_lengths(0)
        settings = {"min_stop_fraction": 0.0, "cutoff_len": prompt + max(answers) - num_lost}
        prepared = real.prepare("a.jsonl", stage="dpo", **settings)
        num_cut += prepared.ledger.files[0].num_cut
        for answer, found in zip((good, bad), sequences(prepared.train, 0), strict=True):
            assert found == learned_by_sft(real, question, answer, **settings)
            num_compared += 1
    assert num_compared == 10
    assert num_cut == (5 if num_lost else 0)


def test_the_shared_prompt_is_what_inference_is_fed(real: Workspace, renderer: Renderer) -> None:
    real.write("a.jsonl", [{"prompt": question, "chosen": "a", "rejected": "b"} for question in QUESTIONS])
    store = real.prepare("a.jsonl", stage="dpo").train
    for index, question in enumerate(QUESTIONS):
        prompt = renderer.prompt([Message("user", question)])
        ids, _ = store.example(index)
        assert tuple(ids[: store.piece_lengths(index)[0]][: len(prompt)]) == prompt


def test_the_tokens_of_a_labelled_answer_are_those_of_sft(real: Workspace) -> None:
    rows = [
        {"prompt": question, "completion": answer, "label": index % 2 == 0}
        for index, (question, answer) in enumerate(zip(QUESTIONS, GOOD, strict=True))
    ]
    real.write("a.jsonl", rows)
    store = real.prepare("a.jsonl", stage="kto").train
    for index, row in enumerate(rows):
        own, other = sequences(store, index)
        assert own == learned_by_sft(real, row["prompt"], row["completion"])
        num_prompt = store.piece_lengths(index)[0]
        following = sequences(store, (index + 1) % len(rows))[0][0]
        assert other[0][num_prompt:] == following[store.piece_lengths((index + 1) % len(rows))[0] :]


def test_a_prompt_is_what_inference_is_fed(real: Workspace, renderer: Renderer) -> None:
    real.write("a.jsonl", [{"prompt": question} for question in QUESTIONS])
    store = real.prepare("a.jsonl", stage="grpo").train
    for index, question in enumerate(QUESTIONS):
        assert tuple(store.example(index)[0]) == renderer.prompt([Message("user", question)])


def test_a_document_is_its_text_and_the_end_token(real: Workspace, renderer: Renderer) -> None:
    texts = ["Some words. <|im_end|> typed by hand.", "你好，世界。"]
    real.write("a.jsonl", [{"text": text} for text in texts])
    store = real.prepare("a.jsonl", stage="pt").train
    for index, text in enumerate(texts):
        ids, weights = store.example(index)
        assert ids[-1] == renderer.tokenizer.eos_token_id
        assert renderer.decode(ids[:-1], skip_special_tokens=False) == text
        assert weights[-1] == 1.0
        assert renderer.tokenizer.eos_token_id not in ids[:-1]


class TestTextTokens:
    def test_a_start_token_is_found_when_the_tokenizer_writes_one(self) -> None:
        from tokenizers.processors import TemplateProcessing

        plain = load_renderer(Config(template="chatml"), tiny_tokenizer())
        assert plain.text_start_id is None
        tokenizer = tiny_tokenizer()
        tokenizer.bos_token = "<|endoftext|>"
        named_only = load_renderer(Config(template="chatml"), tokenizer)
        assert named_only.text_start_id is None
        tokenizer = tiny_tokenizer()
        tokenizer.bos_token = "<|endoftext|>"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
        )
        assert load_renderer(Config(template="chatml"), tokenizer).text_start_id == tokenizer.bos_token_id

    def test_llama_s_end_of_text_ends_a_document_where_the_vocabulary_has_it(self) -> None:
        tokenizer = tiny_tokenizer()
        renderer = load_renderer(Config(template="chatml"), tokenizer)
        assert renderer.text_end_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
        tokenizer = tiny_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|end_of_text|>"]})
        renderer = load_renderer(Config(template="chatml"), tokenizer)
        assert renderer.text_end_id == tokenizer.convert_tokens_to_ids("<|end_of_text|>")


class TestPreview:
    @pytest.fixture
    def renderer(self) -> Renderer:
        return load_renderer(Config(template="chatml"), tiny_tokenizer())

    def shown(self, workspace: Workspace, renderer: Renderer, stage: str, rows: list[dict[str, Any]]) -> Preview:
        workspace.write("rows.jsonl", rows)
        return preview(Config(dataset=("rows.jsonl",), stage=stage), renderer, workspace.folder)

    def test_the_parts_of_a_pair_are_named_and_the_worse_one_is_red(
        self, workspace: Workspace, renderer: Renderer
    ) -> None:
        shown = self.shown(workspace, renderer, "dpo", [{"prompt": "q", "chosen": "<good> 👋🏽", "rejected": "worse"}])
        plain = text_lines(shown, colour=False, with_ids=False)
        assert plain[-6:] == [
            "-- prompt",
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
            "-- chosen",
            "[[<good> 👋🏽<|im_end|>]]",
            "-- rejected",
            "[[worse<|im_end|>]]",
        ]
        coloured = "\n".join(text_lines(shown, colour=True, with_ids=False))
        assert "\x1b[30;42m<good> 👋🏽<|im_end|>\x1b[0m" in coloured
        assert "\x1b[30;41mworse<|im_end|>\x1b[0m" in coloured
        page = html_page(shown, "rows")
        assert '<h3>rejected</h3><p class="tokens worse">' in page
        assert "&lt;" in page
        assert "examples" not in shown.rows[0].headline

    def test_an_answer_is_decoded_behind_its_prompt(self, workspace: Workspace) -> None:
        class NoLeadingSpace(CharacterRenderer):
            """Decodes like sentencepiece: a space that begins the text is not shown."""

            def token_texts(self, ids: Any) -> list[str]:
                first, *rest = super().token_texts(ids)
                return [first.lstrip(), *rest]

        rows = [{"prompt": "q", "chosen": " a", "rejected": " b"}]
        shown = self.shown(workspace, NoLeadingSpace(), "dpo", rows)  # type: ignore[arg-type]
        assert ["".join(token.text for token in part) for part in shown.rows[0].examples] == [
            "q<end>",
            " a<end>",
            " b<end>",
        ]

    def test_a_verdict_is_shown_with_its_answer(self, workspace: Workspace, renderer: Renderer) -> None:
        rows = [{"prompt": "q", "completion": "a", "label": label} for label in (True, False)]
        shown = self.shown(workspace, renderer, "kto", rows)
        assert [row.part_names for row in shown.rows] == [("prompt", "good answer"), ("prompt", "bad answer")]
        assert "\x1b[30;41ma<|im_end|>" in "\n".join(text_lines(shown, colour=True, with_ids=False))

    def test_a_prompt_is_all_context(self, workspace: Workspace, renderer: Renderer) -> None:
        shown = self.shown(workspace, renderer, "grpo", [{"prompt": "q"}])
        assert "[[" not in "\n".join(text_lines(shown, colour=False, with_ids=False)[1:])
        assert "0 trained" in shown.rows[0].headline

    def test_ids_are_shown_part_by_part(self, workspace: Workspace, renderer: Renderer) -> None:
        shown = self.shown(workspace, renderer, "rm", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
        lines = text_lines(shown, colour=False, with_ids=True)
        first_of_each = [lines[index + 1].split()[0] for index, line in enumerate(lines) if line.startswith("-- ")]
        assert first_of_each == ["0", "0", "0"]
