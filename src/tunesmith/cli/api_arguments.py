"""The flags of `tunesmith api` that are no settings of a training file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.errors import ConfigError


@dataclass(frozen=True)
class ApiArguments:
    """`selfcheck`: start the server, check it, end it; `selfcheck_url`: check a server that runs; `report`: a file."""

    selfcheck: bool = False
    selfcheck_url: str = ""
    model: str = ""
    report: str = ""


def split_arguments(argv: Sequence[str]) -> tuple[ApiArguments, list[str]]:
    """Our own flags, and the rest, which are settings.

    Raises: ConfigError for a flag without its value, or a report in a form that is not known.
    """
    own, rest = ApiArguments(), list[str]()
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, has_value, value = word.partition("=")
        if flag == "--selfcheck":
            own = replace(own, selfcheck=True)
        elif flag in ("--selfcheck-url", "--selfcheck-model", "--report"):
            if not has_value:
                value = words.pop(0) if words else ""
            if not value or value.startswith("--"):
                raise ConfigError(f"{flag} needs a value")
            changes: dict[str, Any] = {_FIELDS[flag]: value}
            own = replace(own, **changes)
        else:
            rest.append(word)
    if own.report and not own.report.endswith((".json", ".xml")):
        raise ConfigError(f"--report {own.report}: the name ends with .json, or with .xml for JUnit")
    return own, rest


_FIELDS = {"--selfcheck-url": "selfcheck_url", "--selfcheck-model": "model", "--report": "report"}
