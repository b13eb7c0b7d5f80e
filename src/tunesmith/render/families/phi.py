"""Phi-3 and 3.5 (`phi`) and Phi-4."""

from __future__ import annotations

from tunesmith.render.template import Template

TEMPLATES = (
    Template(
        name="phi",
        family="phi",
        system="<|system|>\n{content}<|end|>\n",
        user="<|user|>\n{content}<|end|>\n",
        header="<|assistant|>\n",
        end="<|end|>",
        gap="\n",
        stops=("<|endoftext|>",),
        required_tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    Template(
        name="phi4",
        family="phi",
        system="<|im_start|>system<|im_sep|>{content}<|im_end|>",
        user="<|im_start|>user<|im_sep|>{content}<|im_end|>",
        header="<|im_start|>assistant<|im_sep|>",
        end="<|im_end|>",
        stops=("<|endoftext|>",),
        required_tokens=("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    ),
)
