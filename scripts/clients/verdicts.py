"""What the drivers of clients share: one feature in one mode, told as a line of JSON. Standard library only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

URL, KEY, MODEL = os.environ["CLIENT_URL"], os.environ.get("CLIENT_KEY") or "none", os.environ["CLIENT_MODEL"]
QUESTION = "Count from one to five in words."
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "weather"}}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": SCHEMA}}


def tell(client: str, feature: str, mode: str, check: Callable[[], None]) -> None:
    """Run one check and print its verdict."""
    verdict, detail = "PASS", ""
    try:
        check()
    except AssertionError as error:
        verdict, detail = "FAIL", str(error)
    except Exception as error:  # a client may raise anything
        verdict, detail = "FAIL", f"{type(error).__name__}: {error}"
    if '"unsupported_parameter"' in detail or "'unsupported_parameter'" in detail:
        verdict = "SKIP"
    line = {"client": client, "feature": feature, "mode": mode, "verdict": verdict, "detail": detail[:300]}
    print(json.dumps(line), flush=True)
    print(f"{verdict} {client}: {feature} ({mode})", file=sys.stderr, flush=True)


def expect(holds: bool, otherwise: object) -> None:
    """Raises: AssertionError saying what was there instead."""
    if not holds:
        raise AssertionError(str(otherwise))
