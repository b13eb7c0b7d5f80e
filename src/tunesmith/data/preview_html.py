"""Writes a data preview as one self-contained HTML page: no script, no font, no request.

Follows the reader's light or dark setting; hovering a token shows its position, id and loss weight.
All text from the data is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tunesmith.data.inspect import WORSE_PARTS, Preview, PreviewedRow, Token

_STYLE = """
:root { color-scheme: light dark; --page: #f7f8fa; --card: #fff; --ink: #1c2430; --soft: #6a7484; --line: #e0e4ea;
  --trained: #c9f0d3; --trained-ink: #0b4a22; --edge: #8fd3a4; --bad: #b3261e;
  --worse: #fbd9d3; --worse-ink: #6b1710; --worse-edge: #e6a79d; }
@media (prefers-color-scheme: dark) { :root { --page: #12151a; --card: #1a1f27; --ink: #e4e8ee; --soft: #8b95a5;
  --line: #2c343f; --trained: #14452a; --trained-ink: #b9f2cb; --edge: #2b7a4b; --bad: #ff8a80;
  --worse: #54211c; --worse-ink: #ffd0c9; --worse-edge: #8f3d34; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.6 system-ui, -apple-system, "Segoe UI", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; font-weight: 650; }
.legend { color: var(--soft); margin-bottom: 1.25rem; }
.legend b { font-weight: 500; padding: .1em .45em; border-radius: .3em; }
.note { color: var(--soft); border-left: 3px solid var(--line); padding-left: .75rem; margin: .4rem 0; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: 1.1rem 0;
  overflow: hidden; }
h2 { font-size: .85rem; font-weight: 600; margin: 0; padding: .55rem 1rem; border-bottom: 1px solid var(--line);
  display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
h2 span { color: var(--soft); font-weight: 400; }
h3 { font-size: .75rem; font-weight: 600; color: var(--soft); margin: .6rem 1rem -.5rem; }
.tokens { margin: 0; padding: .9rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13.5px/1.85 ui-monospace, SFMono-Regular, Menlo, Consolas, "Noto Sans Mono CJK SC", monospace; }
.tokens + .tokens { border-top: 1px dashed var(--line); }
i { font-style: normal; color: var(--soft); border-radius: .2em; }
i:hover { outline: 1.5px solid var(--ink); }
i.t, .legend b.t { background: var(--trained); color: var(--trained-ink); box-shadow: inset 0 -1px var(--edge); }
.worse i.t { background: var(--worse); color: var(--worse-ink); box-shadow: inset 0 -1px var(--worse-edge); }
i:empty::before { content: "\\00B7"; opacity: .55; }
i.n::before { content: "\\21B5"; opacity: .55; }
.bad { color: var(--bad); padding: .9rem 1rem; margin: 0; }
""".strip()


def html_page(shown: Preview, title: str) -> str:
    """The whole page. `title` names the configuration or dataset."""
    notes = "".join(f'<p class="note">{escape(note)}</p>\n' for note in shown.notes)
    rows = "\n".join(_row(row) for row in shown.rows)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}: data preview</title><style>
{_STYLE}
</style></head><body><main>
<h1>{escape(title)}</h1>
<div class="legend">template {escape(shown.template_name)} · <b class="t">trained</b> <b>context only</b>
 · hover a token for its id and weight</div>
{notes}{rows}
</main></body></html>
"""


def _row(row: PreviewedRow) -> str:
    if row.problem:
        return f'<article><h2>row {row.number}</h2><p class="bad">{escape(row.problem)}</p></article>'
    place, _, figures = row.headline.rpartition(": ")
    body = "".join(_part(row.part_name(index), example) for index, example in enumerate(row.examples))
    return f"<article><h2>{escape(place)} <span>{escape(figures)}</span></h2>{body}</article>"


def _part(name: str, tokens: Sequence[Token]) -> str:
    heading = f"<h3>{escape(name)}</h3>" if name else ""
    worse = " worse" if name in WORSE_PARTS else ""
    return f'{heading}<p class="tokens{worse}">{_tokens(tokens)}</p>'


def _tokens(example: Sequence[Token]) -> str:
    return "".join(_token(position, token) for position, token in enumerate(example))


def _token(position: int, token: Token) -> str:
    classes = " ".join(name for name, on in (("t", token.weight != 0), ("n", "\n" in token.text)) if on)
    attribute = f' class="{classes}"' if classes else ""
    title = escape(f"#{position}  id {token.id}  weight {token.weight:g}  {token.text!r}")
    return f'<i{attribute} title="{title}">{escape(token.text)}</i>'
