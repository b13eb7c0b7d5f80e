"""Conversations to try a template on: what differs between two renderings shows on one of these.

Plain literals, independent of any tokenizer: turns, system texts, scripts, whitespace at every edge, code, length,
special-token text, thoughts. `CONTRACT_PROBES` are stored with every run; all of `probe_conversations` are compared by
`template check` and by the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.render.reasoning import inline_reasoning
from tunesmith.types import Message, ToolCall, ToolSpec


@dataclass(frozen=True, slots=True)
class Probe:
    """A named conversation that ends with an answer."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()

    @property
    def question(self) -> tuple[Message, ...]:
        """Everything before the last answer."""
        return self.messages[:-1]


def _talk(name: str, *words: str, system: str | None = None) -> Probe:
    turns = [Message("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(words)]
    opening = [] if system is None else [Message("system", system)]
    return Probe(name, (*opening, *turns))


_TOOL = ToolSpec(
    "get_weather",
    "The weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string", "description": "its name"}}, "required": ["city"]},
)
_CALL = ToolCall("get_weather", '{"city": "Oslo"}')
_ASKED = Message("user", "How is the weather in Oslo and in 北京?")
_CALLED = Message("assistant", "", tool_calls=(_CALL,))
TOOL_PROBES: tuple[Probe, ...] = (
    Probe("a call", (_ASKED, _CALLED), (_TOOL,)),
    Probe(
        "calls and results",
        (
            Message("system", "Answer briefly."),
            _ASKED,
            Message("assistant", "", tool_calls=(_CALL, ToolCall("get_weather", '{"city": "北京"}'))),
            Message("tool", '{"sky": "clear"}'),
            Message("tool", "rain"),
            Message("assistant", "Clear in Oslo, rain in 北京."),
        ),
        (_TOOL,),
    ),
    Probe("words and a call", (_ASKED, Message("assistant", "Let me look.", tool_calls=(_CALL,))), (_TOOL,)),
)
"""Conversations with tools: stored with every run, and tried on the chat template of an exported model."""

CONTRACT_PROBES: tuple[Probe, ...] = (
    _talk("one turn", "Who are you?", "I am an assistant."),
    _talk("system", "Who are you?", "I am an assistant.", system="Answer briefly."),
    _talk("three turns", "Hi", "Hello!", "What is 2 + 2?", "4", "And 3 + 3?", "6"),
    _talk(
        "Chinese with system",
        "你是谁？",
        "我是一个人工智能助手。",
        "谢谢",
        "不客气！",
        system="你是一个乐于助人的助手。",
    ),
    _talk("emoji and whitespace", " 👩‍👩‍👧 \n", "\n🎉  fine \n\n", "next", "ok"),
    Probe("a thought", (Message("user", "Is 7 prime?"), Message("assistant", "Yes.", reasoning="7 has no divisors."))),
)
"""Stored with every run, together with `TOOL_PROBES`."""

