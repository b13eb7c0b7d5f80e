"""What every template of the tables writes, spelled out: the prompt of a second answer, and what is trained.

The texts are written by hand from the published layouts; the begin and end tokens stand as <B> and <E>. Two turns and a
system text show every slot, and where the trained part begins and ends.
"""

from __future__ import annotations

import pytest

from tunesmith.render.dialect import RenderSettings
from tunesmith.render.slots import SlotDialect
from tunesmith.render.template import get_template, templates
from tunesmith.types import Message

TALK = [Message("system", "S"), Message("user", "Q1"), Message("assistant", "A1"), Message("user", "Q2")]

_CHATML = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
    "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n"
)
_GEMMA = (
    "<B><start_of_turn>user\nS\n\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
    "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n"
)
EXPECTED: dict[str, tuple[str, str]] = {
    "chatml": (_CHATML, "A2<|im_end|>"),
    "qwen": (_CHATML, "A2<|im_end|>"),
    "qwen3": (_CHATML, "<think>\n\n</think>\n\nA2<|im_end|>"),
    "qwen3_nothink": (_CHATML, "A2<|im_end|>"),
    "smollm": (_CHATML, "A2<|im_end|>"),
    "smollm2": (_CHATML, "A2<|im_end|>"),
    "llama2": ("<B>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ1 [/INST] A1 <E><B>[INST] Q2 [/INST]", " A2 <E>"),
    "llama3": (
        "<B><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "A2<|eot_id|>",
    ),
    "vicuna": ("<B>S USER: Q1 ASSISTANT: A1<E>USER: Q2 ASSISTANT:", " A2<E>"),
    "mistral": ("<B>[INST] Q1[/INST] A1<E>[INST] S\n\nQ2[/INST]", " A2<E>"),
    "gemma": (_GEMMA, "A2<end_of_turn>"),
    "gemma2": (_GEMMA, "A2<end_of_turn>"),
    "gemma3": (_GEMMA, "A2<end_of_turn>"),
    "deepseek": ("<B>S\n\nUser: Q1\n\nAssistant: A1<E>User: Q2\n\nAssistant:", " A2<E>"),
    "deepseek3": ("<B>S<｜User｜>Q1<｜Assistant｜>A1<E><｜User｜>Q2<｜Assistant｜>", "A2<E>"),
    "deepseekr1": ("<B>S<｜User｜>Q1<｜Assistant｜>A1<E><｜User｜>Q2<｜Assistant｜><think>\n", "\n</think>\n\nA2<E>"),
    "glm4": ("[gMASK]<sop><|system|>\nS<|user|>\nQ1<|assistant|>\nA1<|user|>\nQ2<|assistant|>", "\nA2<|user|>"),
    "phi": (
        "<|system|>\nS<|end|>\n<|user|>\nQ1<|end|>\n<|assistant|>\nA1<|end|>\n<|user|>\nQ2<|end|>\n<|assistant|>\n",
        "A2<|end|>",
    ),
    "phi4": (
        "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>Q1<|im_end|>"
        "<|im_start|>assistant<|im_sep|>A1<|im_end|><|im_start|>user<|im_sep|>Q2<|im_end|>"
        "<|im_start|>assistant<|im_sep|>",
        "A2<|im_end|>",
    ),
    "default": ("System: S<E>\nHuman: Q1<E>\nAssistant:A1<E>\nHuman: Q2<E>\nAssistant:", "A2<E>"),
    "alpaca": (
        "S\n\n### Instruction:\nQ1\n\n### Response:\nA1<E>\n\n### Instruction:\nQ2\n\n### Response:\n",
        "A2<E>",
    ),
    "empty": ("SQ1A1Q2", "A2"),
}
DEFAULT_SYSTEM = {
    "qwen": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "smollm2": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "vicuna": "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "alpaca": "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.",
}


def _dialect(name: str) -> SlotDialect:
    return SlotDialect(get_template(name), "<B>", "<E>", RenderSettings())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_template_writes_its_layout(name: str) -> None:
    prompt, trained = EXPECTED[name]
    assert _dialect(name).prompt_text(TALK) == prompt
    assert _dialect(name).answer_text(TALK, Message("assistant", "A2")).taught == trained


@pytest.mark.parametrize("name", EXPECTED)
def test_generated_text_parses_back_to_the_words(name: str) -> None:
    dialect = _dialect(name)
    trained = dialect.answer_text(TALK, Message("assistant", "A2")).taught
    assert dialect.parse(trained.removesuffix(dialect.end_text)) == Message("assistant", "A2")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_default_system_text_is_written_only_where_the_family_has_one(name: str) -> None:
    question = [Message("user", "Q")]
    with_default = _dialect(name).prompt_text(question)
    expected = [Message("system", DEFAULT_SYSTEM[name]), *question] if name in DEFAULT_SYSTEM else question
    bare = SlotDialect(get_template(name), "<B>", "<E>", RenderSettings(default_system=""))
    assert with_default == bare.prompt_text(expected)
    assert (with_default == bare.prompt_text(question)) == (name not in DEFAULT_SYSTEM)


def test_every_template_is_spelled_out() -> None:
    assert list(EXPECTED) == list(templates())
    assert len(EXPECTED) == 22
