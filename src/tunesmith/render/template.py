"""A chat template as data: how a conversation becomes text, as short strings with markers.

A template holds no code. Each slot is literal text with `{content}` (what somebody said), `{bos}` and `{eos}`
(the tokenizer's own tokens). The literal tables are in `families/`; adding a template is one entry there.
Rendering is `slots.py`; turning the text into tokens is `encode.py`. Slots follow the layout that the model
family was trained with; where a family ships a Jinja template, golden tests hold the two equal.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from tunesmith.errors import TemplateError, did_you_mean
from tunesmith.types import Role

SystemPlace = Literal["turn", "first_user", "last_user"]
"""Where a system text goes: a turn of its own, or in front of the first or the last user's words."""

FAMILY_MODULES = ("chatml", "llama", "mistral", "gemma", "deepseek", "glm", "phi", "plain")
"""The tables, in the order in which `template list` shows them: modules of `tunesmith.render.families`."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a reasoning model writes its thoughts: `open` + thought + `close`, in front of the answer.

    `prompt_opens`: the generation prompt itself ends with `open` (DeepSeek-R1), so that the model's
    first token is already part of the thought.
    """

    open: str = "<think>\n"
    close: str = "\n</think>\n\n"
    prompt_opens: bool = False


@dataclass(frozen=True, slots=True)
class ToolTurns:
    """How tools, calls and results stand in the turns of a layout.

    Attributes:
        format: how tools and calls are written: a name of `render/tools`.
        turn: the turn of the results that follow each other; empty: each result is a user's turn.
        result: one result in it.
        calls: the answer slot of an answer that is nothing but calls; empty: the same as `Template.answer`.
        end: the token that ends an answer with calls; empty: the same as `Template.end`.
        keeps_thoughts: thoughts of the answers since the last question stay in the history.
    """

    format: str = "default"
    turn: str = ""
    result: str = "{content}"
    calls: str = ""
    end: str = ""
    keeps_thoughts: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """One chat layout.

    Attributes:
        name: what the user writes as `template:`.
        family: the group under which it is listed.
        user: a user's turn.
        header: opens an assistant turn; a generation prompt ends with it.
        answer: what the model writes, without the end. Literal text in it is part of the answer and trained.
        end: the token that ends an answer. Trained, and generation stops there. Empty: no end is known.
        gap: text after `end`, before the next turn. The model never writes it, so it is never trained.
        prefix: text in front of everything.
        system: a system turn, or, when merged, what is put in front of the user's words.
        system_place: where the system text goes.
        default_system: the system text of a conversation that has none.
        stops: further tokens at which generation stops, where the vocabulary has them.
        end_opens_next_turn: `end` is the token that opens the next user turn (GLM): it is written once.
        required_tokens: texts that must each be one token of the model's vocabulary.
        trims: roles whose words are stripped of surrounding whitespace, as the family's own template does.
        thinking: how thoughts are written, for reasoning models.
        tools: how tools, their calls and their results are written.
        notes: what somebody who compares with other tools should know.
    """

    name: str
    family: str
    user: str
    header: str = ""
    answer: str = "{content}"
    end: str = "{eos}"
    gap: str = ""
    prefix: str = ""
    system: str = "{content}"
    system_place: SystemPlace = "turn"
    default_system: str | None = None
    stops: tuple[str, ...] = ()
    end_opens_next_turn: bool = False
    required_tokens: tuple[str, ...] = ()
    trims: tuple[Role, ...] = ()
    thinking: Thinking | None = None
    tools: ToolTurns = ToolTurns()
    notes: str = ""

    def __post_init__(self) -> None:
        for slot in ("user", "answer", "system"):
            if getattr(self, slot).count("{content}") != 1:
                raise ValueError(f"template '{self.name}': slot '{slot}' must hold {{content}} exactly once")

    def fingerprint(self) -> str:
        """sha256 of everything that shapes the tokens of conversations without tools (the notes do not)."""
        data = asdict(self)
        del data["notes"], data["family"], data["tools"]
        return _sha256(data)

    def tools_fingerprint(self) -> str:
        """sha256 of what else shapes the tokens of conversations with tools."""
        return _sha256(asdict(self.tools))


def _sha256(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@lru_cache(maxsize=1)
def templates() -> dict[str, Template]:
    """Every template by name, in listing order. Raises: ValueError when two tables give the same name."""
    found: dict[str, Template] = {}
    for module_name in FAMILY_MODULES:
        module = importlib.import_module(f"tunesmith.render.families.{module_name}")
        for template in module.TEMPLATES:
            if template.name in found:
                raise ValueError(f"template '{template.name}' is given twice")
            found[template.name] = template
    return found


def get_template(name: str) -> Template:
    """The template called `name`. Raises: TemplateError for an unknown name, with the nearest one."""
    known = templates()
    if name not in known:
        hint = did_you_mean(name, known)
        raise TemplateError(
            f"unknown template '{name}'",
            where="template",
            fix=f"{hint} Known: {', '.join(known)}. Leave `template` out to use the model's own.".strip(),
        )
    return known[name]
