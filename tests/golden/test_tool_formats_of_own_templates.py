"""The text of a tool format is what the family's own template writes, also where no template of the tables uses it.

The oracle is the text that a family's Jinja file renders; in it must stand, letter by letter, what the format writes of
the tools and of the calls. And every file that writes calls is recognised as the format that it is, or as none.
"""

from __future__ import annotations

import json

import pytest
import tool_talks
import vocabularies

from tunesmith.render.jinja import compile_template
from tunesmith.render.tools import FORMATS, recognise

OWN = {
    "qwen2_5": "qwen", "qwen3": "qwen", "qwen3_5_think": "qwen3_5", "qwen3_8": "qwen3_5", "glm4moe": "glm4_moe",
    "lfm2_v2": "lfm2", "gemma4": "gemma4", "gemma4_v5": "gemma4", "llama3_1": "llama3", "deepseekv3": "deepseek",
}  # fmt: skip
TALK = (tool_talks.SYSTEM, tool_talks.QUESTION, tool_talks.calling(tool_talks.OSLO), tool_talks.SUNNY)
PARALLEL = (*TALK[:2], tool_talks.calling(tool_talks.OSLO, tool_talks.ROME), tool_talks.SUNNY, tool_talks.RAINY)


def own_text(jinja: str, talk: tuple[tool_talks.Message, ...]) -> str:
    rows = tool_talks.as_tool_rows(talk)
    if jinja == "deepseekv3":  # it takes the arguments as text
        for made in (made for row in rows for made in row.get("tool_calls", ())):
            made["function"]["arguments"] = json.dumps(made["function"]["arguments"], ensure_ascii=False)
    template = compile_template(vocabularies.own_jinja(jinja))
    return template.render(messages=rows, tools=tool_talks.wrapped_tools(), bos_token="", eos_token="")


@pytest.mark.parametrize("jinja", OWN)
def test_tools_and_calls_are_written_as_the_family_writes_them(jinja: str) -> None:
    form = FORMATS[OWN[jinja]]
    assert form.calls_text((tool_talks.OSLO,)) in own_text(jinja, TALK)
    if jinja != "llama3_1":  # refuses several calls
        assert form.calls_text((tool_talks.OSLO, tool_talks.ROME)) in own_text(jinja, PARALLEL)
    if jinja != "deepseekv3":  # tells no tools
        assert form.tools_text(tool_talks.TOOLS) in own_text(jinja, TALK)


def test_the_format_of_a_familys_own_template_is_recognised() -> None:
    found = {}
    for file in sorted((vocabularies.package_folder("trl") / "chat_templates").glob("*.jinja")):
        source = file.read_text(encoding="utf-8")
        if "tool_calls" in source and "training" not in file.stem:
            made = recognise(source)
            found[file.stem] = made.name if made else None
    assert {name: found[name] for name in OWN} == OWN
    assert [name for name, made in found.items() if made is None] == ["gptoss", "muse_glimmer"]
    assert len(found) >= 25
