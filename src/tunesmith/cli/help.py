"""`tunesmith help` and `tunesmith VERB --help`: printed from literal tables, in English or Chinese.

The pages are data (`cli/help_pages.py`), so that help needs no parser of the verb and no heavy import.
Chinese is used when TUNESMITH_LANG, LC_ALL, LC_MESSAGES or LANG (the first that is set) starts with `zh`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping

from tunesmith.cli.help_pages import PAGES, Page
from tunesmith.errors import UserError, did_you_mean

REFERENCE = {
    "en": "All settings: docs/configuration.md, or `{program} config reference`.",
    "zh": "全部参数：docs/configuration.md，或运行 `{program} config reference`。",
}
HEADINGS = {
    "en": {"usage": "usage", "verbs": "verbs", "planned": "not there yet", "examples": "examples", "keys": "settings"},
    "zh": {"usage": "用法", "verbs": "命令", "planned": "尚未提供", "examples": "示例", "keys": "常用参数"},
}


def language(environ: Mapping[str, str] | None = None) -> str:
    """The language of the help pages: "zh" or "en"."""
    env = os.environ if environ is None else environ
    chosen = next((env[name] for name in ("TUNESMITH_LANG", "LC_ALL", "LC_MESSAGES", "LANG") if env.get(name)), "")
    return "zh" if chosen.lower().startswith("zh") else "en"


def run(argv: list[str]) -> int:
    """Print the list of verbs, or the page of the verb named first in `argv`."""
    from tunesmith.cli.main import program_name

    lang, program = language(), program_name()
    if not argv:
        print(usage(program, lang))
        return 0
    if argv[0] not in PAGES:
        raise UserError(
            f"no help page for '{argv[0]}'", fix=f"{did_you_mean(argv[0], PAGES)} Pages: {', '.join(PAGES)}.".strip()
        )
    print(verb_page(argv[0], program, lang))
    return 0


def usage(program: str, lang: str) -> str:
    """The page that lists every verb, and those that are still to come."""
    from tunesmith.cli.main import PLANNED, VERBS

    head, column = HEADINGS[lang], 1 if lang == "zh" else 0
    lines = [
        f"{head['usage']}: {program} VERB [FILE.yaml] [key=value | --key value | --flag] ...",
        "",
        f"{head['verbs']}:",
    ]
    lines += _table((verb, entry[1 + column]) for verb, entry in VERBS.items())
    lines += ["", f"{head['planned']}: {', '.join(PLANNED)}", ""]
    more = {"en": f"`{program} VERB --help` shows examples.", "zh": f"`{program} 命令 --help` 查看该命令的示例。"}
    lines += [more[lang], REFERENCE[lang].format(program=program)]
    return "\n".join(lines)


def verb_page(verb: str, program: str, lang: str) -> str:
    """One verb's page: usage, what it does, examples, the settings that matter most for it."""
    page: Page = PAGES[verb]
    head, column = HEADINGS[lang], 1 if lang == "zh" else 0
    lines = [f"{head['usage']}: {program} {page.usage}", "", page.purpose[column]]
    if page.examples:
        lines += ["", f"{head['examples']}:"]
        for command, *meaning in page.examples:
            lines += [f"  {program} {command}", f"      {meaning[column]}"]
    if page.keys:
        lines += ["", f"{head['keys']}:"]
        lines += _table((key, meaning[column]) for key, *meaning in page.keys)
    if page.takes_settings:
        lines += ["", REFERENCE[lang].format(program=program)]
    return "\n".join(lines)


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    cells = list(rows)
    width = max(_width(left) for left, _ in cells) + 2
    return [f"  {left}{' ' * (width - _width(left))}{right}" for left, right in cells]


def _width(text: str) -> int:
    """Columns that a terminal needs for `text`: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
