"""The command line: write the files of data/demo/, or compare them."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from scripts.demo_data.files import FOLDER, contents


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; returns the exit code (1: with --check, a file differs)."""
    parser = argparse.ArgumentParser(prog="python -m scripts.demo_data", description="the demo data of data/demo/")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the files (default: data/demo)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a file differs")
    options = parser.parse_args(arguments)
    num_different = 0
    for name, data in contents().items():
        path = options.out / name
        same = path.is_file() and path.read_bytes() == data
        num_different += not same
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        state = "same" if same else "differs" if options.check else "written"
        print(f"{hashlib.sha256(data).hexdigest()[:16]}  {len(data):>7} bytes  {state:<8} {name}")
    return 1 if options.check and num_different else 0


if __name__ == "__main__":
    sys.exit(main())
