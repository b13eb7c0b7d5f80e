"""DeepSeek: the LLM chat models (`deepseek`), V2.5/V3 (`deepseek3`) and R1 (`deepseekr1`).

The bars and the underline in V3's tokens are full-width U+FF5C and U+2581, not ASCII.
"""

from __future__ import annotations

from tunesmith.render.template import Template, Thinking

_V3_TURNS = ("<｜User｜>", "<｜Assistant｜>")

TEMPLATES = (
    Template(
        name="deepseek",
        family="deepseek",
        prefix="{bos}",
        system="{content}\n\n",
        user="User: {content}\n\n",
        header="Assistant:",
        answer=" {content}",
    ),
    Template(
        name="deepseek3",
        family="deepseek",
        prefix="{bos}",
        user="<｜User｜>{content}",
        header="<｜Assistant｜>",
        required_tokens=_V3_TURNS,
    ),
    Template(
        name="deepseekr1",
        family="deepseek",
        prefix="{bos}",
        user="<｜User｜>{content}",
        header="<｜Assistant｜>",
        required_tokens=_V3_TURNS,
        thinking=Thinking(prompt_opens=True),
        notes="The generation prompt opens the thought, as in the model's own template; thoughts leave the history.",
    ),
)