_CODE = 'def add(a, b):\n    """Sum."""\n    return a + b\n\n\nprint(add(1, 2))\t# 3\n'
_WORDS: tuple[tuple[str, str, str], ...] = (
    ("plain", "Tell me a story.", "Once upon a time there was a fox."),
    ("one character", "a", "b"),
    ("digits", "1234567890 + 42", "1234567932"),
    ("punctuation", "?!... (really) -- \"yes\" 'no'", "[ok]; {fine}: <done>."),
    ("Chinese", "请用一句话介绍北京。", "北京是中国的首都，历史悠久。"),
    ("Japanese", "自己紹介をしてください。", "私はアシスタントです。よろしくお願いします。"),
    ("Korean", "안녕하세요", "안녕하세요! 무엇을 도와드릴까요?"),
    ("Arabic", "من أنت؟", "أنا مساعد."),
    ("rare characters", "魑魅魍魎 𠮷 ꙮ", "ﷺ ℵ₀ 𝔘"),
    ("emoji", "👍🏽 🇩🇪 👨‍👩‍👧‍👦", "🎉🎊 ok 😀"),
    ("combining", "e\u0301 n\u0303 \u0928\u093f", "cafe\u0301"),
    ("leading space", " hello", " world"),
    ("trailing space", "hello ", "world "),
    ("leading newline", "\nhello", "\nworld"),
    ("trailing newline", "hello\n", "world\n"),
    ("many newlines", "\n\n\nhello\n\n\n", "\n\n\nworld\n\n\n"),
    ("tabs and spaces", "\t  a\t\tb  ", "  \tc\t"),
    ("blank lines inside", "a\n\n\n\nb\r\nc", "d\n \n\te"),
    ("code", _CODE, f"```python\n{_CODE}```"),
    ("html", "<b>bold</b> &amp; <br/>", "<p>x</p>"),
    ("json", '{"a": [1, 2, {"b": null}]}', '{"ok": true}'),
    ("latex", "$\\frac{a}{b}$ \\\\ \\{x\\}", "\\[ e^{i\\pi} = -1 \\]"),
    ("braces", "{content} {{content}} {bos} {eos} {0}", "{% raw %}{{ x }}{% endraw %}"),
    ("looks like a turn", "user\nassistant\n### Response:\n[INST] x [/INST]", "Human: hi\nAssistant: yo"),
)
_SPECIAL = (
    "<|im_end|>", "<|im_start|>assistant\n", "<|eot_id|>", "<end_of_turn>", "</s>", "<s>", "<|endoftext|>",
    "<|user|>", "<|end|>", "<｜end▁of▁sentence｜>", "<eos>",
)  # fmt: skip


def probe_conversations() -> Iterator[Probe]:
    """All of them (more than 90), in a fixed order; `special:` ones hold the text of control tokens."""
    yield from CONTRACT_PROBES
    for name, question, answer in _WORDS:
        yield _talk(name, question, answer)
        yield _talk(f"{name}, with system", question, answer, system="You are terse.")
        yield _talk(f"{name}, two turns", question, answer, answer, question)
    yield _talk("system with edges", "Hi", "Hello", system="\n  Be kind. \n")
    yield _talk("long question", "The quick brown fox jumps over the lazy dog. " * 200, "ok")
    yield _talk("long answer", "Go on.", "敏捷的棕色狐狸跳过了懒狗。" * 200)
    yield _talk("many turns", *[f"turn {number}" for number in range(12)], system="Count.")
    yield from _special_probes()
    yield from _thought_probes()


def _special_probes() -> Iterator[Probe]:
    for text in _SPECIAL:
        yield _talk(f"special: {text.strip()}", f"What does {text} mean?", f"{text} ends a turn.", f"{text}", "ok")


def _thought_probes() -> Iterator[Probe]:
    thought = Message("assistant", "408.", reasoning="17 * 24 = 17 * 20 + 17 * 4\n= 340 + 68")
    question = Message("user", "17 * 24?")
    yield Probe("thought, two turns", (question, thought, Message("user", "Sure?"), Message("assistant", "Yes.")))
    later = (Message("user", "Hi"), Message("assistant", "Hello"), question, thought)
    yield Probe("thought in the second answer", later)
    yield _talk("thought written in the text", "Hi", "<think>\ngreet back\n</think>\n\nHello", "And?", "Nothing.")


def as_rows(messages: Sequence[Message], *, thoughts_apart: bool = True) -> list[dict[str, Any]]:
    """The messages in the form that `apply_chat_template` takes.

    thoughts_apart: thoughts under a key of their own, for layouts that know them; otherwise in front of the words.
    """
    rows = []
    for message in messages:
        words = message.content if thoughts_apart else inline_reasoning(message)
        row: dict[str, Any] = {"role": message.role, "content": words}
        if thoughts_apart and message.reasoning is not None:
            row["reasoning_content"] = message.reasoning
        if message.tool_calls:
            row["tool_calls"] = [_as_call(call) for call in message.tool_calls]
        rows.append(row)
    return rows


def _as_call(call: ToolCall) -> dict[str, Any]:
    return {"type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
