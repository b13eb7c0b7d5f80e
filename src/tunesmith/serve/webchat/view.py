"""A pane of a room as the list of bubbles that the page shows, and which turn each bubble belongs to.

A turn may be several bubbles: its thought (folded), its text, a call of a tool. Clicks come back as the index of a
bubble, so that the map from bubbles to turns is made here too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tunesmith.serve.webchat.room import Pane
from tunesmith.serve.webchat.words import word
from tunesmith.types import Message, ToolCall

Bubble = dict[str, Any]


@dataclass
class View:
    """Bubbles in order; `turns[i]` is the index of the turn that bubble i belongs to, `kinds[i]` what it shows.

    Kinds: "text" (may be edited and voted on), "thought", "call", "result".
    """

    bubbles: list[Bubble] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def add(self, kind: str, turn: int, role: str, content: str, title: str = "", status: str | None = None) -> None:
        """Append one bubble."""
        bubble: Bubble = {"role": role, "content": content}
        if title:
            bubble["metadata"] = {"title": title, **({"status": status} if status else {})}
        self.bubbles.append(bubble)
        self.turns.append(turn)
        self.kinds.append(kind)

    def groups(self) -> list[tuple[int, int]]:
        """(first, last) bubble of each run of assistant bubbles: what the page puts one pair of thumbs under."""
        found: list[tuple[int, int]] = []
        for index, bubble in enumerate(self.bubbles):
            if bubble["role"] != "assistant":
                continue
            if found and found[-1][1] == index - 1:
                found[-1] = (found[-1][0], index)
            else:
                found.append((index, index))
        return found

    def judged_turn(self, bubble: int) -> int:
        """The turn that a thumb on a bubble means: the last one of its group; -1 when there is no such bubble."""
        return next((self.turns[last] for first, last in self.groups() if first <= bubble <= last), -1)


def view_of(pane: Pane, lang: str) -> View:
    """What the page shows of a pane, with the answer that is being given."""
    view = View()
    for index, turn in enumerate(pane.turns):
        _add_turn(view, index, turn, lang)
    if pane.draft is not None:
        _add_draft(view, len(pane.turns), pane.draft.message, lang)
    return view


def thumbs_of(pane: Pane, view: View) -> list[str | None]:
    """The thumb under each group of assistant bubbles, as the page wants them: in order, None for no vote."""
    names = {True: "Like", False: "Dislike"}
    votes = (pane.votes.get(view.turns[last]) for _, last in view.groups())
    return [None if vote is None else names[vote] for vote in votes]


def _add_turn(view: View, index: int, turn: Message, lang: str) -> None:
    if turn.role == "user":
        view.add("text", index, "user", turn.content)
    elif turn.role == "tool":
        view.add("result", index, "assistant", _json_block(turn.content), word("result", lang))
    else:
        if turn.reasoning:
            view.add("thought", index, "assistant", turn.reasoning, word("thought", lang), "done")
        if turn.content.strip() or not turn.tool_calls:
            view.add("text", index, "assistant", turn.content or word("said_nothing", lang))
        for call in turn.tool_calls:
            _add_call(view, index, call, lang)


def _add_draft(view: View, index: int, draft: Message, lang: str) -> None:
    if draft.reasoning:
        is_thinking = not draft.content and not draft.tool_calls
        title = word("thinks" if is_thinking else "thought", lang)
        view.add("thought", index, "assistant", draft.reasoning, title, "pending" if is_thinking else "done")
    if draft.content:
        view.add("text", index, "assistant", draft.content)
    for call in draft.tool_calls:
        _add_call(view, index, call, lang)
    if not (draft.reasoning or draft.content or draft.tool_calls):
        view.add("text", index, "assistant", "…")


def _add_call(view: View, index: int, call: ToolCall, lang: str) -> None:
    view.add("call", index, "assistant", _json_block(call.arguments), f"{word('calls', lang)} {call.name}")


def _json_block(text: str) -> str:
    """JSON text indented in a code block; any other text in a plain one."""
    try:
        text, kind = json.dumps(json.loads(text), ensure_ascii=False, indent=2), "json"
    except json.JSONDecodeError:
        kind = "text"
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{kind}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    longest = run = 0
    for char in text:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    return longest
