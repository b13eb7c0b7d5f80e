"""Keep transformers' progress bars and advice out of our output while it reads or writes a model."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars, no warnings and no advice on sys.stderr inside the block; errors are raised as ever.

    One of the bars ignores transformers' own switch and goes to sys.stderr whatever is set, hence the redirection.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
