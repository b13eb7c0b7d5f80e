"""The terminal chat, driven with scripted input and an engine that echoes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

import pytest
from tests.scripted_engine import ScriptedEngine
from tests.tiny import tiny_tokenizer

from tunesmith.errors import ModelError
from tunesmith.infer.engine import Completion, SamplingParams, StreamPiece, collect
from tunesmith.render import Renderer
from tunesmith.render.load import make_renderer
from tunesmith.serve.commands import COMMANDS
from tunesmith.serve.lines import checked
from tunesmith.serve.terminal import Terminal
from tunesmith.types import Message


class EchoEngine:
    """Answers `<number>` for its n-th request and remembers what it was given."""

    context_length = 512

    def __init__(self, interrupt_at: int = -1) -> None:
        self.requests: list[tuple[tuple[int, ...], SamplingParams]] = []
        self.closed = 0
        self._interrupt_at = interrupt_at

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> Generator[StreamPiece, None, None]:
        if len(prompt_ids) > 200:
            raise ModelError("the prompt has too many tokens")
        self.requests.append((tuple(prompt_ids), params))
        return self._pieces(len(self.requests))

    def generate(self, prompt_ids: Sequence[int], params: SamplingParams) -> Completion:
        return collect(self.stream(prompt_ids, params), len(prompt_ids))

    def _pieces(self, number: int) -> Generator[StreamPiece, None, None]:
        try:
            yield StreamPiece("答", 5)
            if number == self._interrupt_at:
                raise KeyboardInterrupt
            yield StreamPiece(str(number), 6)
            yield StreamPiece("", 2, "stop")
        finally:
            self.closed += 1


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return make_renderer(tiny_tokenizer(), "chatml")


def script(*lines: str | type[BaseException]) -> Callable[[str, str], str]:
    """Each call gives the next line, or raises it; EOFError at the end."""
    remaining = iter(lines)

    def read_line(prompt: str = "", prefill: str = "") -> str:
        line = next(remaining, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read_line


def talk(
    renderer: Renderer,
    *lines: str | type[BaseException],
    engine: EchoEngine | ScriptedEngine | None = None,
    interactive: bool = False,
    pasted: Iterable[bool] = (),
    lang: str = "en",
) -> Terminal:
    more = iter(pasted)
    terminal = Terminal(
        engine=engine or EchoEngine(),
        renderer=renderer,
        params=SamplingParams(seed=40),
        read_line=script(*lines),
        answers=io.StringIO(),
        remarks=io.StringIO(),
        interactive=interactive,
        has_more=lambda: next(more, False),
        lang=lang,
    )
    terminal.run()
    return terminal


def test_piped_input_gives_the_answers_alone_and_exit_code_0(renderer: Renderer) -> None:
    terminal = talk(renderer, "Hi", "", "你好")
    assert terminal.answers.getvalue() == "答1\n答2\n"
    assert terminal.exit_code == 0


def test_a_person_sees_who_speaks(renderer: Renderer) -> None:
    assert talk(renderer, "Hi", interactive=True).answers.getvalue() == "Assistant: 答1\n"


def test_the_model_is_given_the_rendered_history(renderer: Renderer) -> None:
    engine = EchoEngine()
    talk(renderer, "Hi", "你好", engine=engine)
    history = [Message("user", "Hi"), Message("assistant", "答1"), Message("user", "你好")]
    assert engine.requests[1][0] == renderer.prompt(history)


@pytest.mark.parametrize("command", ["clear", "/clear"])
def test_clear_forgets_the_turns(renderer: Renderer, command: str) -> None:
    engine = EchoEngine()
    talk(renderer, "Hi", command, "Again", engine=engine)
    assert engine.requests[1][0] == renderer.prompt([Message("user", "Again")])


def test_the_system_text_is_rendered_and_outlives_clear(renderer: Renderer) -> None:
    engine = EchoEngine()
    terminal = talk(renderer, "/system Be brief.", "Hi", "/clear", "Hi", "/system", "Hi", engine=engine)
    with_system = renderer.prompt([Message("system", "Be brief."), Message("user", "Hi")])
    assert [ids for ids, _ in engine.requests] == [with_system, with_system, renderer.prompt([Message("user", "Hi")])]
    assert terminal.history[0].role == "user"


@pytest.mark.parametrize("command", ["exit", "/exit"])
def test_exit_leaves_before_the_next_line(renderer: Renderer, command: str) -> None:
    assert talk(renderer, command, "Hi").answers.getvalue() == ""


def test_set_changes_what_the_engine_is_asked_for(renderer: Renderer) -> None:
    engine = EchoEngine()
    lines = ["/set temperature=0.3", "/set top_k 7", "/set do_sample=false", "/set max_new_tokens=9", "Hi"]
    talk(renderer, *lines, engine=engine)
    params = engine.requests[0][1]
    assert (params.temperature, params.top_k, params.do_sample, params.max_new_tokens) == (0.3, 7, False, 9)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/set temprature=1", "Did you mean 'temperature'"),
        ("/set temperature=warm", "must be a number, not 'warm'"),
        ("/set top_p=2", "top_p is 2.0"),
        ("/sset a", "no command /sset"),
        ("/save", "nothing was saved"),
    ],
)
def test_a_mistaken_command_is_explained_and_changes_nothing(renderer: Renderer, line: str, said: str) -> None:
    terminal = talk(renderer, line, "Hi")
    assert said in terminal.remarks.getvalue()
    assert terminal.params == SamplingParams(seed=40)
    assert terminal.answers.getvalue() == "答1\n"
    assert terminal.exit_code == 2, "a script must learn that a line was not understood"


def test_each_answer_draws_anew_and_a_new_seed_starts_over(renderer: Renderer) -> None:
    engine = EchoEngine()
    talk(renderer, "a", "a", "/set seed=7", "a", engine=engine)
    assert [params.seed for _, params in engine.requests] == [40, 41, 7]


def test_save_appends_openai_messages(renderer: Renderer, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    talk(renderer, "/system S", "你好", f"/save {file}", "Hi", f"/save {file}")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    first = [("system", "S"), ("user", "你好"), ("assistant", "答1")]
    assert [[(m["role"], m["content"]) for m in row["messages"]] for row in rows] == [
        first,
        [*first, ("user", "Hi"), ("assistant", "答2")],
    ]
    assert "你好" in file.read_text(encoding="utf-8")


def test_saving_to_an_impossible_place_is_explained(renderer: Renderer, tmp_path: Path) -> None:
    terminal = talk(renderer, "Hi", f"/save {tmp_path}/no/such/file")
    assert "cannot write" in terminal.remarks.getvalue()


def test_a_prompt_that_is_too_long_is_refused_and_the_talk_goes_on(renderer: Renderer) -> None:
    terminal = talk(renderer, "word " * 300, "Hi")
    assert "too many tokens" in terminal.remarks.getvalue()
    assert terminal.answers.getvalue() == "答1\n"
    assert [message.content for message in terminal.history] == ["Hi", "答1"]


def test_ctrl_c_stops_the_answer_and_a_second_one_leaves(renderer: Renderer) -> None:
    engine = EchoEngine(interrupt_at=1)
    terminal = talk(renderer, "Hi", KeyboardInterrupt, "never read", engine=engine, interactive=True)
    assert terminal.answers.getvalue() == "Assistant: 答\n"
    assert engine.closed == 1
    assert len(engine.requests) == 1
    assert terminal.exit_code == 0


def test_one_ctrl_c_at_the_prompt_does_not_leave(renderer: Renderer) -> None:
    terminal = talk(renderer, KeyboardInterrupt, "Hi", KeyboardInterrupt, "Ho", interactive=True)
    assert terminal.answers.getvalue() == "Assistant: 答1\nAssistant: 答2\n"


def test_an_answer_that_was_cut_is_marked(renderer: Renderer) -> None:
    class Endless(EchoEngine):
        def _pieces(self, number: int) -> Generator[StreamPiece, None, None]:
            yield StreamPiece("on and on", 5, "length")

    assert "max_new_tokens" in talk(renderer, "Hi", engine=Endless()).remarks.getvalue()


def test_a_line_that_is_not_utf8_is_refused() -> None:
    from tunesmith.errors import ConfigError

    assert checked("你好\n") == "你好"
    with pytest.raises(ConfigError, match="UTF-8"):
        checked(b"\xff\xfe".decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("first\\", "second"), "first\nsecond"),
        (('"""', "first", "", "second", '"""'), "first\n\nsecond"),
        (('"""first', 'second"""'), "first\nsecond"),
        (('"""one line"""',), "one line"),
    ],
)
def test_several_lines_are_one_message(renderer: Renderer, lines: tuple[str, ...], message: str) -> None:
    terminal = talk(renderer, *lines, "next", interactive=True)
    assert [turn.content for turn in terminal.history if turn.role == "user"] == [message, "next"]


def test_a_pasted_text_is_one_message(renderer: Renderer) -> None:
    terminal = talk(renderer, "a", "b", "c", "next", interactive=True, pasted=(True, True, False))
    assert [turn.content for turn in terminal.history if turn.role == "user"] == ["a\nb\nc", "next"]


def test_a_piped_line_is_a_question_whatever_it_ends_with(renderer: Renderer) -> None:
    terminal = talk(renderer, "a\\", '"""', "b")
    assert [turn.content for turn in terminal.history if turn.role == "user"] == ["a\\", '"""', "b"]


