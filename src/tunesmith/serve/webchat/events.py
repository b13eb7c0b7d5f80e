"""What happens when something on the page is touched: each event is a call of the tab's room, then a fresh view of it.

An answer that streams is a generator of views. Nothing is decided here: rules about conversations are in `room.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import gradio as gr

from tunesmith.errors import UserError
from tunesmith.infer.engine import SamplingParams
from tunesmith.serve.transcript import read_json, read_tools
from tunesmith.serve.webchat.page import Facts, Parts
from tunesmith.serve.webchat.room import Pane, Room, Wishes
from tunesmith.serve.webchat.rooms import Rooms
from tunesmith.serve.webchat.view import thumbs_of, view_of
from tunesmith.serve.webchat.words import LANGUAGES, language_of, word

Updates = dict[Any, Any]
SETTINGS = (
    "system",
    "tools_json",
    "thinking",
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "seed",
)
SECONDS_BETWEEN_VIEWS = 0.05
_DOWNLOAD = """(text) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/x-ndjson'}));
  link.download = 'conversation.jsonl';
  link.click();
  URL.revokeObjectURL(link.href);
}"""

_SECRET = """() => {
  let secret = sessionStorage.getItem('tunesmith-tab');
  if (!secret) {
    secret = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
    sessionStorage.setItem('tunesmith-tab', secret);
  }
  return secret;
}"""
"""A random text of this tab, the same when the page is loaded again."""


class Events:
    """Connects the parts of the page with the rooms.

    Args:
        base_params: settings that have no box (stop tokens, limits).
    """

    def __init__(self, parts: Parts, rooms: Rooms, facts: Facts, base_params: SamplingParams) -> None:
        self.parts, self.rooms, self.facts, self.base_params = parts, rooms, facts, base_params
        self.settings = [parts["lang"], *(parts[name] for name in SETTINGS)]
        shown = ("left", "right", "model", "other", "compare", "choice", "toolbox", "tool_result", "ask", "status")
        self.shown = [parts[name] for name in (*shown, "votes_where")]

    def connect(self, demo: gr.Blocks) -> None:
        """Register every event; call inside `with demo`."""
        parts, outputs = self.parts, self.shown
        labels = list(parts.relabel("en"))
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
        slow: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

        ask, result = parts["ask"], parts["tool_result"]
        ask.submit(self.ask, [ask, *self.settings], outputs, **slow)
        ask.stop(self.stop, None, None, **quick)
        gr.on([parts["tool_send"].click, result.submit], self.answer_call, [result, *self.settings], outputs, **slow)
        for place, name in enumerate(("left", "right")):
            chat = parts[name]
            chat.retry(self._on_retry(place), self.settings, outputs, **slow)
            chat.edit(self._on_edit(place), self.settings, outputs, **slow)
            chat.like(self._on_vote(place), self.settings, outputs, **quick)
            chat.undo(self.undo, self.settings, outputs, **quick)
            chat.clear(self.clear, self.settings, outputs, **quick)
            parts[f"prefer_{name}"].click(self._on_prefer(place), self.settings, outputs, **quick)
        for place, name in enumerate(("model", "other")):
            parts[name].input(self._on_model(place), [parts[name], *self.settings], outputs, **quick)
        parts["compare"].input(self.compare, [parts["compare"], *self.settings], outputs, **quick)
        parts["tools_json"].change(self.check_tools, [parts["tools_json"], parts["lang"]], parts["tools_told"], **quick)
        parts["markdown"].input(
            lambda on: [gr.update(render_markdown=on)] * 2, parts["markdown"], [parts["left"], parts["right"]], **quick
        )
        saved = parts["save"].click(self.save, self.settings, parts["saved"], **quick)
        saved.then(None, parts["saved"], None, js=_DOWNLOAD)
        parts["load"].upload(
            self.load,
            [parts["load"], *self.settings],
            [*outputs, parts["system"], parts["tools_json"]],
            **quick,
        )
        relabelled = list(dict.fromkeys([*labels, *outputs, parts["lang"]]))
        parts["language"].click(self.turn, self.settings, relabelled, **quick)
        restored = [parts[name] for name in SETTINGS]
        greeted = list(dict.fromkeys([*labels, *outputs, parts["lang"], *restored]))
        demo.load(self.greet, parts["secret"], greeted, js=_SECRET, **quick)
        demo.unload(self.leave)

    def ask(self, request: gr.Request, text: str, *settings: Any) -> Generator[Updates, None, None]:
        """The person has sent a message."""
        room = self._room(request)
        yield from self._speak(room, settings, lambda wishes: room.ask(text, wishes), self.parts["ask"], text)

    def answer_call(self, request: gr.Request, text: str, *settings: Any) -> Generator[Updates, None, None]:
        """The person has answered in place of a tool."""
        room = self._room(request)
        yield from self._speak(
            room, settings, lambda wishes: room.answer_call(text, wishes), self.parts["tool_result"], text
        )

    def _on_retry(self, place: int) -> Callable[..., Generator[Updates, None, None]]:
        def retry(request: gr.Request, *settings: Any) -> Generator[Updates, None, None]:
            room = self._room(request)
            yield from self._speak(room, settings, lambda wishes: room.retry(place, None, wishes))

        return retry

    def _on_edit(self, place: int) -> Callable[..., Generator[Updates, None, None]]:
        def edit(event: gr.EditData, request: gr.Request, *settings: Any) -> Generator[Updates, None, None]:
            room, lang = self._room(request), settings[0]
            view = view_of(room.panes[place], lang)
            index = _first(event.index)
            if index >= len(view.kinds) or view.kinds[index] not in ("text", "result"):
                gr.Warning(word("edit_texts_only", lang))
                yield self._view(room, lang)
                return
            turn, text = view.turns[index], _text_of(event.value)
            yield from self._speak(room, settings, lambda wishes: room.edit(place, turn, text, wishes))

        return edit

    def _on_vote(self, place: int) -> Callable[..., Updates]:
        def vote(event: gr.LikeData, request: gr.Request, *settings: Any) -> Updates:
            room, lang = self._room(request), settings[0]
            is_good = event.liked if isinstance(event.liked, bool) else None
            turn = view_of(room.panes[place], lang).judged_turn(_first(event.index))
            stands: list[bool | None] = []
            updates = self._do(room, lang, lambda: stands.append(room.vote(place, turn, is_good)))
            if stands:
                updates[self.parts["status"]] = word("vote_gone" if stands[0] is None else "voted", lang)
            return updates

        return vote

    def _on_prefer(self, place: int) -> Callable[..., Updates]:
        def prefer(request: gr.Request, *settings: Any) -> Updates:
            room, lang = self._room(request), settings[0]
            return self._do(room, lang, lambda: room.prefer(place), word("chosen", lang))

        return prefer

    def _on_model(self, place: int) -> Callable[..., Updates]:
        def choose(request: gr.Request, name: str, *settings: Any) -> Updates:
            room = self._room(request)
            return self._do(room, settings[0], lambda: room.choose_model(place, name))

        return choose

    def compare(self, request: gr.Request, is_wanted: bool, *settings: Any) -> Updates:
        """The second pane is opened or closed."""
        room = self._room(request)
        return self._do(room, settings[0], lambda: room.compare(is_wanted))

    def undo(self, request: gr.Request, *settings: Any) -> Updates:
        """The last question goes back into the box."""
        room, texts = self._room(request), [""]
        updates = self._do(room, settings[0], lambda: texts.append(room.undo()))
        updates[self.parts["ask"]] = gr.update(value=texts[-1], submit_btn=True, stop_btn=False)
        return updates

    def clear(self, request: gr.Request, *settings: Any) -> Updates:
        """A new conversation."""
        room = self._room(request)
        return self._do(room, settings[0], room.clear)

    def stop(self, request: gr.Request) -> None:
        """The stop button."""
        self._room(request).stop()

    def leave(self, request: gr.Request) -> None:
        """The tab was closed."""
        self.rooms.leave(str(request.session_hash))

    def check_tools(self, text: str, lang: str) -> str:
        """What the JSON in the tool box amounts to, or what is wrong with it."""
        try:
            tools = read_tools(text, word("tools_json", lang))
        except UserError as error:
            return f"**{error.what}** {error.fix}"
        return word("tools_ok", lang) + ", ".join(tool.name for tool in tools) if tools else word("tools_none", lang)

    def save(self, request: gr.Request, *settings: Any) -> str:
        """The conversation as one line; the browser makes a file of it."""
        try:
            tools = read_tools(settings[2], word("tools_json", settings[0]))
        except UserError:
            tools = ()
        return json.dumps(self._room(request).row(settings[1], tools), ensure_ascii=False) + "\n"

    def load(self, request: gr.Request, content: bytes, *settings: Any) -> Updates:
        """Go on from an uploaded conversation (the last line of the file)."""
        room, lang, loaded = self._room(request), settings[0], ["", ""]

        def read() -> None:
            lines = [line for line in content.decode("utf-8-sig", errors="replace").splitlines() if line.strip()]
            row = read_json(lines[-1] if lines else "", word("load", lang))
            loaded[0], _ = room.load(row, word("load", lang))
            loaded[1] = json.dumps(row["tools"], ensure_ascii=False, indent=2) if row.get("tools") else ""

        updates = self._do(room, lang, read)
        return {**updates, self.parts["system"]: loaded[0], self.parts["tools_json"]: loaded[1]}

    def turn(self, request: gr.Request, *settings: Any) -> Updates:
        """The other language."""
        lang = next(name for name in LANGUAGES if name != settings[0])
        return self._in_language(self._room(request), lang)

    def greet(self, request: gr.Request, secret: str) -> Updates:
        """A tab opens, or loads anew: its language is that of the address (`?lang=zh`), the browser or the server."""
        asked = dict(request.query_params).get("lang", "")
        lang = language_of(f"{asked},{request.headers.get('accept-language', '')}", self.facts.lang)
        room = self.rooms.come_back(str(request.session_hash), secret or "")
        updates = self._in_language(room, lang)
        for name, value in zip(SETTINGS, room.settings[1:], strict=False):
            component = self.parts[name]
            updates[component] = _joined(updates.get(component, gr.update()), value)
        return updates

    def _in_language(self, room: Room, lang: str) -> Updates:
        updates = self._view(room, lang)
        for component, texts in self.parts.relabel(lang).items():
            updates[component] = _joined(texts, updates.get(component))
        return {**updates, self.parts["lang"]: lang}

    def _room(self, request: gr.Request) -> Room:
        return self.rooms.of(str(request.session_hash))

    def _do(self, room: Room, lang: str, action: Callable[[], object], said: str = "") -> Updates:
        """Do something that is done at once; a mistake becomes a warning."""
        try:
            action()
        except UserError as error:
            gr.Warning(_told(error))
            said = ""
        return self._view(room, lang, said)

    def _speak(
        self,
        room: Room,
        settings: tuple[Any, ...],
        begin: Callable[[Wishes], Generator[None, None, None]],
        box: Any = None,
        text: str = "",
    ) -> Generator[Updates, None, None]:
        """Let the model speak, and show how it goes. `box` is emptied, and filled again when nothing came of it."""
        lang, before = settings[0], [pane.turns for pane in room.panes]
        room.settings = settings
        clock, status = _Clock(), ""
        emptied: Updates = {} if box is None else {box: ""}
        try:
            for _ in begin(self._wishes(settings)):
                if room.is_busy and clock.is_time():
                    status = _running(room, clock, lang)
                    yield {**self._view(room, lang, status), **self._with(emptied, room)}
                    emptied = {}
        except UserError as error:
            gr.Warning(_told(error))
        nothing = before == [pane.turns for pane in room.panes]
        view = self._view(room, lang, _ended(room.panes, status, lang))
        yield {**view, **self._with({box: text} if box is not None and nothing else emptied, room)}

    def _with(self, values: Updates, room: Room) -> Updates:
        """New contents of boxes, with the buttons that belong to them."""
        return {
            box: gr.update(value=value, **(_buttons(room) if box is self.parts["ask"] else {}))
            for box, value in values.items()
        }

    def _wishes(self, settings: tuple[Any, ...]) -> Wishes:
        lang, system, tools_text, thinking, *numbers = settings
        names = SETTINGS[3:]
        values = dict(zip(names, numbers, strict=True))
        for name in ("max_new_tokens", "top_k"):
            values[name] = int(values[name])
        seed = int(values["seed"] if values["seed"] is not None else -1)
        params = replace(self.base_params, **{**values, "seed": None if seed < 0 else seed})
        tools = read_tools(tools_text or "", word("tools_json", lang))
        return Wishes(params, system or "", tools, bool(thinking) if self.facts.can_think else None)

    def _view(self, room: Room, lang: str, status: str = "") -> Updates:
        """Everything that depends on the room."""
        parts, calls = self.parts, [] if room.is_busy else room.open_calls()
        updates: Updates = {
            parts["left"]: _pane(room.panes[0], lang),
            parts["right"]: _pane(room.panes[1], lang) if room.is_comparing else gr.update(value=[], visible=False),
            parts["model"]: room.panes[0].model,
            parts["other"]: gr.update(value=room.panes[1].model, visible=True)
            if room.is_comparing
            else gr.update(visible=False),
            parts["compare"]: room.is_comparing,
            parts["choice"]: gr.update(visible=room.can_choose()),
            parts["toolbox"]: gr.update(visible=bool(calls)),
            parts["ask"]: gr.update(**_buttons(room)),
            parts["status"]: status,
            parts["votes_where"]: self._votes(room, lang),
        }
        if calls:
            updates[parts["tool_result"]] = gr.update(label=f"{word('tool_result', lang)} {calls[0]}")
        return updates

    def _votes(self, room: Room, lang: str) -> str:
        told = word("votes_where", lang, path=self.facts.feedback_path)
        count = room.feedback.num_written
        return f"{told}\n\n{word('votes_written', lang, count=count)}" if count else told


class _Clock:
    """When to show the next view, and how fast tokens come."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._first: tuple[float, int] | None = None

    def is_time(self) -> bool:
        now = time.monotonic()
        if now - self._shown < SECONDS_BETWEEN_VIEWS:
            return False
        self._shown = now
        return True

    def rate(self, num_tokens: int) -> float:
        """Tokens per second since the first ones were seen; 0 before that."""
        now = time.monotonic()
        if self._first is None:
            if num_tokens:
                self._first = (now, num_tokens)
            return 0.0
        began, already = self._first
        return (num_tokens - already) / max(now - began, 1e-6)


