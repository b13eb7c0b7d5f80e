"""Which template is chosen for a model, and what is mended in its tokenizer, openly."""

from __future__ import annotations

import pytest
import vocabularies

from tunesmith.config import Config
from tunesmith.errors import TemplateError
from tunesmith.render import load_renderer
from tunesmith.render.load import make_renderer
from tunesmith.render.template import get_template
from tunesmith.types import Message

QUESTION = [Message("user", "Hi")]
JINJA = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def test_a_named_template_is_used() -> None:
    renderer = load_renderer(Config(template="chatml"), vocabularies.byte_level("chatml"))
    assert renderer.template_name == "chatml"
    assert renderer.prompt_text(QUESTION) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_without_a_name_the_models_own_template_is_used() -> None:
    tokenizer = vocabularies.byte_level("chatml")
    tokenizer.chat_template = JINJA
    renderer = load_renderer(Config(), tokenizer)
    assert renderer.template_name == "the model's own"
    assert renderer.prompt_text(QUESTION) == "[user] Hi<|im_end|>[assistant] "
    assert renderer.stop_texts == ("<|im_end|>", "<|endoftext|>")


def test_a_model_without_a_template_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(TemplateError) as caught:
        load_renderer(Config(), vocabularies.byte_level("chatml"), "qwen2")
    assert "template: qwen" in caught.value.fix


def test_pretraining_needs_no_template() -> None:
    assert load_renderer(Config(stage="pt"), vocabularies.byte_level("chatml")).template_name == "empty"


def test_the_settings_of_the_run_reach_the_text() -> None:
    config = Config(template="qwen3", default_system="Be brief.", enable_thinking=False)
    text = load_renderer(config, vocabularies.byte_level("chatml")).prompt_text(QUESTION)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert text.endswith("<think>\n\n</think>\n\n")


def test_an_unknown_template_suggests_the_nearest() -> None:
    with pytest.raises(TemplateError, match="Did you mean 'llama3'"):
        get_template("lama3")


@pytest.mark.parametrize(
    ("template", "family", "missing"),
    [
        ("qwen", "llama2", ("<|im_start|>", "<|im_end|>")),
        ("llama3", "chatml", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
        ("gemma3", "chatml", ("<start_of_turn>", "<end_of_turn>")),
        ("glm4", "phi3", ("[gMASK]", "<sop>")),
    ],
)
def test_missing_special_tokens_are_named_and_never_added(template: str, family: str, missing: tuple[str, ...]) -> None:
    tokenizer = vocabularies.byte_level(family)
    before = len(tokenizer)
    with pytest.raises(TemplateError) as caught:
        make_renderer(tokenizer, template)
    assert ", ".join(missing) in caught.value.what
    assert len(tokenizer) == before


def test_a_wrong_end_token_is_mended_and_said() -> None:
    """A conversion that names the token that opens a turn as the end of text."""
    tokenizer = vocabularies.byte_level("chatml")
    tokenizer.eos_token = "<|im_start|>"
    renderer = make_renderer(tokenizer, "smollm2")
    assert tokenizer.eos_token == "<|im_end|>"
    assert renderer.stop_texts[0] == "<|im_end|>"
    assert any("<|im_start|>" in note and "<|im_end|>" in note for note in renderer.notes)


def test_a_wrong_end_token_is_mended_for_the_models_own_template_too() -> None:
    tokenizer = vocabularies.byte_level("chatml")
    tokenizer.eos_token = "<|im_start|>"
    tokenizer.chat_template = vocabularies.own_jinja("qwen2_5")
    renderer = make_renderer(tokenizer, None)
    assert tokenizer.eos_token == "<|im_end|>"
    assert renderer.notes


def test_a_missing_padding_token_is_chosen_from_the_vocabulary_and_said() -> None:
    tokenizer = vocabularies.byte_level("chatml")
    assert tokenizer.pad_token is None
    before = len(tokenizer)
    renderer = make_renderer(tokenizer, "chatml")
    assert tokenizer.pad_token == "<|endoftext|>"
    assert len(tokenizer) == before
    assert any("padding" in note for note in renderer.notes)


def test_a_right_tokenizer_is_left_alone_and_nothing_is_said() -> None:
    tokenizer = vocabularies.byte_level("chatml")
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|im_end|>"  # pad == eos is no harm here
    renderer = make_renderer(tokenizer, "chatml")
    assert renderer.notes == []
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")


def test_a_tokenizer_without_an_end_token_leaves_a_plain_template_without_an_end() -> None:
    tokenizer = vocabularies.byte_level("chatml")
    tokenizer.eos_token = None
    renderer = make_renderer(tokenizer, "default")
    assert renderer.stop_ids == ()
    assert any("never stop" in note for note in renderer.notes)
