"""ChatML and the families that use it: Qwen, Qwen3, SmolLM, SmolLM2, Yi-like base models.

A turn is `<|im_start|>ROLE\n ... <|im_end|>\n`. Generation stops at `<|im_end|>`, so the newline after it is
context of the next turn and never trained.
"""

from __future__ import annotations

from dataclasses import replace

from tunesmith.render.template import Template, Thinking, ToolTurns

_QWEN_TOOLS = ToolTurns(
    format="qwen",
    turn="<|im_start|>user{content}<|im_end|>\n",
    result="\n<tool_response>\n{content}\n</tool_response>",
    keeps_thoughts=True,
)
_CHATML = Template(
    name="chatml",
    family="chatml",
    system="<|im_start|>system\n{content}<|im_end|>\n",
    user="<|im_start|>user\n{content}<|im_end|>\n",
    header="<|im_start|>assistant\n",
    end="<|im_end|>",
    gap="\n",
    stops=("<|im_start|>",),
    required_tokens=("<|im_start|>", "<|im_end|>"),
    tools=ToolTurns(turn="{content}", result="<|im_start|>tool\n{content}<|im_end|>\n"),
)

TEMPLATES = (
    _CHATML,
    replace(
        _CHATML,
        name="qwen",
        family="qwen",
        tools=_QWEN_TOOLS,
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        stops=("<|endoftext|>",),
        notes="Qwen2 and Qwen2.5. Without a system turn the vendor's default system text is written.",
    ),
    replace(
        _CHATML,
        name="qwen3",
        family="qwen",
        tools=_QWEN_TOOLS,
        stops=("<|endoftext|>",),
        thinking=Thinking(),
        notes="Thoughts leave the history when a new question comes, as in the model's own template; a dialogue "
        "of several turns therefore becomes one example per answer, unless `preserve_thinking: true`.",
    ),
    replace(
        _CHATML,
        name="qwen3_nothink",
        family="qwen",
        tools=_QWEN_TOOLS,
        stops=("<|endoftext|>",),
        notes="Qwen3 Instruct models, which do not think (2507).",
    ),
    replace(_CHATML, name="smollm", family="smollm", stops=("<|endoftext|>",)),
    replace(
        _CHATML,
        name="smollm2",
        family="smollm",
        default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        stops=("<|endoftext|>",),
        notes="The default system text has no full stop at its end, as in the model's own template "
        "(LLaMA-Factory writes one).",
    ),
)