def _running(room: Room, clock: _Clock, lang: str) -> str:
    count = sum(pane.draft.num_tokens for pane in room.panes if pane.draft)
    rate = clock.rate(count)
    if not count:
        return word("waiting", lang) + " …"
    return word("tokens", lang, count=count, rate=f"{rate:.1f}")


def _ended(panes: list[Pane], status: str, lang: str) -> str:
    """The last figures, and why an answer did not end by itself."""
    if any(pane.ended == "length" for pane in panes):
        return f"{status} · {word('cut', lang)}"
    if any(pane.ended is None for pane in panes):
        return f"{status} · {word('stopped', lang)}"
    return status


def _joined(texts: dict[str, Any], update: Any) -> dict[str, Any]:
    """Two updates of one component; a bare value counts as an update of its value."""
    if update is None:
        return texts
    return {**texts, **(update if isinstance(update, dict) else {"value": update})}


def _buttons(room: Room) -> dict[str, Any]:
    return {"submit_btn": not room.is_busy, "stop_btn": room.is_busy}


def _pane(pane: Pane, lang: str) -> Any:
    view = view_of(pane, lang)
    return gr.update(value=view.bubbles, feedback_value=thumbs_of(pane, view), visible=True)


def _first(index: int | tuple[int, int]) -> int:
    return index if isinstance(index, int) else index[0]


def _text_of(value: Any) -> str:
    """The text of an edited bubble, which arrives as text or as a list of parts."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else [value]
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in parts)


def _told(error: UserError) -> str:
    return " ".join(part for part in (error.what, error.why, error.fix) if part)
