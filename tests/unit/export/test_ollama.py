"""The Go template of a Modelfile writes the prompts of training, and the check notices when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import tiny_model, tiny_tokenizer
from tests.tiny_gguf import tiny_gguf

from tunesmith.config.resolve import resolve
from tunesmith.errors import DataError
from tunesmith.export import ollama
from tunesmith.export.go_template import go_template, render_go
from tunesmith.export.ollama import slot_dialect_of, write_modelfile
from tunesmith.render.dialect import RenderSettings
from tunesmith.render.load import make_renderer
from tunesmith.render.probes import probe_conversations
from tunesmith.render.slots import SlotDialect
from tunesmith.render.template import templates
from tunesmith.types import Message

BOS, EOS = "<s>", "</s>"
PROBES = [
    probe
    for probe in probe_conversations()
    if not any(turn.reasoning or "<think>" in turn.content for turn in probe.messages)
]


def dialect_of(name: str) -> SlotDialect:
    return SlotDialect(templates()[name], BOS, EOS, RenderSettings())


def stripped(dialect: SlotDialect, messages: list[Message]) -> list[Message]:
    trims = dialect.template.trims
    return [Message(turn.role, turn.content.strip() if turn.role in trims else turn.content) for turn in messages]


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("name", list(templates()))
def test_the_go_template_writes_every_templates_prompts(name: str, adds_bos: bool) -> None:
    dialect = dialect_of(name)
    text = go_template(dialect, BOS, EOS, adds_bos=adds_bos)
    assert text is not None
    default = dialect.describe()["default_system"]
    num_compared = 0
    for probe in PROBES:
        messages = stripped(dialect, list(probe.question))
        expected = dialect.prompt_text(messages)
        given = [Message("system", default), *messages] if default and messages[0].role != "system" else messages
        begin = BOS if adds_bos and expected.startswith(BOS) else ""
        assert begin + render_go(text, given) == expected, probe.name
        num_compared += 1
    assert num_compared > 80


def test_a_begin_token_is_written_once() -> None:
    text = go_template(dialect_of("llama3"), BOS, EOS, adds_bos=True)
    assert text is not None
    assert BOS not in render_go(text, [Message("user", "Hi")])
    two_rounds = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    llama2 = go_template(dialect_of("llama2"), BOS, EOS, adds_bos=True)
    assert llama2 is not None
    assert render_go(llama2, two_rounds).count(BOS) == 1


@pytest.mark.parametrize(
    "template",
    [
        "text",
        '{{- "a" -}} b',
        "{{- $x -}}",
        "{{- range .Tools -}}{{- end -}}",
        "{{- end -}}",
        "{{- if or 1 2 -}}{{- end -}}",
    ],
)
def test_the_evaluator_refuses_what_is_not_written_here(template: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int() of an unknown word raises its own text
        render_go(template, [Message("user", "Hi")])


def test_kept_thoughts_have_no_go_form() -> None:
    dialect = SlotDialect(templates()["qwen3"], BOS, EOS, RenderSettings(preserve_thinking=True))
    assert go_template(dialect, BOS, EOS, adds_bos=False) is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tiny_model(tmp_path_factory.mktemp("ollama") / "base")
    tiny_gguf(path, path / "model.gguf")
    return path


def test_a_modelfile_says_where_to_stop_and_how_to_sample(folder: Path) -> None:
    config = resolve(["model_name_or_path=x", "export_dir=y", "temperature=0.5", "top_p=0.9"], verb="export").config
    problems: list[str] = []
    renderer = make_renderer(tiny_tokenizer(), "qwen")
    facts = write_modelfile(config, renderer, folder, "model.gguf", problems)
    lines = (folder / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert 'SYSTEM """You are Qwen, created by Alibaba Cloud. You are a helpful assistant."""' in lines
    for line in (
        'PARAMETER stop "<|im_end|>"',
        'PARAMETER stop "<|endoftext|>"',
        "PARAMETER temperature 0.5",
        "PARAMETER top_p 0.9",
        "PARAMETER num_ctx 512",
    ):
        assert line in lines
    assert (problems, facts["template"], facts["adds_bos"]) == ([], True, False)
    assert facts["conversations"] == dict.fromkeys(facts["conversations"], True)
    assert len(facts["conversations"]) == 5


def test_greedy_settings_become_temperature_0(folder: Path) -> None:
    config = resolve(["model_name_or_path=x", "export_dir=y", "do_sample=false"], verb="export").config
    write_modelfile(config, make_renderer(tiny_tokenizer(), "chatml"), folder, "model.gguf", [])
    assert "PARAMETER temperature 0\n" in (folder / "Modelfile").read_text()


def test_a_template_that_would_prompt_differently_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = '{{- range $i, $m := .Messages -}}{{- $m.Content -}}{{- end -}}{{- "<|im_start|>assistant\\n" -}}'
    monkeypatch.setattr(ollama, "go_template", lambda *args, **options: wrong)
    config = resolve(["model_name_or_path=x", "export_dir=y"], verb="export").config
    facts = write_modelfile(config, make_renderer(tiny_tokenizer(), "chatml"), folder, "model.gguf", [])
    text = (folder / "Modelfile").read_text()
    assert not facts["template"]
    assert 'TEMPLATE "' not in text
    assert "# No TEMPLATE: conversations it would write differently: one turn" in text


def test_a_models_own_template_is_found_in_the_table() -> None:
    renderer = make_renderer(tiny_tokenizer(), None)
    dialect = slot_dialect_of(renderer)
    assert dialect is not None
    assert dialect.name == "chatml"


def test_a_template_outside_the_table_has_no_slots() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>", "<|im_start|>role: ")
    assert slot_dialect_of(make_renderer(tokenizer, None)) is None


def test_a_refused_conversation_is_nothing_to_be_equal_to(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = make_renderer(tiny_tokenizer(), "chatml")

    def refuse(messages: object) -> str:
        raise DataError("no system turns")

    monkeypatch.setattr(renderer, "prompt_text", refuse)
    assert ollama._is_prompt(renderer, [Message("user", "Hi")], "anything")
