"""`tunesmith version`: one line, without loading anything."""

from __future__ import annotations

import platform

from tunesmith import __version__


def run(argv: list[str]) -> int:
    """Print the version of Tunesmith and of Python."""
    print(f"tunesmith {__version__} (Python {platform.python_version()})")
    return 0