def test_retry_answers_the_same_question_anew(renderer: Renderer) -> None:
    engine = EchoEngine()
    terminal = talk(renderer, "Hi", "/retry", engine=engine)
    assert engine.requests[0][0] == engine.requests[1][0]
    assert [turn.content for turn in terminal.history] == ["Hi", "答2"]


def test_an_edited_question_is_asked_in_place_of_the_old_one(renderer: Renderer) -> None:
    terminal = talk(renderer, "Hi", "Ho", "/edit Hey there")
    assert [turn.content for turn in terminal.history] == ["Hi", "答1", "Hey there", "答3"]


def test_an_edited_answer_is_what_the_model_has_said(renderer: Renderer) -> None:
    engine = EchoEngine()
    talk(renderer, "Hi", "/edit answer Mine.", "Ho", engine=engine)
    said = [Message("user", "Hi"), Message("assistant", "Mine."), Message("user", "Ho")]
    assert engine.requests[1][0] == renderer.prompt(said)


def test_edit_without_a_text_offers_the_old_one(renderer: Renderer) -> None:
    offered: list[str] = []
    lines = iter(["Hi", "/edit", "Hey"])

    def read_line(prompt: str = "", prefill: str = "") -> str:
        offered.append(prefill)
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    terminal = Terminal(EchoEngine(), renderer, SamplingParams(), read_line, io.StringIO(), io.StringIO(), True)
    terminal.run()
    assert offered[:3] == ["", "", "Hi"]
    assert [turn.content for turn in terminal.history] == ["Hey", "答2"]


