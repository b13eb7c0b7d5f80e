"""Rows of each format as conversations: what is read, what is refused, and with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from data_workspace import qa

from tunesmith.data.formats import FORMATS, default_layouts
from tunesmith.data.rows import RowError
from tunesmith.data.schema import DatasetEntry, parse_entry
from tunesmith.errors import DataError
from tunesmith.types import Conversation, Message, ToolCall, ToolSpec


def entry(formatting: str = "alpaca", **more: Any) -> DatasetEntry:
    raw = {"file_name": "x.json", "formatting": formatting, **more}
    return parse_entry("d", raw, "dataset_info.json", default_layouts())


def convert(row: dict[str, Any], layout: DatasetEntry) -> Conversation:
    return FORMATS.get(layout.formatting).convert(row, layout)


def refusal(row: dict[str, Any], layout: DatasetEntry) -> RowError:
    with pytest.raises(RowError) as caught:
        convert(row, layout)
    return caught.value


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


def check(layout: DatasetEntry, rows: list[dict[str, Any]]) -> list[str]:
    return FORMATS.get(layout.formatting).check(layout, rows)


ALPACA_ALL = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}


class TestAlpaca:
    def test_prompt_and_query_are_joined_by_a_line_break(self) -> None:
        row = {"instruction": "Translate.", "input": "Bonjour", "output": "Hello"}
        assert turns(convert(row, entry())) == [("user", "Translate.\nBonjour"), ("assistant", "Hello")]

    def test_an_empty_query_adds_no_line_break(self) -> None:
        assert turns(convert(qa("q", "a"), entry())) == [("user", "q"), ("assistant", "a")]

    def test_a_query_alone_is_a_prompt(self) -> None:
        assert turns(convert({"instruction": "", "input": "q", "output": "a"}, entry()))[0] == ("user", "q")

    def test_system_and_history_come_first(self) -> None:
        row = qa("q3", "a3", system="be brief", history=[["q1", "a1"], ["q2", "a2"]])
        expected = [("system", "be brief")]
        expected += [turn for n in "123" for turn in (("user", f"q{n}"), ("assistant", f"a{n}"))]
        assert turns(convert(row, entry(columns=ALPACA_ALL))) == expected

    @pytest.mark.parametrize("absent", [None, "", []])
    def test_optional_columns_may_be_null_or_empty(self, absent: Any) -> None:
        row = {"instruction": "q", "input": None, "output": "a", "system": None, "history": absent}
        assert turns(convert(row, entry(columns=ALPACA_ALL))) == [("user", "q"), ("assistant", "a")]

    @pytest.mark.parametrize(
        ("row", "field", "why"),
        [
            (qa("q", ""), "output", "is empty"),
            (qa("q", "  \n"), "output", "is empty"),
            ({"instruction": "q", "output": None}, "output", "is null"),
            ({"instruction": "q"}, "output", "is missing"),
            ({"instruction": "q", "output": ["a"]}, "output", "is a list, expected text"),
            ({"instruction": "q", "output": 42}, "output", "is a number, expected text"),
            ({"instruction": {"a": 1}, "output": "a"}, "instruction", "is an object, expected text"),
            ({"instruction": "", "input": " ", "output": "a"}, "instruction", "is empty"),
            (qa("q", "a", system=3), "system", "is a number"),
            (qa("q", "a", history="earlier"), "history", "is text, expected a list"),
            (qa("q", "a", history=[["x"]]), "history[0]", "is not a pair"),
            (qa("q", "a", history=[["x", "y"], ["x", 1]]), "history[1]", "is not a pair"),
            (qa("q", "a", history=[["x", ""]]), "history[0]", "empty"),
        ],
    )
    def test_an_unusable_row_is_refused_by_its_field(self, row: dict[str, Any], field: str, why: str) -> None:
        error = refusal(row, entry(columns=ALPACA_ALL))
        assert error.field == field
        assert why in error.why

    def test_a_partly_given_table_disables_the_query_and_says_so(self) -> None:
        layout = entry(columns={"prompt": "instruction", "response": "output"})
        row = {"instruction": "Translate.", "input": "Bonjour", "output": "Hello"}
        assert turns(convert(row, layout))[0] == ("user", "Translate.")
        (note,) = check(layout, [row] * 5)
        assert "'input' is filled in 5 of the first 5 rows" in note
        assert '"query": "input"' in note

    def test_a_null_in_the_table_disables_without_a_note(self) -> None:
        layout = entry(columns={"prompt": "instruction", "response": "output", "query": None})
        assert check(layout, [{"instruction": "q", "input": "i", "output": "a"}]) == []

    def test_system_and_history_that_are_not_named_are_mentioned(self) -> None:
        notes = check(entry(), [qa("q", "a", system="s", history=[["x", "y"]])])
        assert [("system" in note, "history" in note) for note in notes] == [(True, False), (False, True)]

    def test_a_wrong_column_is_caught_for_the_whole_dataset(self) -> None:
        rows = [{"question": "q", "answer": "a"}] * 3
        with pytest.raises(DataError) as caught:
            check(entry(), rows)
        assert "columns.prompt is 'instruction'" in caught.value.what
        assert "'question' (3x), 'answer' (3x)" in caught.value.why

    def test_a_misspelled_column_gets_the_nearest_name(self) -> None:
        with pytest.raises(DataError) as caught:
            check(entry(columns={"prompt": "instruction", "response": "ouput"}), [qa("q", "a")])
        assert "Did you mean 'output'?" in caught.value.fix

    def test_an_optional_column_that_no_row_has_is_mentioned(self) -> None:
        notes = check(entry(columns=ALPACA_ALL), [qa("q", "a")] * 2)
        assert [note.split(": ", 1)[1] for note in notes] == [
            "none of the first 2 rows has the column 'history' (columns.history)",
            "none of the first 2 rows has the column 'system' (columns.system)",
        ]

    def test_a_misspelled_optional_column_is_an_error(self) -> None:
        with pytest.raises(DataError, match=r"columns\.query is 'inptu'"):
            check(entry(columns={"prompt": "instruction", "query": "inptu", "response": "output"}), [qa("q", "a")])


def chat(*values: str, roles: tuple[str, ...] = ("human", "gpt"), **more: Any) -> dict[str, Any]:
    messages = [{"from": roles[index % len(roles)], "value": value} for index, value in enumerate(values)]
    return {"conversations": messages, **more}


class TestShareGpt:
    def test_turns_are_read_in_order(self) -> None:
        conversation = convert(chat("q1", "a1", "q2", "a2"), entry("sharegpt"))
        assert turns(conversation) == [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]

    def test_a_system_message_wins_over_the_system_column(self) -> None:
        layout = entry("sharegpt", columns={"messages": "conversations", "system": "system"})
        row = chat("s", "q", "a", roles=("system", "human", "gpt"), system="other")
        assert turns(convert(row, layout))[0] == ("system", "s")
        assert turns(convert(chat("q", "a", system="other"), layout))[0] == ("system", "other")

    def test_calls_observations_and_tools_are_carried(self) -> None:
        tools = [{"name": "f", "description": "d", "parameters": {"type": "object"}}]
        call = {"name": "f", "arguments": {"x": "é"}}
        row = chat("q", json.dumps(call), "7", "a", roles=("human", "function_call", "observation", "gpt"))
        layout = entry("sharegpt", columns={"messages": "conversations", "tools": "tools"})
        conversation = convert({**row, "tools": json.dumps(tools)}, layout)
        assert conversation.tools == (ToolSpec("f", "d", {"type": "object"}),)
        assert conversation.messages[1] == Message("assistant", "", tool_calls=(ToolCall("f", '{"x": "é"}'),))
        assert conversation.messages[2] == Message("tool", "7")

    def test_role_and_content_tags_are_read(self) -> None:
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
        layout = entry("sharegpt", columns={"messages": "messages"}, tags=tags)
        assert check(layout, [row]) == []
        assert turns(convert(row, layout)) == [("user", "q"), ("assistant", "a")]

    @pytest.mark.parametrize(
        ("row", "field", "why"),
        [
            (chat("q"), "conversations[0]", "is the last turn"),
            (chat("q", "a", "q"), "conversations[2]", "is the last turn"),
            (chat("a", "q", roles=("gpt", "human")), "conversations[0]", "turn of the assistant after nothing"),
            (chat("q", "q", "a", roles=("human", "human", "gpt")), "conversations[1]", "turn of the user after user"),
            (chat("q", "a", "a", roles=("human", "gpt", "gpt")), "conversations[2]", "user's is expected"),
            (chat("q", "s", "a", roles=("human", "system", "gpt")), "conversations[1]", "second system"),
            (chat("q", ""), "conversations[1]", "empty turn of the assistant"),
            (chat("", "a"), "conversations[0]", "empty turn of the user"),
            (chat("q", "a", roles=("human", "robot")), "conversations[1].from", "no known speaker"),
            (chat("q", "not json", roles=("human", "function_call")), "conversations[1].value", "not valid JSON"),
            (chat("q", "[]", roles=("human", "function_call")), "conversations[1].value", "no tool call"),
            ({"conversations": []}, "conversations", "holds no turns"),
            ({"conversations": "q"}, "conversations", "is text, expected a list"),
            ({"other": 1}, "conversations", "is missing"),
            ({"conversations": ["q", "a"]}, "conversations[0]", "is text, expected a message"),
            ({"conversations": [{"from": "human", "value": ["q"]}]}, "value", "is a list, expected text"),
            (chat("q", "a", tools="{"), "tools", "not valid JSON"),
            (chat("q", "a", tools="3"), "tools", "expected a list of tools"),
            (chat("q", "a", tools=[{"description": "no name"}]), "tools[0]", "not a tool with a name"),
        ],
    )
    def test_an_unusable_row_is_refused_by_its_field(self, row: dict[str, Any], field: str, why: str) -> None:
        error = refusal(row, entry("sharegpt", columns={"messages": "conversations", "tools": "tools"}))
        assert error.field == field
        assert why in error.why

    @pytest.mark.parametrize("tools", [None, "", "[]", [], "  "])
    def test_a_row_may_have_no_tools(self, tools: Any) -> None:
        layout = entry("sharegpt", columns={"messages": "conversations", "tools": "tools"})
        assert convert(chat("q", "a", tools=tools), layout).tools == ()

    def test_tags_that_do_not_match_the_rows_are_caught_and_explained_by_name(self) -> None:
        tags = {"role_tag": "from", "content_tag": "value", "user_tag": "user", "assistant_tag": "assistant"}
        layout = entry("sharegpt", columns={"messages": "conversations"}, tags=tags)
        with pytest.raises(DataError) as caught:
            check(layout, [chat("q", "a")] * 91)
        assert "tags.user_tag is 'user' and tags.assistant_tag is 'assistant'" in caught.value.what
        assert "'human' (91x), 'gpt' (91x)" in caught.value.what
        assert '"user_tag": "human", "assistant_tag": "gpt"' in caught.value.fix

    def test_one_wrong_tag_is_named_alone(self) -> None:
        tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "assistant"}
        with pytest.raises(DataError) as caught:
            check(entry("sharegpt", tags=tags), [chat("q", "a")])
        assert caught.value.what.startswith("tags.assistant_tag is 'assistant', but")

    def test_a_wrong_message_key_is_caught(self) -> None:
        rows = [{"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
        with pytest.raises(DataError) as caught:
            check(entry("sharegpt"), rows)
        assert "tags.role_tag is 'from'" in caught.value.what
        assert '"role_tag": "role"' in caught.value.fix

    def test_a_system_turn_without_its_tag_is_explained(self) -> None:
        tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
        rows = [chat("s", "q", "a", roles=("system", "human", "gpt"))] * 4
        with pytest.raises(DataError) as caught:
            check(entry("sharegpt", tags=tags), rows)
        assert "'system' (4x)" in caught.value.what
        assert '"system_tag": "system"' in caught.value.fix


def messages(*pairs: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs], **more}


class TestOpenAi:
    def test_the_system_text_is_left_as_it_is(self) -> None:
        row = messages(("system", "be brief"), ("user", "q"), ("assistant", "a"))
        assert turns(convert(row, entry("openai"))) == [("system", "be brief"), ("user", "q"), ("assistant", "a")]

    def test_a_developer_message_is_a_system_message(self) -> None:
        row = messages(("developer", "s"), ("user", "q"), ("assistant", "a"))
        assert turns(convert(row, entry("openai")))[0] == ("system", "s")

    def test_text_parts_are_joined(self) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        assert turns(convert(messages(("user", parts), ("assistant", "c")), entry("openai")))[0] == ("user", "ab")

    def test_an_image_part_is_refused(self) -> None:
        parts = [{"type": "image_url", "image_url": {"url": "x"}}]
        error = refusal(messages(("user", parts), ("assistant", "c")), entry("openai"))
        assert (error.field, "image_url" in error.why) == ("messages[0].content[0]", True)

    def test_calls_reasoning_and_weights_are_carried(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
        row = {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm", "weight": 0},
                {"role": "tool", "content": "1"},
                {"role": "tool", "content": "2"},
                {"role": "assistant", "content": "a", "weight": 1},
            ]
        }
        conversation = convert(row, entry("openai"))
        assert conversation.messages[1] == Message("assistant", "", "hm", (ToolCall("f", '{"x": 1}', "c1"),), 0.0)
        assert [message.role for message in conversation.messages[2:4]] == ["tool", "tool"]
        assert conversation.messages[4].weight == 1.0

    def test_tools_in_the_envelope_of_the_api_are_read(self) -> None:
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        layout = entry("openai", columns={"messages": "messages", "tools": "tools"})
        conversation = convert(messages(("user", "q"), ("assistant", "a"), tools=tools), layout)
        assert conversation.tools == (ToolSpec("f", "", {}),)

    @pytest.mark.parametrize(
        ("row", "field"),
        [
            (messages(("user", "q")), "messages[0]"),
            (messages(("user", "q"), ("user", "q"), ("assistant", "a")), "messages[1]"),
            (messages(("user", "q"), ("assistant", None)), "messages[1]"),
            (messages(("critic", "q"), ("assistant", "a")), "messages[0].role"),
            (messages(("user", 3), ("assistant", "a")), "messages[0].content"),
            ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": "x"}]},
             "messages[1].weight"),
        ],
    )  # fmt: skip
    def test_an_unusable_row_is_refused_by_its_field(self, row: dict[str, Any], field: str) -> None:
        assert refusal(row, entry("openai")).field == field


class TestRecognition:
    @pytest.mark.parametrize(
        ("row", "formatting", "layout"),
        [
            (qa("q", "a"), "alpaca", {"prompt": "instruction", "query": None, "response": "output"}),
            (qa("q", "a", input="i", system="s"), "alpaca", {"query": "input", "system": "system"}),
            ({"prompt": "q", "completion": "a"}, "alpaca", {"prompt": "prompt", "response": "completion"}),
            ({"question": "q", "answer": "a"}, "alpaca", {"prompt": "question", "response": "answer"}),
            (chat("q", "a"), "sharegpt", {"messages": "conversations"}),
            (chat("q", "a", roles=("user", "assistant")), "sharegpt", {"messages": "conversations"}),
            (messages(("user", "q"), ("assistant", "a")), "openai", {"messages": "messages"}),
            ({"conversations": messages(("user", "q"), ("assistant", "a"))["messages"]}, "openai",
             {"messages": "conversations"}),
        ],
    )  # fmt: skip
    def test_a_format_is_recognised_and_reads_its_row(
        self, row: dict[str, Any], formatting: str, layout: dict[str, str | None]
    ) -> None:
        found = next(found for name in FORMATS if (found := FORMATS.get(name).recognise("x", [row])))
        assert found.formatting == formatting
        assert {part: getattr(found.columns, part) for part in layout} == layout
        assert check(found, [row]) == []
        assert turns(convert(row, found))[-1] == ("assistant", "a")

    def test_rows_of_no_known_format_are_not_recognised(self) -> None:
        assert [FORMATS.get(name).recognise("x", [{"a": "b", "text": "c"}]) for name in FORMATS] == [None] * 3
