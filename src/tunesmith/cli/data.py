"""`tunesmith data`: look at rows as the model will see them, check them, and list what is registered.

    data preview FILE.yaml [--limit N] [--row K] [--ids] [--html OUT] [key=value ...]
    data check   FILE.yaml [key=value ...]
    data list    [FILE.yaml] [key=value ...]

Instead of a file, settings may be given: --dataset PATH --template NAME --model_name_or_path DIR.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from tunesmith.config.resolve import Resolved
    from tunesmith.data.inspect import Preview
    from tunesmith.render import Renderer

_DEFAULT_LIMIT = 3


def run(argv: list[str]) -> int:
    """Run one of the sub-commands; returns the exit code. Raises: UserError for what the user can remove."""
    if not argv or argv[0] not in _COMMANDS:
        given = f"'{argv[0]}' is no data command" if argv else "which data command?"
        hint = did_you_mean(argv[0], _COMMANDS) if argv else ""
        raise ConfigError(given, fix=f"{hint} Commands: data {', data '.join(_COMMANDS)}.".strip())
    return _COMMANDS[argv[0]](argv[1:])


def _preview(argv: list[str]) -> int:
    """Print rows with every token marked as trained or context, or write them as a page."""
    from tunesmith.data.inspect import preview, text_lines

    argv, limit = _take_number(argv, "--limit")
    argv, row = _take_number(argv, "--row")
    argv, html = _take_value(argv, "--html")
    argv, with_ids = _take_flag(argv, "--ids")
    resolved = _resolve(argv)
    count = limit or (1 if row else _DEFAULT_LIMIT)
    shown = preview(resolved.config, _renderer(resolved), resolved.config_dir, start=row or 1, limit=count)
    if not shown.rows:
        raise ConfigError(f"there is no row {row or 1}", where="--row", fix="name a smaller number")
    if html:
        _write_page(Path(html), shown, _title(resolved))
        return 0
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print("\n".join(text_lines(shown, colour=colour, with_ids=with_ids)))
    return 0


def _check(argv: list[str]) -> int:
    """Prepare all rows as a run would, and print the ledger's summary; a refusal is the error of the run."""
    from tunesmith.data.prepare import prepare

    resolved = _resolve(argv)
    prepared = prepare(resolved.config, _renderer(resolved), resolved.config_dir, need_eval=True)
    print("\n".join(prepared.ledger.summary_lines()))
    return 0


def _list(argv: list[str]) -> int:
    """Print the registered datasets: name, format, rows and files."""
    from tunesmith.data.catalog import open_catalog
    from tunesmith.data.listing import listing_lines

    resolved = _resolve(argv)
    catalog = open_catalog(resolved.config.dataset_dir, resolved.config_dir)
    print("\n".join(listing_lines(catalog)))
    return 0


_COMMANDS: dict[str, Callable[[list[str]], int]] = {"preview": _preview, "check": _check, "list": _list}


def _resolve(argv: list[str]) -> Resolved:
    from tunesmith.config.resolve import resolve

    resolved = resolve(argv, verb="data")
    for note in resolved.notes:
        print(f"note: {note}", file=sys.stderr)
    return resolved


def _renderer(resolved: Resolved) -> Renderer:
    from tunesmith.model.load import load_tokenizer
    from tunesmith.render import load_renderer

    return load_renderer(resolved.config, load_tokenizer(resolved.config))


def _title(resolved: Resolved) -> str:
    return resolved.config_file.name if resolved.config_file else ", ".join(resolved.config.dataset)


def _write_page(path: Path, shown: Preview, title: str) -> None:
    from tunesmith.data.preview_html import html_page

    try:
        path.write_text(html_page(shown, title), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the page cannot be written: {error.strerror}", where=str(path), fix="name another file"
        ) from error
    print(f"written: {path} ({len(shown.rows)} rows)")


def _take_value(argv: list[str], option: str) -> tuple[list[str], str | None]:
    """`argv` without `option VALUE` or `option=VALUE`, and the value. Raises: ConfigError when it is missing."""
    for index, argument in enumerate(argv):
        if argument.startswith(f"{option}="):
            return argv[:index] + argv[index + 1 :], argument.partition("=")[2]
        if argument == option:
            if index + 1 == len(argv) or argv[index + 1].startswith("--"):
                raise ConfigError(f"{option} needs a value", fix=f"write {option} VALUE")
            return argv[:index] + argv[index + 2 :], argv[index + 1]
    return argv, None


def _take_number(argv: list[str], option: str) -> tuple[list[str], int | None]:
    argv, value = _take_value(argv, option)
    if value is None:
        return argv, None
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{option} is '{value}', expected a number from 1 on", fix=f"write {option} 5")
    return argv, int(value)


def _take_flag(argv: list[str], option: str) -> tuple[list[str], bool]:
    return [argument for argument in argv if argument != option], option in argv
