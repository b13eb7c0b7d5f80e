"""`python -m tests.oracles [--write PAGE]`: compute every row and print the table, or renew it in a page.

Exit code 1 when a row is outside its tolerance, or when a page was to be renewed and a row cannot be computed.
About 20 seconds, most of them to import TRL.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.oracles import ALL_CHECKS
from tests.oracles.table import SINGLE_TOLERANCE, TOLERANCE, markdown, rewrite
from tests.oracles.trl_calls import OracleMissing


def main() -> int:
    """Print the table of oracle differences, or write it into a page."""
    parser = argparse.ArgumentParser(description="The table of oracle differences, computed now.")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="renew the table in this Markdown page")
    page = parser.parse_args().write
    rows = []
    for name, function in ALL_CHECKS.items():
        try:
            rows.append(function())
        except OracleMissing as missing:
            print(f"left out {name}: {missing}", file=sys.stderr)
    if page is None:
        print(markdown(rows))
    elif len(rows) < len(ALL_CHECKS):
        print(f"{page} is left as it is: rows are missing", file=sys.stderr)
        return 1
    else:
        page.write_text(rewrite(page.read_text(encoding="utf-8"), rows), encoding="utf-8")
    outside = [
        row.loss for row in rows if max(row.value, row.gradient) > TOLERANCE or (row.single or 0) > SINGLE_TOLERANCE
    ]
    if outside:
        print(f"outside the tolerance: {', '.join(outside)}", file=sys.stderr)
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
