"""A model's own Jinja template: where its answers end, what it is told, and what it cannot do."""

from __future__ import annotations

import pytest
import vocabularies

from tunesmith.errors import DataError, TemplateError
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer
from tunesmith.render.renderer import Renderer, RenderPolicy
from tunesmith.types import Conversation, Message

TALK = (Message("user", "Q1"), Message("assistant", "A1"), Message("user", "Q2"), Message("assistant", "A2"))


def made(source: str, family: str = "chatml", **settings: object) -> Renderer:
    tokenizer = vocabularies.byte_level(family)
    tokenizer.chat_template = source
    return make_renderer(tokenizer, None, RenderSettings(**settings))  # type: ignore[arg-type]


def trained(renderer: Renderer, talk: tuple[Message, ...] = TALK) -> list[str]:
    """The trained spans of all examples, as text."""
    return [
        renderer.decode(example.input_ids[span.start : span.end], skip_special_tokens=False)
        for example in renderer.examples(Conversation(talk), RenderPolicy())
        for span in example.spans
        if span.trained
    ]


@pytest.mark.parametrize(
    ("jinja", "family", "answers"),
    [
        ("qwen2_5", "chatml", ["A1<|im_end|>", "A2<|im_end|>"]),
        ("llama3", "llama3", ["A1<|eot_id|>", "A2<|eot_id|>"]),
        ("gemma3", "gemma", ["A1<end_of_turn>", "A2<end_of_turn>"]),
        # Phi-3 writes <|endoftext|> after the last turn too; the turn ends before it.
        ("phi3", "phi3", ["A1<|end|>", "A2<|end|>"]),
        ("qwen3", "chatml", ["<think>\n\n</think>\n\nA1<|im_end|>", "<think>\n\n</think>\n\nA2<|im_end|>"]),
        # No end token of its own: the model stops by opening the next turn.
        ("glm4moe", "glm", ["\n<think></think>\nA1<|user|>", "\n<think></think>\nA2<|user|>"]),
        # The prompt opens the thought, and the history has none.
        ("deepseekv3", "deepseek", ["\n</think>\n\nA1<｜end▁of▁sentence｜>", "\n</think>\n\nA2<｜end▁of▁sentence｜>"]),
    ],
)
def test_the_end_of_an_answer_is_found(jinja: str, family: str, answers: list[str]) -> None:
    assert trained(made(vocabularies.own_jinja(jinja), family)) == answers


def test_a_template_that_writes_no_end_gets_the_tokenizers_and_says_so() -> None:
    renderer = made(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert [text.endswith("<|endoftext|>") for text in trained(renderer)] == [True, True]
    assert any("no end token" in note for note in renderer.notes)


def test_a_refused_conversation_is_the_rows_fault_in_the_templates_words() -> None:
    renderer = made(vocabularies.own_jinja("gemma"), "gemma")
    with pytest.raises(DataError, match="System role not supported"):
        renderer.prompt([Message("system", "S"), Message("user", "Q")])


def test_broken_jinja_is_a_template_error_with_its_line() -> None:
    with pytest.raises(TemplateError, match="line 2"):
        made("{{ messages }}\n{% for %}")


def test_the_date_is_the_same_every_day() -> None:
    renderer = made("{{ strftime_now('%d %b %Y') }} {{ messages[-1].content }}<|im_end|>")
    assert renderer.prompt_text(TALK[:1]) == "26 Jul 2024 Q1<|im_end|>"
    assert any("date" in note for note in renderer.notes)


def test_the_sandbox_holds() -> None:
    with pytest.raises(DataError):
        made("{{ messages.__class__.__mro__[1].__subclasses__() }}{{ messages.append(1) }}<|im_end|>")


def test_a_default_system_text_is_given_as_a_system_turn() -> None:
    renderer = made(vocabularies.own_jinja("qwen2_5"), default_system="Be brief.")
    assert renderer.prompt_text(TALK[:1]).startswith("<|im_start|>system\nBe brief.<|im_end|>")


def test_a_thought_is_not_lost_in_a_template_that_knows_none() -> None:
    talk = (Message("user", "Q"), Message("assistant", "A", reasoning="T"))
    assert trained(made(vocabularies.own_jinja("qwen2_5")), talk) == ["<think>\nT\n</think>\n\nA<|im_end|>"]


def test_typed_special_tokens_stay_text_here_too() -> None:
    renderer = made(vocabularies.own_jinja("qwen3"))
    prompt = renderer.prompt([Message("user", "a <|im_end|> b")])
    assert prompt.count(renderer.end_id or -1) == 1


def test_marks_of_other_trainers_change_nothing() -> None:
    plain = made("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    marked = made("{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}")
    assert plain.prompt(TALK[:3]) == marked.prompt(TALK[:3])
