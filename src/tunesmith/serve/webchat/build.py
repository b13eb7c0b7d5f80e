"""Put the page together for a session: rooms on its engine, parts, events, looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from tunesmith.infer.engine import sampling_from_config
from tunesmith.infer.session import Session
from tunesmith.serve.thinking import Renderers
from tunesmith.serve.votes import FeedbackFile, feedback_file
from tunesmith.serve.webchat.events import Events
from tunesmith.serve.webchat.page import Facts, build
from tunesmith.serve.webchat.room import Room
from tunesmith.serve.webchat.rooms import Rooms
from tunesmith.serve.webchat.style import CSS, theme

SECONDS_UPLOADS_ARE_KEPT = 600
_BLOCKS: dict[str, Any] = {
    "title": "Tunesmith",
    "fill_width": True,
    "fill_height": True,
    "analytics_enabled": False,
    "delete_cache": (SECONDS_UPLOADS_ARE_KEPT, SECONDS_UPLOADS_ARE_KEPT),
}


def build_page(session: Session, notes: tuple[str, ...], lang: str) -> tuple[gr.Blocks, Rooms, Path]:
    """The page (not yet served), its rooms, and the file that votes go to."""
    feedback = FeedbackFile(feedback_file(session.located.run_dir))
    renderers = Renderers(session.renderer)
    renderer = session.renderer
    params = sampling_from_config(session.config, renderer.stop_ids, renderer.visible_special_ids)
    facts = Facts(
        models=session.engine.models,
        params=params,
        context_length=session.engine.context_length,
        can_think=renderers.can_think,
        thinks=renderers.thinks,
        about=(session.located.describe(), f"template: {session.renderer.template_name}", *notes),
        feedback_path=str(feedback.path),
        lang=lang,
    )
    rooms = Rooms(lambda: Room(session.engine, renderers, feedback))
    with gr.Blocks(**_BLOCKS) as demo:
        parts = build(facts)
        Events(parts, rooms, facts, params).connect(demo)
    demo.queue(max_size=256, default_concurrency_limit=None)
    return demo, rooms, feedback.path


def look() -> dict[str, Any]:
    """Theme and style sheet, for `launch`."""
    return {"theme": theme(), "css": CSS}
