"""Llama 2, Llama 3 and Vicuna.

Llama 2 marks turns with ordinary text and opens every exchange with the begin token; Llama 3 has header tokens.
"""

from __future__ import annotations

from tunesmith.render.template import Template, ToolTurns

TEMPLATES = (
    Template(
        name="llama2",
        family="llama",
        system="<<SYS>>\n{content}\n<</SYS>>\n\n",
        system_place="first_user",
        user="{bos}[INST] {content} [/INST]",
        answer=" {content} ",
        trims=("user", "assistant"),
        notes="The spaces around the answer are those of the model's own template; the one before the end token "
        "is trained, as Meta did. LLaMA-Factory leaves it out.",
    ),
    Template(
        name="llama3",
        family="llama",
        prefix="{bos}",
        system="<|start_header_id|>system<|end_header_id|>\n\n{content}<|eot_id|>",
        user="<|start_header_id|>user<|end_header_id|>\n\n{content}<|eot_id|>",
        header="<|start_header_id|>assistant<|end_header_id|>\n\n",
        end="<|eot_id|>",
        stops=("<|eom_id|>", "<|end_of_text|>"),
        required_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        tools=ToolTurns(
            "llama3",
            turn="{content}",
            result="<|start_header_id|>ipython<|end_header_id|>\n\n{content}<|eot_id|>",
        ),
        trims=("system", "user", "assistant"),
        notes="Llama 3, 3.1, 3.2, 3.3. The own templates of 3.1 and later also write a system turn with two dates "
        "(the second is today's); this one does not, so that data never depends on the calendar. With tools they are "
        "written too, as in the own templates, the second always as 26 Jul 2024. Words in front of a call and several "
        "calls at once, which the own templates drop or refuse, are written.",
    ),
    Template(
        name="vicuna",
        family="llama",
        prefix="{bos}",
        system="{content} ",
        default_system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        user="USER: {content} ",
        header="ASSISTANT:",
        answer=" {content}",
    ),
)
