"""The render contract: what a run was trained with, stored beside it, and checked before the run is used.

It holds the identity of the template and the tokenizer, the policies, and a few conversations with their tokens. Chat
and export render the same conversations again; the first token that differs is named, since a model asked in another
layout than it learned answers badly and gives no other sign.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from tunesmith.errors import DataError, TemplateError
from tunesmith.render.probes import CONTRACT_PROBES, TOOL_PROBES, Probe
from tunesmith.render.renderer import Renderer, RenderPolicy
from tunesmith.types import Conversation

VERSION = 2
_READABLE = (1, 2)
"""Version 1 knew no conversations with tools: what it does not hold is not compared."""
_FIX = (
    "use the template and tokenizer that the run was trained with (its run.yaml names them), "
    "or train again with the new ones"
)


def make_contract(renderer: Renderer) -> dict[str, Any]:
    """The contract of a renderer, JSON-able."""
    dialect = renderer.dialect
    return {
        "version": VERSION,
        "template": dict(dialect.describe()),
        "tokenizer_sha256": tokenizer_hash(renderer.tokenizer),
        "end": {"text": dialect.end_text, "id": renderer.end_id},
        "stop_ids": list(renderer.stop_ids),
        "probes": [_render_probe(renderer, probe) for probe in (*CONTRACT_PROBES, *TOOL_PROBES)],
    }


def check_contract(stored: dict[str, Any], renderer: Renderer) -> None:
    """Raises: TemplateError naming the first difference between a stored contract and `renderer`."""
    if stored.get("version") not in _READABLE:
        raise TemplateError(
            f"the run's render contract has version {stored.get('version')}, this Tunesmith writes {VERSION}",
            where="render_contract.json",
            fix="use the Tunesmith version of the run, or train again",
        )
    now = make_contract(renderer)
    probes = {probe["name"]: probe for probe in now["probes"]}
    for before in stored["probes"]:
        after = probes[before["name"]]
        for key in ("prompt_ids", "example_ids"):
            _compare_ids(renderer, f"probe '{before['name']}'", before[key], after[key])
    _compare_parts(stored, now)


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 of the vocabulary, the merges and the added tokens; not of settings such as padding."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        parts: dict[str, Any] = {"vocab": sorted(tokenizer.get_vocab().items())}
    else:
        model = json.loads(backend.to_str())["model"]
        vocabulary = model["vocab"]
        parts = {
            "vocab": sorted(vocabulary.items()) if isinstance(vocabulary, dict) else vocabulary,
            "merges": model.get("merges"),
        }
    parts["added"] = sorted((token_id, str(token)) for token_id, token in tokenizer.added_tokens_decoder.items())
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def first_difference(left: Sequence[int], right: Sequence[int]) -> int | None:
    """The first position at which two token sequences differ, or None when they are equal."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return None if len(left) == len(right) else min(len(left), len(right))


def show_difference(renderer: Renderer, left: Sequence[int], right: Sequence[int], at: int) -> tuple[str, str]:
    """Both sides around position `at` as text: a few tokens before, the differing one in brackets, a few after."""

    def side(ids: Sequence[int]) -> str:
        if at >= len(ids):
            return repr(renderer.decode(ids[max(0, at - 6) :], skip_special_tokens=False)) + " [end]"
        before = renderer.decode(ids[max(0, at - 6) : at], skip_special_tokens=False)
        token = renderer.decode(ids[at : at + 1], skip_special_tokens=False)
        after = renderer.decode(ids[at + 1 : at + 5], skip_special_tokens=False)
        return f"{before!r} [{ids[at]} {token!r}] {after!r}"

    return side(left), side(right)


def _render_probe(renderer: Renderer, probe: Probe) -> dict[str, Any]:
    record: dict[str, Any] = {"name": probe.name, "prompt_ids": [], "example_ids": []}
    try:
        record["prompt_ids"] = list(renderer.prompt(probe.question, probe.tools))
        examples = renderer.examples(Conversation(probe.messages, probe.tools), RenderPolicy())
        record["example_ids"] = list(examples[-1].input_ids)
    except DataError as error:  # a model's own template may refuse system turns; that too is part of the contract
        record["refused"] = error.what
    return record


def _compare_ids(renderer: Renderer, where: str, before: Sequence[int], after: Sequence[int]) -> None:
    at = first_difference(before, after)
    if at is None:
        return
    then, now = show_difference(renderer, before, after, at)
    raise TemplateError(
        f"the run was trained with other tokens than would be used now: token {at} differs",
        where=where,
        why=f"trained: {then}\nnow:     {now}",
        fix=_FIX,
    )


def _compare_parts(stored: dict[str, Any], now: dict[str, Any]) -> None:
    names = {
        "end": "token that ends an answer",
        "template": "template",
        "tokenizer_sha256": "tokenizer (vocabulary, merges or added tokens)",
    }
    for key, name in names.items():
        if key == "template":
            before = _effective(stored[key])
            after = {part: value for part, value in _effective(now[key]).items() if part in before}
        else:
            before, after = stored[key], now[key]
        if before != after:
            raise TemplateError(
                f"the {name} is not the one that the run was trained with",
                where="render_contract.json",
                why=f"trained: {before}\nnow:     {after}",
                fix=_FIX,
            )


def _effective(template: dict[str, Any]) -> dict[str, Any]:
    """What of a template's identity matters: not the name under which it is listed."""
    return {key: value for key, value in template.items() if key != "name"}
