"""The web chat: one page for talking to what was tuned, judging its answers, and comparing it with its base.

`room.py` is a conversation and what can be done to it, `view.py` its bubbles, `page.py` the layout, `events.py` the
wires between them, `launch.py` the server and who may reach it. Only page, events and style know gradio.
"""

from __future__ import annotations

import os
import sys

from tunesmith.config.resolve import Resolved
from tunesmith.errors import UserError
from tunesmith.infer.session import Session, open_session
from tunesmith.serve.webchat.launch import Place, check_port, launch, make_quiet, place_from, wait_for_signal


def webchat(resolved: Resolved, lang: str) -> int:
    """Open the model that `resolved` names and serve the page until Ctrl-C or SIGTERM; returns the exit code.

    Raises: UserError for an address without a password, a missing gradio, a taken port, or as `open_session`.
    """
    place = place_from(os.environ)
    check_port(place)
    _require_gradio()
    session = open_session(resolved, say=_say)
    notes = (*resolved.notes, *session.notes)
    for note in notes:
        _say(f"note: {note}")
    with_page(session, notes, place, lang)
    return 0


def with_page(session: Session, notes: tuple[str, ...], place: Place, lang: str) -> None:
    """Serve the page for an open session until a signal comes, then close both."""
    from tunesmith.serve.webchat.build import build_page, look

    demo, rooms, path = build_page(session, notes, lang)
    try:
        address = launch(demo, place, look())
        _say(f"open {address}  (Ctrl-C ends)")
        _say(f"votes and edits go to {path}")
        wait_for_signal()
    finally:
        rooms.close()
        demo.close(verbose=False)
        getattr(session.engine, "close", lambda: None)()


def _require_gradio() -> None:
    make_quiet()
    try:
        import gradio
    except ImportError as error:
        raise UserError("the web chat needs gradio", why=str(error), fix='pip install "tunesmith[webchat]"') from error
    if int(gradio.__version__.split(".")[0]) < 6:
        raise UserError(
            f"the web chat needs gradio 6, {gradio.__version__} is installed", fix='pip install -U "tunesmith[webchat]"'
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
