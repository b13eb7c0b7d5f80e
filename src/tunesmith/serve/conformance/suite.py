"""The checks by name, and the run over all of them."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.serve.conformance.target import Failed, Mode, Skipped, Target

MODULES = ("models", "chat", "sampling", "formats", "tools", "refusals", "plain_completions", "lifecycle", "official")
"""The modules of checks, in the order of the table."""

BOTH: tuple[Mode, ...] = ("plain", "stream")
Verdict = Literal["PASS", "FAIL", "SKIP"]
Function = Callable[[Target, Mode], None]


@dataclass(frozen=True)
class Check:
    """A feature: its name, the modes in which it is checked, and how."""

    name: str
    modes: tuple[Mode, ...]
    function: Function


@dataclass(frozen=True)
class Result:
    """What became of one check in one mode."""

    name: str
    mode: Mode
    verdict: Verdict
    detail: str
    seconds: float


class Checks:
    """The checks of one module."""

    def __init__(self) -> None:
        self.all: list[Check] = []

    def add(self, name: str, modes: Sequence[Mode] = BOTH) -> Callable[[Function], Function]:
        """Decorator: the function is a check."""

        def register(function: Function) -> Function:
            self.all.append(Check(name, tuple(modes), function))
            return function

        return register


def all_checks() -> list[Check]:
    """Every check of every module."""
    checks: list[Check] = []
    for name in MODULES:
        checks += importlib.import_module(f"tunesmith.serve.conformance.{name}").CHECKS.all
    return checks


def run_suite(
    target: Target, checks: Sequence[Check], on_result: Callable[[Result], None] = lambda result: None
) -> list[Result]:
    """Run `checks` one after the other against `target`."""
    results = []
    for check in checks:
        for mode in check.modes:
            results.append(_run(check, mode, target))
            on_result(results[-1])
    return results


def _run(check: Check, mode: Mode, target: Target) -> Result:
    began = time.monotonic()
    verdict: Verdict = "PASS"
    detail = ""
    try:
        check.function(target, mode)
    except Skipped as reason:
        verdict, detail = "SKIP", str(reason)
    except Failed as reason:
        verdict, detail = "FAIL", str(reason)
    except Exception as error:  # a server may answer anything
        verdict, detail = "FAIL", f"{type(error).__name__}: {error}"[:300]
    return Result(check.name, mode, verdict, detail, time.monotonic() - began)
