"""`tunesmith download NAME [--to DIR] [--source hf|modelscope] [--revision R] [--include PATTERN] [--dataset]`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from tunesmith.errors import ConfigError, did_you_mean

_VALUES = ("--to", "--source", "--revision", "--include", "--cache_dir")
_SOURCES = {"hf": "huggingface", "huggingface": "huggingface", "modelscope": "modelscope", "ms": "modelscope"}
USAGE = (
    "tunesmith download OWNER/NAME [--to DIR] [--source hf|modelscope] [--revision R] [--include PATTERN] [--dataset]"
)


@dataclass
class Arguments:
    """The command line; `include` may be given several times, or with commas."""

    name: str = ""
    values: dict[str, str] = field(default_factory=dict)
    include: list[str] = field(default_factory=list)
    is_dataset: bool = False


def run(argv: list[str]) -> int:
    """Download and verify; prints the folder. Raises: UserError for what the user can remove."""
    given = read_arguments(argv)
    from pathlib import Path

    from tunesmith.model.download import Remote, download
    from tunesmith.model.hubs import hub_of

    source = given.values.get("--source")
    remote = Remote(
        given.name,
        hub_of(_SOURCES[source] if source else None),
        given.values.get("--revision"),
        tuple(given.include),
        given.is_dataset,
    )
    to = given.values.get("--to")
    folder = download(
        remote,
        Path(to).expanduser() if to else None,
        cache_dir=given.values.get("--cache_dir"),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(folder)
    return 0


def read_arguments(argv: list[str]) -> Arguments:
    """The command line as written. Raises: ConfigError when it cannot be read."""
    given, rest = Arguments(), list(argv)
    while rest:
        word = rest.pop(0)
        flag, _, value = word.partition("=")
        if word == "--dataset":
            given.is_dataset = True
        elif flag in _VALUES:
            if not value and not rest:
                raise ConfigError(f"{flag} needs a value", fix=USAGE)
            _set(given, flag, value or rest.pop(0))
        elif word.startswith("-") or given.name:
            hint = did_you_mean(flag, [*_VALUES, "--dataset"])
            raise ConfigError(f"cannot read '{word}'", fix=f"{hint} {USAGE}".strip())
        else:
            given.name = word
    if not given.name:
        raise ConfigError("which model? No name is given", fix=USAGE)
    return given


def _set(given: Arguments, flag: str, value: str) -> None:
    if flag == "--include":
        given.include += [pattern for pattern in value.split(",") if pattern]
        return
    if flag == "--source" and value not in _SOURCES:
        raise ConfigError(f"--source {value}: there is no such hub here", fix="write hf or modelscope")
    given.values[flag] = value
