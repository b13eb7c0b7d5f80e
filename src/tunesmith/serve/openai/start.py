"""Opens what a configuration names and serves it."""

from __future__ import annotations

import sys
from dataclasses import replace

from tunesmith.config.resolve import Resolved
from tunesmith.infer.engine import sampling_from_config
from tunesmith.infer.session import Session, open_session
from tunesmith.render import Renderer, load_renderer
from tunesmith.serve.openai.server import address_of, bind, run_server
from tunesmith.serve.openai.service import Service
from tunesmith.serve.openai.settings import Settings


def serve(resolved: Resolved, settings: Settings) -> int:
    """Serve the model of `resolved` until a signal ends it; returns the exit code.

    Raises: ConfigError when the address cannot be listened on; what `open_session` raises.
    """
    bound = bind(settings)
    session = open_session(resolved, say=_say)
    for note in (*resolved.notes, *session.notes, *settings.notes):
        _say(f"note: {note}")
    service = service_of(session, settings)

    def on_ready() -> None:
        print(f"serving {', '.join(service.names)} on {address_of(bound, settings)}/v1", flush=True)

    return run_server(service, bound, on_ready)


def service_of(session: Session, settings: Settings) -> Service:
    """The service of an open session."""
    renderer = session.renderer

    def renderer_for(enable_thinking: bool) -> Renderer:
        config = replace(session.config, enable_thinking=enable_thinking)
        return load_renderer(config, renderer.tokenizer)

    defaults = sampling_from_config(session.config, renderer.stop_ids, renderer.visible_special_ids)
    return Service(session.engine, renderer, defaults, settings, renderer_for)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