def test_undo_takes_the_last_question_and_its_answer_back(renderer: Renderer) -> None:
    terminal = talk(renderer, "/system S", "Hi", "Ho", "/undo")
    assert [turn.content for turn in terminal.history] == ["S", "Hi", "答1"]


@pytest.mark.parametrize("command", ["/undo", "/retry", "/edit x", "/edit answer x"])
def test_there_is_nothing_to_change_before_the_first_question(renderer: Renderer, command: str) -> None:
    terminal = talk(renderer, command)
    assert terminal.exit_code == 2
    assert "Ask first" in terminal.remarks.getvalue()


def test_a_saved_conversation_goes_on_after_load(renderer: Renderer, tmp_path: Path) -> None:
    engine = EchoEngine()
    talk(
        renderer,
        "/system S",
        "你好",
        f"/save {tmp_path}/c.jsonl",
        "/clear",
        f"/load {tmp_path}/c.jsonl",
        "Hi",
        engine=engine,
    )
    said = [Message("system", "S"), Message("user", "你好"), Message("assistant", "答1"), Message("user", "Hi")]
    assert engine.requests[1][0] == renderer.prompt(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ('{"a": 1}', "holds no conversation"),
        ('{"messages": [{"role": "king", "content": "x"}]}', "no known role"),
    ],
)
def test_a_file_that_holds_no_conversation_is_explained(
    renderer: Renderer, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "c.jsonl").write_text(content, encoding="utf-8")
    terminal = talk(renderer, f"/load {tmp_path}/c.jsonl")
    assert said in terminal.remarks.getvalue()
    assert terminal.exit_code == 2


