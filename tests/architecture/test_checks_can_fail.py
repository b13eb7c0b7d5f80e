"""Each check of the architecture finds a violation planted in a small tree, and stays silent on its corrected twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import checks
import pytest

Check = Callable[[Path], checks.Report]
LONG_BODY = "\n".join(f"    x{n} = {n}" for n in range(90))
DEEP = (
    "def f(x: int) -> None:\n" + "".join(f"{'    ' * d}if x > {d}:\n" for d in range(1, 7)) + "    " * 7 + "print(x)\n"
)
BRANCHY = (
    "def f(x: int) -> int:\n" + "".join(f"    if x == {n}:\n        return {n}\n" for n in range(16)) + "    return x\n"
)
CHAIN = "def f(x: int) -> None:\n    if x:\n        print(1)\n" + "".join(
    f"    elif x == {n}:\n        print({n})\n" for n in range(6)
)
COPIED = "\n".join(f"value_{n} = compute({n})" for n in range(10)) + "\n"

# what is planted -> (check, files, words of the finding)
PLANTED: dict[str, tuple[Check, dict[str, str], str]] = {
    "an import to the right": (
        checks.check_import_direction,
        {"data/a.py": "from tunesmith.train import run\n"},
        "right",
    ),
    "an import to the right inside a function": (
        checks.check_import_direction,
        {"loss/a.py": "def f():\n    import tunesmith.infer.hf\n"},
        "right",
    ),
    "an import by name": (
        checks.check_import_direction,
        {"config/a.py": "import importlib\nm = importlib.import_module('tunesmith.cli.main')\n"},
        "right",
    ),
    "a relative import to the right": (
        checks.check_import_direction,
        {"data/a.py": "from ..cli import main\n"},
        "right",
    ),
    "a part taken from the package": (
        checks.check_import_direction,
        {"data/a.py": "from tunesmith import cli\n"},
        "right",
    ),
    "two parts that import each other": (
        checks.check_import_direction,
        {"data/a.py": "import tunesmith.model.b\n", "model/b.py": "def f():\n    from tunesmith.data import a\n"},
        "cycle",
    ),
    "a part without a level": (checks.check_import_direction, {"extras/a.py": ""}, "no level"),
    "modules that need each other": (
        checks.check_module_cycles,
        {"data/a.py": "import tunesmith.data.b\n", "data/b.py": "import tunesmith.data.a\n"},
        "import each other",
    ),
    "torch where it does not belong": (
        checks.check_third_party,
        {"config/a.py": "def f():\n    import torch\n"},
        "torch",
    ),
    "an unknown package": (checks.check_third_party, {"data/a.py": "import polars\n"}, "THIRD_PARTY"),
    "a heavy import of the command line": (checks.check_light_cli, {"cli/a.py": "import tunesmith.data.b\n"}, "slows"),
    "a long file": (checks.check_file_sizes, {"a.py": "x = 1\n" * 601}, "lines: 601"),
    "a long function": (checks.check_functions, {"a.py": f"def f():\n{LONG_BODY}\n"}, "lines 91"),
    "a deep function": (checks.check_functions, {"a.py": DEEP}, "nesting 6"),
    "a function of many branches": (checks.check_functions, {"a.py": BRANCHY}, "complexity 17"),
    "copied code": (checks.check_duplication, {"a.py": COPIED, "b.py": COPIED}, "duplicates"),
    "an untyped argument": (
        checks.check_public_api,
        {"a.py": '"""A."""\ndef f(x) -> int:\n    """F."""\n'},
        "type for x",
    ),
    "no return type": (checks.check_public_api, {"a.py": '"""A."""\ndef f():\n    """F."""\n'}, "return type"),
    "no docstring": (
        checks.check_public_api,
        {"a.py": '"""A."""\nclass C:\n    """C."""\n    def f(self) -> int: ...\n'},
        "f lacks",
    ),
    "a file that says nothing": (checks.check_public_api, {"a.py": "x = 1\n"}, "does not open"),
    "a heap": (checks.check_names, {"data/utils.py": ""}, "utils"),
    "a swallowed error": (
        checks.check_broad_except,
        {"data/a.py": "try:\n    f()\nexcept Exception:\n    pass\n"},
        "broad",
    ),
    "a bare except": (checks.check_broad_except, {"data/a.py": "try:\n    f()\nexcept:\n    pass\n"}, "broad"),
    "a broad except among others": (
        checks.check_broad_except,
        {"data/a.py": "try:\n    f()\nexcept (OSError, Exception):\n    pass\n"},
        "broad",
    ),
}

# what is allowed, and looks similar
ALLOWED: dict[str, tuple[Check, dict[str, str]]] = {
    "an import to the left": (checks.check_import_direction, {"train/a.py": "from tunesmith.data import b\n"}),
    "the version": (checks.check_import_direction, {"config/a.py": "from tunesmith import __version__\n"}),
    "torch for types": (
        checks.check_third_party,
        {"config/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"},
    ),
    "torch in its place": (checks.check_third_party, {"loss/a.py": "import torch\n"}),
    "a lazy import of the command line": (
        checks.check_light_cli,
        {"cli/a.py": "def f():\n    import tunesmith.data.b\n"},
    ),
    "a late import between modules": (
        checks.check_module_cycles,
        {"data/a.py": "import tunesmith.data.b\n", "data/b.py": "def f():\n    import tunesmith.data.a\n"},
    ),
    "a long docstring": (checks.check_functions, {"a.py": 'def f():\n    """' + "line\n" * 90 + '"""\n'}),
    "a chain of elif": (checks.check_functions, {"a.py": CHAIN}),
    "cleaning up and raising again": (
        checks.check_broad_except,
        {"data/a.py": "try:\n    f()\nexcept BaseException:\n    g()\n    raise\n"},
    ),
    "the door": (checks.check_broad_except, {"cli/main.py": "try:\n    f()\nexcept Exception:\n    pass\n"}),
    "a private function": (checks.check_public_api, {"a.py": '"""A."""\ndef _f(x): ...\n'}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_found(name: str, tmp_path: Path) -> None:
    check, files, words = PLANTED[name]
    report = check(_plant(tmp_path, files))
    assert report.num_visited > 0
    assert any(words in finding for finding in report.hard), report.hard


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_is_not_reported(name: str, tmp_path: Path) -> None:
    check, files = ALLOWED[name]
    assert check(_plant(tmp_path, files)).hard == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.md", "see /work/" + "main/x", "does not belong"),
        ("a.py", "# the LLM " + "wrote this", "does not belong"),
        ("a.md", "[here](missing.md)", "leads nowhere"),
    ],
)
def test_words_and_links_are_checked(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    report = checks.check_text(tmp_path, [tmp_path / name])
    assert report.num_visited == 1
    assert any(words in finding for finding in report.hard)


def _plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root
