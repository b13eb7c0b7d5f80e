"""`tunesmith template list | show | check`: what is printed, and the exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import vocabularies

from tunesmith.cli import template as verb
from tunesmith.errors import ConfigError, TemplateError
from tunesmith.render import template as tables
from tunesmith.render.template import Template, templates


@pytest.fixture
def tokenizer_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any model folder gives the small ChatML vocabulary with Qwen2.5's own template."""
    import tunesmith.model.load

    def load(config: object) -> object:
        tokenizer = vocabularies.byte_level("chatml")
        tokenizer.chat_template = vocabularies.own_jinja("qwen2_5")
        return tokenizer

    monkeypatch.setattr(tunesmith.model.load, "load_tokenizer", load)


def test_list_names_every_template_with_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.run(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, template in templates().items():
        [line] = [line for line in lines if line.split()[:1] == [name]]
        assert template.family in line
        assert template.end.replace("{eos}", "the model's end token") in line


def test_show_prints_the_prompt_and_what_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.run(["show", "llama3"]) == 0
    out = capsys.readouterr().out
    assert "QUESTION 2<|eot_id|><|start_header_id|>assistant<|end_header_id|>" in out
    assert "| ANSWER 2<|eot_id|>" in out


def test_check_is_silent_about_equal_templates_and_exits_0(
    tokenizer_of: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb.run(["check", "models/m", "--template", "qwen"]) == 0
    assert "93 of 93 conversations" in capsys.readouterr().out


def test_check_shows_the_first_differing_token_and_exits_1(
    tokenizer_of: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb.run(["check", "models/m", "--template=chatml"]) == 1
    out = capsys.readouterr().out
    assert "one turn: token 1 differs" in out
    assert "'user'" in out
    assert "'system'" in out


def test_check_without_a_name_checks_the_models_own(tokenizer_of: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.run(["check", "models/m"]) == 0
    assert "93 of 93" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["shw"], ["show"], ["check"], ["check", "m", "--tmplate", "x"], ["check", "m", "--template"]]
)
def test_a_wrong_command_line_shows_the_right_one(argv: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        verb.run(argv)
    assert "template list" in caught.value.fix


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(TemplateError, match="Did you mean 'gemma3'"):
        verb.run(["show", "gema3"])


def test_the_verb_loads_nothing_heavy_before_it_runs() -> None:
    code = (
        "import sys, tunesmith.cli.template as verb; verb.run(['show', 'qwen']);"
        "print([name for name in ('torch', 'transformers', 'numpy', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_name_given_twice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FAMILY_MODULES", ("chatml", "chatml"))
    templates.cache_clear()
    try:
        with pytest.raises(ValueError, match="given twice"):
            templates()
    finally:
        monkeypatch.undo()
        templates.cache_clear()


@pytest.mark.parametrize("slots", [{"user": "no marker"}, {"answer": "{content}{content}"}, {"system": ""}])
def test_a_slot_without_its_marker_is_a_mistake(slots: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        Template(name="x", family="x", **{"user": "{content}", **slots})


def test_the_guide_for_a_new_template_works(tmp_path: Path) -> None:
    """docs/howto/add-a-template.md, followed: its literal is read out of the page and rendered."""
    page = (Path(__file__).parents[3] / "docs" / "howto" / "add-a-template.md").read_text(encoding="utf-8")
    literal = page.split("```python\n", 1)[1].split("```", 1)[0]
    found = eval(literal.strip().rstrip(","), {"Template": Template})
    from tunesmith.render.dialect import RenderSettings
    from tunesmith.render.slots import SlotDialect
    from tunesmith.types import Message

    dialect = SlotDialect(found, "<s>", "</s>", RenderSettings())
    talk = [Message("system", "S"), Message("user", "Q")]
    prompt = page.split("```text\n", 1)[1].split("```", 1)[0].rstrip("\n").split("\n---\n")
    assert dialect.prompt_text(talk) == prompt[0] + "\n"
    assert dialect.answer_text(talk, Message("assistant", "A")).taught == prompt[1]