def two_models(renderer: Renderer) -> ScriptedEngine:
    return ScriptedEngine(renderer.tokenizer, ["one", "two", "three"], models=("tuned", "base"))


def test_the_named_model_answers(renderer: Renderer) -> None:
    engine = two_models(renderer)
    terminal = talk(renderer, "Hi", "/model base", "Hi", "/model nobody", engine=engine)
    assert [model for _, _, model in engine.asked] == [None, "base"]
    assert "no model 'nobody'" in terminal.remarks.getvalue()


def test_compare_asks_both_with_one_seed_and_goes_on_with_the_first(renderer: Renderer) -> None:
    engine = two_models(renderer)
    terminal = talk(renderer, "/compare on", "Hi", "/compare off", "Ho", engine=engine)
    (first, first_params, _), (second, second_params, other), (_, _, last) = engine.asked
    assert first == second
    assert first_params == second_params
    assert (other, last) == ("base", None)
    assert terminal.answers.getvalue() == "[tuned] one\n[base] two\nthree\n"
    assert [turn.content for turn in terminal.history] == ["Hi", "one", "Ho", "three"]


def test_think_is_refused_where_the_template_knows_no_thoughts(renderer: Renderer) -> None:
    assert "knows no thoughts" in talk(renderer, "/think on").remarks.getvalue()


def test_think_off_changes_the_prompt(renderer: Renderer) -> None:
    thinking = make_renderer(tiny_tokenizer(), "qwen3")
    engine = EchoEngine()
    terminal = talk(thinking, "Hi", "/think off", "/clear", "Hi", "/think on", "/clear", "Hi", engine=engine)
    prompts = [thinking.decode(ids, skip_special_tokens=False) for ids, _ in engine.requests]
    assert "<think>" not in prompts[0]
    assert "<think>" in prompts[1], "an empty thought keeps the model from thinking"
    assert prompts[2] == prompts[0]
    assert terminal.exit_code == 0


def test_the_thought_is_kept_apart_in_the_history() -> None:
    thinking = make_renderer(tiny_tokenizer(), "qwen3")
    engine = ScriptedEngine(thinking.tokenizer, ["<think>\nhm\n</think>\n\nYes."])
    terminal = talk(thinking, "Hi", engine=engine, interactive=True)
    assert terminal.history[-1] == Message("assistant", "Yes.", reasoning="hm")


TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]


def test_tools_are_read_from_a_file_and_given_up(renderer: Renderer, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(TOOLS), encoding="utf-8")
    terminal = talk(renderer, f"/tools {file}")
    assert [tool.name for tool in terminal.tools] == ["add"]
    assert talk(renderer, f"/tools {file}", "/tools off").tools == ()
    file.write_text('[{"title": "x"}]', encoding="utf-8")
    assert "not a tool with a name" in talk(renderer, f"/tools {file}").remarks.getvalue()


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_help_names_every_command(renderer: Renderer, lang: str) -> None:
    told = talk(renderer, "/help", lang=lang).remarks.getvalue()
    assert [command for command in COMMANDS if command not in told] == []


def test_a_tools_result_is_what_is_typed_after_a_call(tmp_path: Path) -> None:
    calling = make_renderer(tiny_tokenizer(), "qwen")
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    engine = ScriptedEngine(calling.tokenizer, [call, "4"])
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(TOOLS), encoding="utf-8")
    terminal = talk(calling, f"/tools {file}", "2+2?", "four", engine=engine, interactive=True)
    assert "[add] " in terminal.answers.getvalue()
    assert 'add({"a": 2})' in terminal.remarks.getvalue()
    assert [(turn.role, turn.content) for turn in terminal.history] == [
        ("user", "2+2?"),
        ("assistant", ""),
        ("tool", "four"),
        ("assistant", "4"),
    ]
    assert engine.asked[1][0] == calling.prompt(terminal.history[:3], terminal.tools)
