"""The rules of `checks.py` hold for this repository; every test says how many places it visited.

Soft findings are printed (`pytest -s tests/architecture`), hard ones fail. `test_checks_can_fail.py` proves that each
check notices a planted violation.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import checks
import pytest

REPO = Path(__file__).parents[2]
SOURCE = REPO / "src" / "tunesmith"

# check, and the least number of places it must have visited to mean anything
PACKAGE_CHECKS = [
    (checks.check_import_direction, 30),
    (checks.check_module_cycles, 30),
    (checks.check_third_party, 30),
    (checks.check_light_cli, 6),
    (checks.check_file_sizes, 30),
    (checks.check_functions, 100),
    (checks.check_duplication, 30),
    (checks.check_public_api, 80),
    (checks.check_names, 40),
    (checks.check_broad_except, 30),
]


@pytest.mark.parametrize(("check", "least"), PACKAGE_CHECKS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_package_keeps_the_rule(check: Callable[[Path], checks.Report], least: int) -> None:
    _judge(check(SOURCE), least)


@pytest.mark.parametrize("folder", ["examples", "scripts"])
@pytest.mark.parametrize("check", [checks.check_functions, checks.check_public_api, checks.check_file_sizes])
def test_scripts_keep_the_rules_of_size_and_naming(check: Callable[[Path], checks.Report], folder: str) -> None:
    _judge(check(REPO / folder), 1)


def test_no_file_names_a_machine_or_its_writer() -> None:
    own = {"tests/architecture/checks.py", "tests/architecture/test_checks_can_fail.py"}  # they spell out the patterns
    files = [path for path in _kept_files() if path.relative_to(REPO).as_posix() not in own]
    _judge(checks.check_text(REPO, files), 60)


def test_every_part_of_the_package_is_in_the_table_of_levels() -> None:
    parts = {
        path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.name not in ("__init__.py", "__pycache__")
    }
    assert len(parts) >= 15
    assert parts <= set(checks.LEVELS)


def _kept_files() -> list[Path]:
    """Text files that git keeps or would keep."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [REPO / line for line in listing.stdout.splitlines()]
    return [path for path in paths if path.suffix in checks.TEXT_SUFFIXES and path.is_file()]


def _judge(report: checks.Report, least: int) -> None:
    print(f"visited {report.num_visited}; over the soft limit: {len(report.soft)}", *report.soft, sep="\n  ")
    assert report.num_visited >= least, f"visited only {report.num_visited} of at least {least} places"
    assert not report.hard, "\n".join(["", *report.hard])
