"""`python -m tests.oracles [--write PAGE]`: compute every row and print the table, or renew it in a page.

Exit code 1 when a row is outside its tolerance, or when a page was to be renewed and a row cannot be computed.
About a minute: 20 seconds to import TRL, and the steps of its trainers.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from tests.oracles import ALL_CHECKS, trajectories
from tests.oracles.table import SINGLE_TOLERANCE, TOLERANCE, Row, markdown, rewrite
from tests.oracles.trl_calls import OracleMissing


def main() -> int:
    """Print the table of oracle differences, or write it into a page."""
    parser = argparse.ArgumentParser(description="The table of oracle differences, computed now.")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="renew the table in this Markdown page")
    page = parser.parse_args().write
    rows: dict[str, Row] = {}
    for name, function in ALL_CHECKS.items():
        try:
            with redirect_stdout(sys.stderr):  # what the trainers say; the table alone goes to stdout
                rows[name] = function()
        except OracleMissing as missing:
            print(f"left out {name}: {missing}", file=sys.stderr)
    if page is None:
        print(markdown(list(rows.values())))
    elif len(rows) < len(ALL_CHECKS):
        print(f"{page} is left as it is: rows are missing", file=sys.stderr)
        return 1
    else:
        page.write_text(rewrite(page.read_text(encoding="utf-8"), list(rows.values())), encoding="utf-8")
    outside = [
        name
        for name, row in rows.items()
        if max(row.value, row.gradient)
        > (trajectories.TOLERANCE if name.startswith(trajectories.PREFIX) else TOLERANCE)
        or (row.single or 0) > SINGLE_TOLERANCE
    ]
    if outside:
        print(f"outside the tolerance: {', '.join(outside)}", file=sys.stderr)
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
