"""A small renderer and a workspace, so that tests of the data part need no tokenizer and no model.

One token per character (its code point), one stop token after every turn. It obeys the interface of
`tunesmith.render.Renderer` as far as preparing data uses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.config import Config
from tunesmith.data.prepare import Prepared, prepare
from tunesmith.errors import DataError
from tunesmith.types import Conversation, RenderedExample, Span

STOP_ID = 0


class CharacterRenderer:
    """Every character is a token; answers and their stop token are trained."""

    stop_ids = (STOP_ID,)
    template_name = "characters"
    notes: tuple[str, ...] = ()

    def __init__(self, *, has_end: bool = True) -> None:
        self.has_end = has_end

    def examples(self, conversation: Conversation, policy: Any) -> list[RenderedExample]:
        """One example, weights by `policy`."""
        if conversation.tools or any(message.tool_calls for message in conversation.messages):
            raise DataError("tool turns are not rendered yet", fix="leave such rows out")
        ids: list[int] = []
        weights: list[float] = []
        spans: list[Span] = []
        last = len(conversation.messages) - 1
        for index, message in enumerate(conversation.messages):
            end = [STOP_ID] if self.has_end else []
            tokens = [ord(character) for character in message.content] + end
            trained = message.role == "assistant" and not (policy.mask_history and index != last)
            weight = 1.0 if message.weight is None else message.weight
            value = weight if trained else float(policy.train_on_prompt)
            spans.append(Span(len(ids), len(ids) + len(tokens), message.role, trained and value > 0))
            ids += tokens
            weights += [value] * len(tokens)
        num_turns = sum(span.trained for span in spans)
        num_stops = num_turns if self.has_end else 0
        return [RenderedExample(tuple(ids), tuple(weights), tuple(spans), num_turns, num_stops, conversation.ref)]

    text_start_id: int | None = None

    @property
    def text_end_id(self) -> int | None:
        """The stop token ends documents too."""
        return STOP_ID if self.has_end else None

    def text_ids(self, text: str) -> tuple[int, ...]:
        """The code points of a text."""
        return tuple(map(ord, text))

    def prompt(self, messages: Any, tools: Any = ()) -> tuple[int, ...]:
        """All turns, each with its stop token."""
        return tuple(token for message in messages for token in (*self.text_ids(message.content), STOP_ID))

    def token_texts(self, ids: Any) -> list[str]:
        """The character of each token, or the name of the stop token."""
        return ["<end>" if token == STOP_ID else chr(token) for token in ids]


class Workspace:
    """A folder with a configuration, data files and a registry, and `prepare` called on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir()
        self.renderer = CharacterRenderer()

    def write(self, name: str, content: str | bytes | list[Any]) -> Path:
        """A file under data/: text, bytes, or rows (as JSON Lines when the name says so, else as an array)."""
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif name.endswith(".jsonl"):
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in content)
            path.write_text("".join(lines), encoding="utf-8")
        else:
            path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        return path

    def register(self, **entries: Any) -> None:
        """Write data/dataset_info.json."""
        self.write("dataset_info.json", json.dumps(entries, ensure_ascii=False))

    def prepare(self, *dataset: str, need_eval: bool = True, **settings: Any) -> Prepared:
        """Prepare these datasets with these settings."""
        return prepare(Config(dataset=dataset, **settings), self.renderer, self.folder, need_eval=need_eval)


def qa(question: str, answer: str, **more: Any) -> dict[str, Any]:
    """An alpaca row."""
    return {"instruction": question, "input": "", "output": answer, **more}


def many(count: int, make: Callable[[int], dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """`count` different sound alpaca rows."""
    return [(make or (lambda index: qa(f"question {index}", f"answer {index}")))(index) for index in range(count)]
