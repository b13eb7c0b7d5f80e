"""The terminal chat, driven with scripted input and an engine that echoes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest
from tests.tiny import tiny_tokenizer

from tunesmith.errors import ModelError
from tunesmith.infer.engine import Completion, SamplingParams, StreamPiece, collect
from tunesmith.render import Renderer
from tunesmith.render.load import make_renderer
from tunesmith.serve.terminal import Terminal, _checked
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


def script(*lines: str | type[BaseException]) -> Callable[[], str]:
    """Each call gives the next line, or raises it; EOFError at the end."""
    remaining = iter(lines)

    def read_line() -> str:
        line = next(remaining, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read_line


def talk(
    renderer: Renderer, *lines: str | type[BaseException], engine: EchoEngine | None = None, interactive: bool = False
) -> Terminal:
    terminal = Terminal(
        engine=engine or EchoEngine(),
        renderer=renderer,
        params=SamplingParams(seed=40),
        read_line=script(*lines),
        answers=io.StringIO(),
        remarks=io.StringIO(),
        interactive=interactive,
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

    assert _checked("你好\n") == "你好"
    with pytest.raises(ConfigError, match="UTF-8"):
        _checked(b"\xff\xfe".decode("utf-8", "surrogateescape"))
