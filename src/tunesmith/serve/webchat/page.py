"""The page's parts: what stands where, and what each part is called in the two languages.

`build` lays them out and returns them; `events.py` says what happens when one is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from tunesmith.infer.engine import SamplingParams
from tunesmith.serve.webchat.words import word


@dataclass(frozen=True)
class Facts:
    """What the page tells of the session.

    Attributes:
        models: names that can answer, the tuned one first.
        params: the settings that the sliders begin with.
        context_length: tokens of prompt and answer together.
        can_think, thinks: whether the template knows thoughts, and whether answers think by default.
        about: lines on what was loaded.
        feedback_path: where votes go.
    """

    models: tuple[str, ...]
    params: SamplingParams
    context_length: int
    can_think: bool
    thinks: bool
    about: tuple[str, ...]
    feedback_path: str
    lang: str


@dataclass
class Parts:
    """The components of the page by name, and their texts: (component, property, word)."""

    by_name: dict[str, Any] = field(default_factory=dict)
    texts: list[tuple[Any, str, str]] = field(default_factory=list)
    lang: str = "en"

    def __getitem__(self, name: str) -> Any:
        return self.by_name[name]

    def add(self, name: str, kind: Any, **properties: Any) -> Any:
        """Make a component; a property given as `("word", KEY)` is a text that changes with the language."""
        words = {key: value[1] for key, value in properties.items() if _is_word(value)}
        given = {**properties, **{key: word(value, self.lang) for key, value in words.items()}}
        component = kind(**given)
        self.by_name[name] = component
        self.texts += [(component, key, value) for key, value in words.items()]
        return component

    def relabel(self, lang: str) -> dict[Any, Any]:
        """The updates that turn the page to another language."""
        changed: dict[Any, dict[str, Any]] = {}
        for component, key, name in self.texts:
            changed.setdefault(component, {})[key] = word(name, lang)
        return {component: gr.update(**properties) for component, properties in changed.items()}


def _is_word(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and value[0] == "word"


def build(facts: Facts) -> Parts:
    """Lay the page out inside the `gr.Blocks` that is open."""
    parts = Parts(lang=facts.lang)
    with parts.add("sidebar", gr.Sidebar, position="right", open=False, width=360):
        _sidebar(parts, facts)
    with gr.Column(elem_id="frame"):
        _head(parts, facts)
        with gr.Row(elem_id="panes", equal_height=True):
            _chat(parts, "left", visible=True)
            _chat(parts, "right", visible=False)
        _choice(parts)
        _toolbox(parts)
        parts.add(
            "ask",
            gr.Textbox,
            elem_id="ask",
            placeholder=("word", "message"),
            show_label=False,
            lines=1,
            max_lines=12,
            autofocus=True,
            submit_btn=True,
            stop_btn=False,
        )
        parts.add("status", gr.Markdown, value="", elem_id="status")
    return parts


def _head(parts: Parts, facts: Facts) -> None:
    several = len(facts.models) > 1
    parts.add("lang", gr.State, value=facts.lang)
    with gr.Row(elem_id="head"):
        parts.add("brand", gr.Markdown, value=("word", "title"), elem_id="brand")
        common: dict[str, Any] = {
            "choices": list(facts.models),
            "show_label": False,
            "container": False,
            "min_width": 160,
            "elem_classes": "model",
        }
        parts.add("model", gr.Dropdown, value=facts.models[0], interactive=several, **common)
        parts.add("other", gr.Dropdown, value=facts.models[-1], visible=False, **common)
        parts.add(
            "compare", gr.Checkbox, label=("word", "compare"), container=False, visible=several, elem_id="compare"
        )
        parts.add("language", gr.Button, value=("word", "other_language"), size="sm", elem_id="language")


def _chat(parts: Parts, name: str, *, visible: bool) -> None:
    parts.add(
        name,
        gr.Chatbot,
        elem_id=f"pane-{name}",
        show_label=False,
        height="100%",
        container=False,
        editable="all",
        buttons=["copy", "copy_all"],
        layout="bubble",
        placeholder=("word", "empty"),
        visible=visible,
        feedback_options=["Like", "Dislike"],
        allow_tags=True,
        allow_file_downloads=False,
    )


def _choice(parts: Parts) -> None:
    with parts.add("choice", gr.Row, visible=False, elem_id="choice"):
        parts.add("better", gr.Markdown, value=("word", "better"), elem_classes="quiet")
        parts.add("prefer_left", gr.Button, value=("word", "left"), size="sm")
        parts.add("prefer_right", gr.Button, value=("word", "right"), size="sm")


def _toolbox(parts: Parts) -> None:
    with parts.add("toolbox", gr.Row, visible=False, elem_id="toolbox"):
        parts.add(
            "tool_result",
            gr.Textbox,
            label=("word", "tool_result"),
            placeholder=("word", "tool_hint"),
            lines=2,
            scale=6,
            elem_id="tool-result",
        )
        parts.add("tool_send", gr.Button, value=("word", "tool_send"), variant="primary", scale=1, min_width=140)


def _sidebar(parts: Parts, facts: Facts) -> None:
    parts.add(
        "system", gr.Textbox, label=("word", "system"), placeholder=("word", "system_hint"), lines=3, max_lines=10
    )
    parts.add("thinking", gr.Checkbox, label=("word", "thinking"), value=facts.thinks, visible=facts.can_think)
    parts.add("markdown", gr.Checkbox, label=("word", "markdown"), value=True)
    with parts.add("sampling", gr.Accordion, label=("word", "sampling"), open=True):
        _sampling(parts, facts)
    with parts.add("tools", gr.Accordion, label=("word", "tools"), open=False):
        parts.add(
            "tools_json",
            gr.Textbox,
            label=("word", "tools_json"),
            placeholder=("word", "tools_hint"),
            lines=5,
            max_lines=20,
        )
        parts.add("tools_told", gr.Markdown, value=("word", "tools_none"), elem_classes="quiet")
    with parts.add("conversation", gr.Accordion, label=("word", "conversation"), open=False), gr.Row():
        parts.add("save", gr.Button, value=("word", "save"), size="sm", min_width=80)
        parts.add(
            "load",
            gr.UploadButton,
            label=("word", "load"),
            size="sm",
            min_width=80,
            type="binary",
            file_types=[".jsonl", ".json"],
        )
    with parts.add("votes", gr.Accordion, label=("word", "votes"), open=False):
        where = word("votes_where", facts.lang, path=facts.feedback_path)
        parts.add("votes_where", gr.Markdown, value=where, elem_classes="quiet")
    with parts.add("about", gr.Accordion, label=("word", "about"), open=False):
        parts.add("notes", gr.Markdown, value=_as_list(facts.about), elem_classes="quiet")
    parts.add("saved", gr.Textbox, visible=False)
    parts.add("secret", gr.Textbox, visible=False)


def _as_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _sampling(parts: Parts, facts: Facts) -> None:
    params = facts.params
    longest = max(16, min(facts.context_length, 8192))
    parts.add(
        "max_new_tokens",
        gr.Slider,
        label=("word", "max_new_tokens"),
        minimum=1,
        maximum=longest,
        step=1,
        value=min(params.max_new_tokens or longest, longest),
    )
    parts.add("do_sample", gr.Checkbox, label=("word", "do_sample"), value=params.do_sample)
    sliders = (
        ("temperature", 0, 2, 0.01, params.temperature),
        ("top_p", 0.01, 1, 0.01, params.top_p),
        ("top_k", 0, 200, 1, params.top_k),
        ("repetition_penalty", 0.5, 2, 0.01, params.repetition_penalty),
    )
    for name, low, high, step, value in sliders:
        parts.add(name, gr.Slider, label=("word", name), minimum=low, maximum=max(high, value), step=step, value=value)
    seed = -1 if params.seed is None else params.seed
    parts.add("seed", gr.Number, label=("word", "seed"), value=seed, precision=0, minimum=-1)
