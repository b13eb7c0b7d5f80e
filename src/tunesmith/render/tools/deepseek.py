"""DeepSeek's format (V3, R1): a name and a fenced block of JSON between special tokens.

The family's own template writes calls and results this way, but never tells the model its tools; a template of the
tables that used it would have to invent that part. So it serves to read the answers of models that are prompted
through their own template, and to train them there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.errors import DataError
from tunesmith.render.tools.base import Functions, arguments_of, json_text, read_json
from tunesmith.render.tools.grammar import CallRules, object_schema
from tunesmith.render.tools.parameters import Block
from tunesmith.types import ToolCall, ToolSpec

_CALL = re.compile(r"\s*<｜tool▁call▁begin｜>function<｜tool▁sep｜>([^\n<]+)\n```json\n")
_CALL_END = re.compile(r"\s*```<｜tool▁call▁end｜>")


class DeepSeek(Block):
    """DeepSeek V3 and R1: `<｜tool▁calls▁begin｜>` around all calls."""

    name = "deepseek"
    separator = ""
    opening = "<｜tool▁calls▁begin｜>"
    closing = "<｜tool▁calls▁end｜>"
    inside = "<｜tool▁call▁begin｜>"
    openers = (opening,)
    markers = (opening, closing, "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>")
    sources = (("<｜tool▁calls▁begin｜>",),)

    def tools_text(self, tools: Sequence[ToolSpec]) -> str:
        """Raises: DataError, always: the family has no text for this."""
        raise DataError(
            "tool format 'deepseek' has no text that tells a model its tools",
            why="DeepSeek's own template writes calls and results, but not the tools",
            fix="leave `tool_format` out",
        )

    def calls_text(self, calls: Sequence[ToolCall]) -> str:
        """One block with all calls."""
        written = (
            f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{call.name}\n```json\n"
            f"{json_text(arguments_of(call))}\n```<｜tool▁call▁end｜>"
            for call in calls
        )
        return self.opening + "\n".join(written) + self.closing

    def read_block(self, block: str, functions: Functions) -> tuple[ToolCall, ...]:
        """See `Block.read_block`."""
        calls: list[ToolCall] = []
        at = 0
        while (begin := _CALL.match(block, at)) is not None:
            value = read_json(block, begin.end())
            end = _CALL_END.match(block, value[1]) if not isinstance(value, str) else None
            if isinstance(value, str) or end is None or begin[1] not in functions or not isinstance(value[0], dict):
                return ()
            calls.append(ToolCall(begin[1], json_text(value[0])))
            at = end.end()
        return tuple(calls) if not block[at:].strip() else ()

    def call_rules(self, functions: Functions, *, many: bool) -> CallRules:
        """See `ToolFormat.call_rules`."""
        forms = tuple(
            (
                f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n",
                object_schema(parameters),
                "\n```<｜tool▁call▁end｜>",
            )
            for name, parameters in functions.items()
        )
        separator = "\n" if many else None
        return CallRules(forms, opening=self.opening, separator=separator, closing=self.closing, trigger=self.opening)
