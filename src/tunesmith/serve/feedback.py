"""Votes, edits and choices of the web chat, made into training rows: stage kto, dpo or sft.

One record may give no row, one, or two; every record is accounted for. Rows are written in the public tool's sharegpt
layout (role/content messages), so that they train here and there. What counts:

- kto: every judged answer with its thumb. A rewritten answer is a good one, what it replaced a bad one. A choice gives
  one of each.
- dpo: a rewritten answer before the original, the better of two answers before the other, and every answer with a thumb
  up before every answer to the same conversation with a thumb down (each used at least once).
- sft: rewritten answers, answers with a thumb up, preferred answers.

A later verdict on the same answer replaces an earlier one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import ConfigError
from tunesmith.render.reasoning import inline_reasoning
from tunesmith.serve.transcript import message_row, read_json, read_row, read_text
from tunesmith.types import Message, ToolSpec

Aim = Literal["kto", "dpo", "sft"]
AIMS: tuple[Aim, ...] = ("kto", "dpo", "sft")


@dataclass(frozen=True)
class Verdict:
    """One line of a feedback file. `other` is the rewritten answer (edit) or the worse one (choice)."""

    line: int
    kind: Literal["vote", "edit", "choice"]
    prompt: tuple[Message, ...]
    answer: Message
    tools: tuple[ToolSpec, ...] = ()
    vote: Literal["up", "down", "none"] = "none"
    other: Message | None = None

    @property
    def question(self) -> str:
        """The same for verdicts on answers to the same conversation."""
        tools = [[tool.name, tool.description, dict(tool.parameters)] for tool in self.tools]
        return json.dumps([[message_row(turn) for turn in self.prompt], tools], sort_keys=True)

    @property
    def subject(self) -> str:
        """The same for verdicts of one kind on the same answer."""
        other = message_row(self.other) if self.kind == "choice" and self.other else None
        return json.dumps([self.kind, self.question, message_row(self.answer), other], sort_keys=True)


@dataclass
class Account:
    """What became of the records: rows by record (line), and why others gave none."""

    num_records: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    unused: dict[int, str] = field(default_factory=dict)

    def add(self, row: dict[str, Any], *verdicts: Verdict) -> None:
        """Keep a row, unless there is an equal one already; its records count as used."""
        if row not in self.rows:
            self.rows.append(row)
        self.used.update(verdict.line for verdict in verdicts)

    def leave(self, verdict: Verdict, why: str) -> None:
        """This record gave no row."""
        self.unused.setdefault(verdict.line, why)

    def reasons(self) -> dict[str, int]:
        """Why records gave no row -> how many."""
        counts: dict[str, int] = {}
        for line, why in self.unused.items():
            if line not in self.used:
                counts[why] = counts.get(why, 0) + 1
        return counts


def read_verdicts(path: Path) -> list[Verdict]:
    """The records of a feedback file. Raises: ConfigError naming the file and line of a record that is none."""
    lines = read_text(path).splitlines()
    return [_verdict(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]


def _verdict(line: str, number: int, path: Path) -> Verdict:
    where = f"{path}:{number}"
    row = read_json(line, where)
    kind = row.get("kind")
    if kind not in ("vote", "edit", "choice") or (kind == "vote" and row.get("vote") not in ("up", "down", "none")):
        raise ConfigError(f"{where} is no vote, edit or choice", fix="Give the file that the web chat wrote.")
    conversation = read_row({key: row.get(key) for key in ("messages", "tools")}, where)
    others = {"edit": "edited", "choice": "rejected"}
    other = _answer(row, others[kind], where) if kind in others else None
    return Verdict(
        number,
        kind,
        conversation.messages,
        _answer(row, "answer", where),
        conversation.tools,
        row.get("vote", "none"),
        other,
    )


def _answer(row: dict[str, Any], key: str, where: str) -> Message:
    """A message in a field of its own, read as the last turn of a conversation."""
    message = row.get(key)
    if not isinstance(message, dict):
        raise ConfigError(f"{where} has no '{key}'", fix="Give the file that the web chat wrote.")
    asked = {"role": "user", "content": "?"}
    return read_row({"messages": [asked, message]}, f"{where}, {key}").messages[-1]


def make_rows(verdicts: Sequence[Verdict], aim: Aim) -> Account:
    """Rows for a stage, and an account of all records."""
    account = Account(len(verdicts))
    standing = _latest(verdicts, account)
    {"kto": _kto, "dpo": _dpo, "sft": _sft}[aim](standing, account)
    return account


def _latest(verdicts: Sequence[Verdict], account: Account) -> list[Verdict]:
    """The last verdict on each answer; votes that were taken back are left out."""
    last = {verdict.subject: verdict for verdict in verdicts}
    standing = []
    for verdict in verdicts:
        if last[verdict.subject] is not verdict:
            account.leave(verdict, "replaced by a later verdict on the same answer")
        elif verdict.kind == "vote" and verdict.vote == "none":
            account.leave(verdict, "the vote was taken back")
        elif verdict.kind != "vote" and verdict.other == verdict.answer:
            account.leave(verdict, "both texts are the same")
        else:
            standing.append(verdict)
    return standing


def _kto(verdicts: Iterable[Verdict], account: Account) -> None:
    liked = {(verdict.question, _key(verdict.answer)) for verdict in verdicts if verdict.vote == "up"}
    for verdict in verdicts:
        if verdict.kind == "vote":
            account.add({**_conversation(verdict, verdict.answer), "kto_tag": verdict.vote == "up"}, verdict)
            continue
        assert verdict.other is not None
        better, worse = _better_and_worse(verdict)
        account.add({**_conversation(verdict, better), "kto_tag": True}, verdict)
        if (verdict.question, _key(worse)) not in liked:
            account.add({**_conversation(verdict, worse), "kto_tag": False}, verdict)


def _dpo(verdicts: Sequence[Verdict], account: Account) -> None:
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(verdict.question, []).append(verdict)
    for group in groups.values():
        for verdict in group:
            if verdict.kind != "vote":
                account.add(_pair(verdict, *_better_and_worse(verdict)), verdict)
        _pair_votes(group, account)


def _pair_votes(group: Sequence[Verdict], account: Account) -> None:
    """Pairs from thumbs on answers to one conversation; without a thumb up, a rewritten answer stands for it."""
    up = [verdict for verdict in group if verdict.vote == "up"]
    down = [verdict for verdict in group if verdict.vote == "down"]
    good = up or [verdict for verdict in group if verdict.kind == "edit"]
    for index in range(max(len(up), len(down)) if good and down else 0):
        better, worse = good[index % len(good)], down[index % len(down)]
        chosen = better.other if better.kind == "edit" and better.other else better.answer
        if chosen == worse.answer:
            account.leave(worse, "the same answer has a thumb up and a thumb down")
            continue
        account.add(_pair(better, chosen, worse.answer), better, worse)
    for verdict in (*up, *down):
        other = "down" if verdict.vote == "up" else "up"
        account.leave(verdict, f"no answer to the same conversation has a thumb {other}")


def _sft(verdicts: Sequence[Verdict], account: Account) -> None:
    rewritten = {(verdict.question, _key(verdict.answer)) for verdict in verdicts if verdict.kind == "edit"}
    for verdict in verdicts:
        if verdict.vote == "down":
            account.leave(verdict, "a thumb down says what not to answer, not what to answer")
            continue
        better = _better_and_worse(verdict)[0] if verdict.kind != "vote" else verdict.answer
        if (verdict.question, _key(better)) in rewritten:
            account.leave(verdict, "the answer was rewritten; the new text is used")
            continue
        account.add(_conversation(verdict, better), verdict)


def _better_and_worse(verdict: Verdict) -> tuple[Message, Message]:
    assert verdict.other is not None
    return (verdict.other, verdict.answer) if verdict.kind == "edit" else (verdict.answer, verdict.other)


def _key(message: Message) -> str:
    return json.dumps(message_row(message), sort_keys=True)


def _conversation(verdict: Verdict, answer: Message) -> dict[str, Any]:
    return {"messages": [_turn(message) for message in (*verdict.prompt, answer)], **_tools(verdict)}


def _pair(verdict: Verdict, chosen: Message, rejected: Message) -> dict[str, Any]:
    turns = [_turn(message) for message in verdict.prompt]
    return {"messages": turns, "chosen": _turn(chosen), "rejected": _turn(rejected), **_tools(verdict)}


def _turn(message: Message) -> dict[str, Any]:
    """A turn as every reader of this layout knows it: a thought stands inside the text."""
    return message_row(replace(message, content=inline_reasoning(message), reasoning=None))


def _tools(verdict: Verdict) -> dict[str, Any]:
    tools = [
        {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
        for tool in verdict.tools
    ]
    return {"tools": json.dumps(tools, ensure_ascii=False)} if tools else {}
