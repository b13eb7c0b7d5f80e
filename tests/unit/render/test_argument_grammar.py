"""Grammars of calls whose arguments are not one JSON object: what training writes, and nothing that reads otherwise."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import llguidance
import llguidance.hf
import pytest
import vocabularies
from tool_talks import OSLO, ROME, SEARCH, TOOLS, WEATHER, call, random_value

from tunesmith.render.tools.base import Found
from tunesmith.render.tools.grammar import grammar_text
from tunesmith.render.tools.table import FORMATS, get_format
from tunesmith.types import ToolCall

NAMES = ("qwen3_5", "seed_oss", "minimax2", "glm4_moe", "lfm2", "gemma4", "deepseek")
FUNCTIONS = {tool.name: tool.parameters for tool in TOOLS}
TYPED = {
    "type": "object",
    "properties": {
        "when": {"type": ["string", "null"]},
        "count": {"type": "integer"},
        "sure": {"type": "boolean"},
        "rows": {"type": "array", "items": {"type": "integer"}},
        "place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
        "kind": {"type": "string", "enum": ["a b", "c"]},
        "anything": {},
    },
    "required": ["count", "place"],
}


@cache
def tokenizer_with(markers: tuple[str, ...]) -> Any:
    """Qwen-like, with these texts as special tokens."""
    made = copy.deepcopy(vocabularies.byte_level("chatml"))
    made.add_special_tokens({"additional_special_tokens": list(markers)})
    return made


@cache
def judge(markers: tuple[str, ...]) -> Any:
    return llguidance.hf.from_tokenizer(tokenizer_with(markers))


@pytest.fixture(params=[False, True], ids=["plain markers", "special markers"])
def markers_of(request: pytest.FixtureRequest) -> Callable[[str], tuple[str, ...]]:
    return lambda name: get_format(name).markers if request.param else ()


def accepts(
    name: str,
    functions: dict[str, Any],
    text: str,
    markers: tuple[str, ...] = (),
    *,
    many: bool = True,
    required: bool = True,
) -> bool:
    rules = get_format(name).call_rules(functions, many=many)
    assert rules is not None
    tokenizer = tokenizer_with(markers)
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    matcher = llguidance.LLMatcher(judge(markers), grammar_text(rules, None, added.get, required=required))
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def written(name: str, *calls: ToolCall) -> str:
    return get_format(name).calls_text(calls)


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_what_training_writes_is_accepted(name: str, required: bool, markers_of) -> None:
    calls = (
        OSLO,
        ROME,
        call("now"),
        call("search_notes", query="say 'hi'\nand \"bye\" \\ 天", tags=["a", "天"], limit=2.5, exact=True),
        call("search_notes", query="", options={"k": "v"}),
    )
    markers = markers_of(name)
    for made in calls:
        assert accepts(name, FUNCTIONS, written(name, made), markers, required=required)
    assert accepts(name, FUNCTIONS, written(name, *calls), markers, required=required)
    assert accepts(name, FUNCTIONS, written(name, *calls), markers, many=False, required=required) is False
    assert accepts(name, FUNCTIONS, "It is sunny.", markers, required=required) is not required


@pytest.mark.parametrize("name", NAMES)
def test_wrong_names_and_wrong_arguments_are_refused(name: str, markers_of) -> None:
    only = {WEATHER.name: WEATHER.parameters, SEARCH.name: SEARCH.parameters}
    wrong = (
        call("now"),
        call("get_weather"),
        call("get_weather", unit="celsius"),
        call("get_weather", city="Oslo", unit="kelvin"),
        call("get_weather", city="Oslo", units="celsius") if name != "deepseek" else call("nobody", city="Oslo"),
        call("search_notes", query="x", limit=[1]),
        call("search_notes", query="x", exact="perhaps"),
        call("nobody", city="Oslo"),
    )
    assert accepts(name, only, written(name, OSLO), markers_of(name))
    for made in wrong:
        assert not accepts(name, only, written(name, made), markers_of(name)), made
    assert not accepts(name, only, written(name, OSLO)[:-2], markers_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_each_type_is_held_and_optional_arguments_may_be_missing_in_any_combination(name: str) -> None:
    values: dict[str, Any] = {
        "when": "now", "count": 3, "sure": False, "rows": [1, 2], "place": {"x": 1.5}, "kind": "a b", "anything": "x",
    }  # fmt: skip
    optional = [key for key in values if key not in ("count", "place")]
    for mask in range(1 << len(optional)):
        left_out = {key for bit, key in enumerate(optional) if mask >> bit & 1}
        given = {key: value for key, value in values.items() if key not in left_out}
        assert accepts(name, {"f": TYPED}, written(name, call("f", **given)))
    for key, value in {"count": 1.5, "sure": 3, "rows": ["x"], "place": {}, "kind": "d"}.items():
        assert not accepts(name, {"f": TYPED}, written(name, call("f", **{**values, key: value}))), key
    for key in ("count", "place"):
        given = {own: value for own, value in values.items() if own != key}
        assert not accepts(name, {"f": TYPED}, written(name, call("f", **given))), key


@pytest.mark.parametrize("name", NAMES)
def test_a_function_that_states_no_arguments_takes_any(name: str) -> None:
    for given in ({}, {"city": "Oslo"}, {"a": "x", "b": "y z"}):
        assert accepts(name, {"f": {}}, written(name, call("f", **given))), given


@pytest.mark.parametrize("name", NAMES)
def test_what_a_model_writes_under_the_grammar_can_be_read(name: str, markers_of) -> None:
    """Answers drawn at random from what the grammar allows, token by token, are calls of the functions."""
    form, source, markers = get_format(name), random.Random(3), markers_of(name)
    tokenizer = tokenizer_with(markers)
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    functions = {"f": TYPED, "now": FUNCTIONS["now"]}
    rules = form.call_rules(functions, many=True)
    assert rules is not None
    grammar = grammar_text(rules, None, added.get, required=True)
    texts = [
        written(name, call("f", count=source.randrange(99), place={"x": 2}, when=str(random_value(source))[:20]))
        for _ in range(5)
    ]
    good = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for ids in good:
        matcher = llguidance.LLMatcher(judge(markers), grammar)
        taken: list[int] = []
        for token_id in ids * 2:  # what was meant where that is allowed, else the first that is
            if matcher.is_stopped() or (matcher.is_accepting() and len(taken) >= len(ids)):
                break
            mask = matcher.compute_bitmask()
            allowed = [i for i in range(len(tokenizer)) if mask[i // 8] >> (i % 8) & 1 and i != tokenizer.eos_token_id]
            if not allowed:
                break
            chosen = token_id if token_id in allowed else source.choice(allowed)
            taken.append(chosen)
            assert matcher.consume_token(chosen)
        if not matcher.is_accepting():
            continue
        verdict = form.match(tokenizer.decode(taken), functions, is_final=True)
        assert isinstance(verdict, Found)
        assert all(made.name in functions for made in verdict.calls)
        assert all({"count", "place"} <= set(json.loads(made.arguments)) for made in verdict.calls if made.name == "f")


@pytest.mark.parametrize(("name", "bad"), [("qwen3_5", "a>b"), ("minimax2", 'a"b'), ("lfm2", "a b"), ("gemma4", "a:b")])
def test_a_name_that_the_format_cannot_write_gives_no_grammar(name: str, bad: str) -> None:
    functions = {"f": {"type": "object", "properties": {bad: {"type": "string"}}}}
    assert get_format(name).call_rules(functions, many=True) is None


def test_every_format_has_a_grammar() -> None:
    for name, form in FORMATS.items():
        assert form.call_rules(FUNCTIONS, many=True) is not None, name
