"""The web chat's conversations without a browser: a scripted engine, a room, and what the page is shown of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.scripted_engine import ScriptedEngine
from tests.tiny import tiny_tokenizer

from tunesmith.errors import ConfigError, ModelError
from tunesmith.infer.engine import SamplingParams
from tunesmith.render import Renderer
from tunesmith.render.load import make_renderer
from tunesmith.serve.thinking import Renderers
from tunesmith.serve.votes import FeedbackFile
from tunesmith.serve.webchat.room import Room, Wishes
from tunesmith.serve.webchat.rooms import Rooms
from tunesmith.serve.webchat.view import thumbs_of, view_of
from tunesmith.types import Message, ToolCall, ToolSpec

WISHES = Wishes(SamplingParams(seed=40, max_new_tokens=50))


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return make_renderer(tiny_tokenizer(), "chatml")


def open_room(
    renderer: Renderer, folder: Path, *answers: str, models: Sequence[str] = ("tuned",), hold: bool = False
) -> Room:
    engine = ScriptedEngine(renderer.tokenizer, answers or ("one", "two", "three"), models, hold)
    return Room(engine, Renderers(renderer), FeedbackFile(folder / "feedback.jsonl"))


def said(room: Room, place: int = 0) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in room.panes[place].turns]


def records(room: Room) -> list[dict]:
    path = room.feedback.path
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def asked(room: Room) -> list[tuple[tuple[int, ...], SamplingParams, str | None]]:
    assert isinstance(room.engine, ScriptedEngine)
    return room.engine.asked


def test_the_model_is_given_the_rendered_conversation_with_the_system_text(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path, "你好！", "再见")
    wishes = Wishes(WISHES.params, system="Be brief.")
    list(room.ask("你好", wishes))
    list(room.ask("走了", wishes))
    system = Message("system", "Be brief.")
    turns = [Message("user", "你好"), Message("assistant", "你好！"), Message("user", "走了")]
    assert asked(room)[1][0] == renderer.prompt([system, *turns])
    assert said(room)[-1] == ("assistant", "再见")


def test_an_answer_is_seen_while_it_grows(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path, "abcdef", hold=True)
    steps = room.ask("Hi", WISHES)
    next(steps)
    assert view_of(room.panes[0], "en").bubbles[-1]["content"] == "…"
    room.engine.release()  # type: ignore[attr-defined]
    next(steps)
    growing = view_of(room.panes[0], "en").bubbles[-1]["content"]
    assert growing
    assert "abcdef".startswith(growing)
    assert growing != "abcdef"
    room.engine.release(20)  # type: ignore[attr-defined]
    list(steps)
    assert said(room) == [("user", "Hi"), ("assistant", "abcdef")]


def test_stop_keeps_what_was_said_and_ends_the_engines_work(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path, "abcdef", hold=True)
    steps = room.ask("Hi", WISHES)
    room_engine = room.engine
    assert isinstance(room_engine, ScriptedEngine)
    next(steps)
    room_engine.release()
    next(steps)
    room.stop()
    list(steps)
    assert room_engine.tickets[0].cancelled.is_set()
    assert said(room)[1][1]
    assert not room.is_busy
    assert room.panes[0].ended is None


def test_a_question_that_was_stopped_before_any_word_is_taken_back(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path, "abc", hold=True)
    steps = room.ask("Hi", WISHES)
    next(steps)
    room.stop()
    list(steps)
    assert said(room) == []


def test_a_page_that_goes_away_cancels_its_answer(renderer: Renderer, tmp_path: Path) -> None:
    rooms = Rooms(lambda: open_room(renderer, tmp_path, "abcdef", hold=True))
    room = rooms.of("tab")
    steps = room.ask("Hi", WISHES)
    next(steps)
    rooms.leave("tab")
    assert room.engine.tickets[0].cancelled.is_set()  # type: ignore[attr-defined]
    list(steps)
    assert not room.is_busy


def test_closing_the_stream_cancels_the_answer_too(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path, "abcdef", hold=True)
    steps = room.ask("Hi", WISHES)
    next(steps)
    steps.close()
    assert room.engine.tickets[0].cancelled.is_set()  # type: ignore[attr-defined]
    assert not room.is_busy


def test_tabs_have_conversations_of_their_own_and_the_oldest_is_given_up(renderer: Renderer, tmp_path: Path) -> None:
    rooms = Rooms(lambda: open_room(renderer, tmp_path), max_rooms=2)
    list(rooms.of("a").ask("Hi", WISHES))
    assert said(rooms.of("b")) == []
    assert len(said(rooms.of("a"))) == 2
    rooms.of("c")
    assert len(rooms) == 2
    assert len(said(rooms.of("a"))) == 2, "b was unused for longer"


def test_a_page_that_is_loaded_again_comes_back_to_its_conversation(renderer: Renderer, tmp_path: Path) -> None:
    rooms = Rooms(lambda: open_room(renderer, tmp_path), max_rooms=3)
    secret = "0123456789abcdef" * 2
    list(rooms.come_back("first", secret).ask("Hi", WISHES))
    assert len(said(rooms.come_back("second", secret))) == 2
    assert said(rooms.come_back("third", "another secret of 32 characters..")) == []
    assert said(rooms.come_back("fourth", "")) == []
    assert said(rooms.come_back("fifth", "")) == [], "no secret opens nothing"


def test_a_second_question_waits_for_the_first_answer(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path, "abc", hold=True)
    steps = room.ask("Hi", WISHES)
    next(steps)
    for action in (lambda: list(room.ask("Ho", WISHES)), room.undo, lambda: room.compare(True)):
        with pytest.raises(ConfigError, match="on its way"):
            action()
    room.stop()
    list(steps)


def test_retry_replaces_the_answer_and_draws_anew(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    list(room.ask("Hi", WISHES))
    list(room.retry(0, None, WISHES))
    assert said(room) == [("user", "Hi"), ("assistant", "two")]
    assert asked(room)[0][0] == asked(room)[1][0]
    assert [params.seed for _, params, _ in asked(room)] == [40, 41]


def test_an_edited_question_is_asked_anew_without_what_followed(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    list(room.ask("Hi", WISHES))
    list(room.ask("Ho", WISHES))
    list(room.edit(0, 0, "Hey", WISHES))
    assert said(room) == [("user", "Hey"), ("assistant", "three")]
    assert asked(room)[2][0] == renderer.prompt([Message("user", "Hey")])
    assert records(room) == [], "only what is said of an answer is kept"


def test_an_edited_answer_is_kept_used_and_written_down(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    list(room.ask("Hi", WISHES))
    list(room.ask("Ho", WISHES))
    list(room.edit(0, 1, "better", WISHES))
    assert [text for _, text in said(room)] == ["Hi", "better", "Ho", "two"], "later turns stay"
    (record,) = records(room)
    assert (record["kind"], record["answer"]["content"], record["edited"]["content"]) == ("edit", "one", "better")
    assert record["messages"] == [{"role": "user", "content": "Hi"}]
    assert record["model"] == "tuned"
    assert record["sampling"]["seed"] == 40
    list(room.retry(0, 3, WISHES))
    assert asked(room)[2][0] == renderer.prompt(
        [Message("user", "Hi"), Message("assistant", "better"), Message("user", "Ho")]
    )


def test_nothing_is_written_until_somebody_votes(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    list(room.ask("你好", WISHES))
    assert not room.feedback.path.exists()
    assert room.vote(0, 1, True) is True
    assert room.vote(0, 1, True) is None, "the same thumb again takes it back"
    assert room.vote(0, 1, False) is False
    assert [record["vote"] for record in records(room)] == ["up", "none", "down"]
    assert records(room)[0]["messages"] == [{"role": "user", "content": "你好"}]
    assert "你好" in room.feedback.path.read_text(encoding="utf-8")


def test_only_answers_of_the_model_can_be_voted_on(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    room.load({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "file")
    with pytest.raises(ConfigError, match="voted on"):
        room.vote(0, 1, True)
    assert records(room) == []
    list(room.ask("Hi", WISHES))
    list(room.edit(0, 3, "better", WISHES))
    with pytest.raises(ConfigError, match="edited"):
        room.vote(0, 3, True)


def test_votes_are_shown_on_the_bubble_they_belong_to(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    list(room.ask("Hi", WISHES))
    list(room.ask("Ho", WISHES))
    room.vote(0, 3, False)
    assert thumbs_of(room.panes[0], view_of(room.panes[0], "en")) == [None, "Dislike"]


def test_two_models_are_asked_the_same_with_the_same_seed(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path, "from tuned", "from base", models=("tuned", "base"))
    room.compare(True)
    list(room.ask("Hi", WISHES))
    (prompt, params, model), (other_prompt, other_params, other) = asked(room)
    assert (model, other) == ("tuned", "base")
    assert prompt == other_prompt
    assert params == other_params
    assert [said(room, 0)[1][1], said(room, 1)[1][1]] == ["from tuned", "from base"]


def test_the_better_answer_is_written_down_and_both_go_on_from_it(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path, "from tuned", "from base", models=("tuned", "base"))
    room.compare(True)
    assert not room.can_choose()
    list(room.ask("Hi", WISHES))
    assert room.can_choose()
    room.prefer(1)
    (record,) = records(room)
    assert (record["kind"], record["model"], record["rejected_model"]) == ("choice", "base", "tuned")
    assert (record["answer"]["content"], record["rejected"]["content"]) == ("from base", "from tuned")
    assert said(room, 0) == said(room, 1) == [("user", "Hi"), ("assistant", "from base")]
    assert [pane.model for pane in room.panes] == ["tuned", "base"]
    assert not room.can_choose()


def test_one_model_alone_cannot_be_compared(renderer: Renderer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only one model"):
        open_room(renderer, tmp_path).compare(True)


def test_undo_gives_the_question_back_and_clear_begins_anew(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    list(room.ask("Hi", WISHES))
    list(room.ask("Ho", WISHES))
    assert room.undo() == "Ho"
    assert len(said(room)) == 2
    room.clear()
    assert said(room) == []
    list(room.ask("Hi", WISHES))
    assert asked(room)[2][1].seed == 40, "a new conversation begins with the first seed"


def test_a_refused_prompt_changes_nothing_and_is_explained(renderer: Renderer, tmp_path: Path) -> None:
    class Full(ScriptedEngine):
        def submit(self, *arguments: object) -> object:  # type: ignore[override]
            raise ModelError("the prompt does not fit")

    room = Room(Full(renderer.tokenizer, ["a"]), Renderers(renderer), FeedbackFile(tmp_path / "f.jsonl"))
    with pytest.raises(ModelError, match="does not fit"):
        list(room.ask("Hi", WISHES))
    assert said(room) == []
    assert not room.is_busy


def test_a_failed_retry_keeps_the_old_answer_and_its_vote(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path, "one", "two", hold=True)
    engine = room.engine
    assert isinstance(engine, ScriptedEngine)
    engine.release(20)
    list(room.ask("Hi", WISHES))
    room.vote(0, 1, True)
    while engine._permits.acquire(blocking=False):
        pass
    steps = room.retry(0, None, WISHES)
    next(steps)
    room.stop()
    list(steps)
    assert said(room) == [("user", "Hi"), ("assistant", "one")]
    assert room.panes[0].votes == {1: True}


def test_a_saved_conversation_is_loaded_again(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    list(room.ask("你好", WISHES))
    row = json.loads(json.dumps(room.row("Be brief.", ()), ensure_ascii=False))
    other = open_room(renderer, tmp_path)
    assert other.load(row, "file") == ("Be brief.", ())
    assert other.panes[0].turns == room.panes[0].turns


def test_a_file_without_a_conversation_is_refused(renderer: Renderer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no conversation"):
        open_room(renderer, tmp_path).load({"rows": []}, "file")


def test_a_turn_of_thought_text_and_call_is_three_bubbles_of_one_turn(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    call = ToolCall("get_weather", '{"city":"北京"}')
    answer = Message("assistant", "Let me see.", reasoning="weather", tool_calls=(call,))
    room.panes[0].turns = (Message("user", "?"), answer, Message("tool", "25"))
    view = view_of(room.panes[0], "zh")
    assert view.kinds == ["text", "thought", "text", "call", "result"]
    assert view.turns == [0, 1, 1, 1, 2]
    assert [bubble.get("metadata", {}).get("title") for bubble in view.bubbles] == [
        None,
        "思考过程",
        None,
        "调用工具 get_weather",
        "工具结果",
    ]
    assert view.bubbles[3]["content"] == '```json\n{\n  "city": "北京"\n}\n```'
    assert view.bubbles[1]["metadata"]["status"] == "done", "a finished thought is folded"


def test_a_code_block_in_a_result_cannot_break_out_of_its_own(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    room.panes[0].turns = (Message("user", "?"), Message("tool", "```\nx"))
    assert view_of(room.panes[0], "en").bubbles[1]["content"] == "````text\n```\nx\n````"


def test_thumbs_stand_once_under_thought_calls_results_and_answer(renderer: Renderer, tmp_path: Path) -> None:
    room = open_room(renderer, tmp_path)
    list(room.ask("Hi", WISHES))
    call = Message("assistant", "", reasoning="hm", tool_calls=(ToolCall("a", "{}"),))
    room.panes[0].turns = (Message("user", "?"), call, Message("tool", "1"), *room.panes[0].turns[1:])
    room.panes[0].made = {3: room.panes[0].made[1]}
    view = view_of(room.panes[0], "en")
    assert [view.judged_turn(bubble) for bubble in range(len(view.bubbles))] == [-1, 3, 3, 3, 3]
    room.vote(0, view.judged_turn(1), True)
    assert thumbs_of(room.panes[0], view) == ["Like"]


CALLS = """Let me see.
<tool_call>
{"name": "a", "arguments": {"x": 1}}
</tool_call>
<tool_call>
{"name": "b", "arguments": {}}
</tool_call>"""


def test_calls_are_answered_one_by_one_and_then_the_model_goes_on(tmp_path: Path) -> None:
    renderer = make_renderer(tiny_tokenizer(), "qwen")
    room = open_room(renderer, tmp_path, CALLS, "done")
    tools = tuple(ToolSpec(name, "", {"type": "object", "properties": {}}) for name in "ab")
    wishes = Wishes(SamplingParams(max_new_tokens=500), tools=tools)
    list(room.ask("?", wishes))
    assert asked(room)[0][0] == renderer.prompt([Message("user", "?")], tools)
    assert said(room)[1] == ("assistant", "Let me see.")
    assert room.open_calls() == ['a({"x": 1})', "b({})"]
    list(room.answer_call("one", wishes))
    assert len(asked(room)) == 1, "the model waits for both results"
    assert room.open_calls() == ["b({})"]
    list(room.answer_call("two", wishes))
    assert asked(room)[1][0] == renderer.prompt(room.panes[0].turns[:-1], tools)
    assert [turn.role for turn in room.panes[0].turns] == ["user", "assistant", "tool", "tool", "assistant"]
    with pytest.raises(ConfigError, match="no tool call waits"):
        list(room.answer_call("3", wishes))
