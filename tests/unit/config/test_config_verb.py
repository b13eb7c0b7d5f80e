"""`tunesmith config`: what it prints, what it writes, how it exits, and what it must not import."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.cli.config import run
from tunesmith.config.reference import json_schema, markdown
from tunesmith.config.schema import specs
from tunesmith.errors import ConfigError

Write = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[3]
FILE = "model_name_or_path: m\noutput_dir: o\ndataset: d\ndefault_system: 你是助手\nlora_rank: 4\n"


def _shown(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith("  ")]
    return {row[0]: row[1:] for row in rows}


def test_show_prints_every_value_with_its_origin(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(FILE)
    assert run(["show", str(path), "seed=3"]) == 0
    rows = _shown(capsys)
    assert rows["lora_rank"] == ["4", f"{path}:5"]
    assert rows["seed"] == ["3", "command", "line,", "seed"]
    assert rows["lora_alpha"] == ["8", "decided:", "twice", "lora_rank"]
    assert rows["cutoff_len"] == ["2048", "default"]
    available = [name for name, spec in specs().items() if not spec.later and not spec.noop]
    assert set(available) <= rows.keys()
    assert "use_swanlab" not in rows


def test_show_can_list_less_or_everything(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(FILE))
    run(["show", path, "--set"])
    only_set = _shown(capsys)
    assert "lora_rank" in only_set
    assert "cutoff_len" not in only_set
    run(["show", path, "--all"])
    assert _shown(capsys).keys() == specs().keys()


def test_columns_are_straight_with_chinese_text(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    import unicodedata

    run(["show", str(write(FILE))])
    lines = capsys.readouterr().out.splitlines()
    starts = set()
    for line in lines:
        name = line.split()[0] if line.startswith("  ") else ""
        if name in ("default_system", "lora_rank", "cutoff_len"):
            before = line[: line.index(line.split()[2])]
            starts.add(sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in before))
    assert len(starts) == 1


def test_broken_rules_are_listed_and_exit_with_2(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(write("dataset: d\nfp16: true\nbf16: true\n"))]) == 2
    out = capsys.readouterr().out
    assert "fp16 and bf16 are both set" in out
    assert "no output folder is named" in out
    assert "cutoff_len" in out


def test_a_file_for_chat_or_export_is_not_judged_as_training(write: Write) -> None:
    chat = str(write("model_name_or_path: m\ntemplate: qwen\n", "chat.yaml"))
    merge = str(write("model_name_or_path: m\nexport_dir: e\n", "merge.yaml"))
    assert (run(["show", chat]), run(["show", merge])) == (0, 0)
    assert run(["show", chat, "--verb", "train"]) == 2


def test_secrets_are_not_shown(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    run(["show", str(write(FILE)), "hf_hub_token=hf_secret"])
    assert "hf_secret" not in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["shwo"], ["show"], ["train.yaml"], ["schema", "x"], ["schema", "--out"]])
def test_a_misspelt_command_says_what_there_is(argv: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        run(argv)
    assert caught.value.fix


def test_the_reference_page_is_up_to_date() -> None:
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == markdown(), (
        "run `tunesmith config reference --out docs/configuration.md`"
    )


def test_check_notices_a_page_that_is_out_of_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    assert run(["reference", "--out", str(page)]) == 0
    assert run(["reference", "--check", str(page)]) == 0
    page.write_text(page.read_text(encoding="utf-8").replace("lora_rank", "lora_rnk"), encoding="utf-8")
    assert run(["reference", "--check", str(page)]) == 1
    assert "out of date" in capsys.readouterr().out


def test_the_reference_page_has_a_row_per_key() -> None:
    rows = [line.split("`")[1] for line in markdown().splitlines() if line.startswith("| `") and line.count(" | ") == 4]
    assert rows == list(specs())


def test_the_schema_accepts_what_is_valid_and_refuses_what_is_not(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    run(["schema", "--out", str(tmp_path / "schema.json")])
    schema = json.loads((tmp_path / "schema.json").read_text(encoding="utf-8"))
    assert schema == json.loads(json.dumps(json_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert set(schema["properties"]) >= specs().keys()
    good = {"stage": "sft", "dataset": ["a"], "lora_target": "all", "packing": None, "evaluation_strategy": "steps"}
    assert validator.is_valid(good)
    for bad in (
        {"no_such_key": 1},
        {"lora_rank": 0},
        {"stage": "no such"},
        {"dataset": {"a": 1}},
        {"packing": "maybe"},
    ):
        assert not validator.is_valid(bad), bad


def test_the_defaults_are_valid_by_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    values = {name: list(s.default) if isinstance(s.default, tuple) else s.default for name, s in specs().items()}
    assert [error.message for error in validator.iter_errors(values)] == []


def test_it_starts_fast_and_imports_nothing_heavy(write: Write) -> None:
    code = (
        "import sys; from tunesmith.cli.config import run; code = run(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'transformers', 'rich', 'peft', 'jinja2', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, "show", str(write(FILE))], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    assert seconds < 1.0  # about 0.15 s on an idle machine; a heavy import costs 2 s


def test_an_unknown_key_exits_with_2_within_a_second(write: Write) -> None:
    path = write("stage: sft\nlearnig_rate: 1e-4\n")
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "config", "show", str(path)], capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 2
    assert f"{path}:2" in done.stderr
    assert "learning_rate" in done.stderr
    assert seconds < 1.0
