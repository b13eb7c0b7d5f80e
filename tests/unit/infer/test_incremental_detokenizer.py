"""Streaming text: no half characters, nothing lost, nothing added."""

from __future__ import annotations

import pytest
from tests.tiny import tiny_tokenizer

from tunesmith.infer.stream import IncrementalDetokenizer

TEXTS = [
    "Hello, world! How are you?",
    "你是谁？我是一个小助手，请告诉我今天的天气。",
    "魑魅魍魎 𠮷 and 👩‍👩‍👧 family 🇩🇪 flags 👍🏽",
    " leading and trailing ",
    "line\n\n\tbreaks\n",
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def pieces_of(tokenizer, ids: list[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(lambda part: tokenizer.decode(part, clean_up_tokenization_spaces=False))
    return [*(detokenizer.add(token_id) for token_id in ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_join_to_the_whole_text(tokenizer, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert "".join(pieces_of(tokenizer, ids)) == text


def test_no_piece_shows_half_a_character(tokenizer) -> None:
    ids = tokenizer("𠮷👍🏽魑")["input_ids"]
    assert len(ids) > 8, "the test needs characters of several tokens"
    pieces = pieces_of(tokenizer, ids)
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == "𠮷👍🏽魑"


def test_an_answer_that_breaks_off_inside_a_character_says_so_at_the_end(tokenizer) -> None:
    ids = tokenizer("ok 👍")["input_ids"][:-1]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces[:-1]) == "ok "
    assert pieces[-1].startswith("\ufffd")


def test_a_tokenizer_that_drops_leading_spaces_keeps_them_inside_the_answer() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"▁Hi": 0, "▁there": 1, "!": 2, "<unk>": 3}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()  # strips the space of the first token it is given
    detokenizer = IncrementalDetokenizer(lambda ids: backend.decode(list(ids)))
    assert [detokenizer.add(token_id) for token_id in (0, 1, 1, 2)] == ["Hi", " there", " there", "!"]


def test_the_work_per_token_does_not_grow(tokenizer) -> None:
    longest = 0

    def decode(ids) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return tokenizer.decode(list(ids))

    detokenizer = IncrementalDetokenizer(decode)
    for token_id in tokenizer("Tell me your name, please. " * 40)["input_ids"]:
        detokenizer.add(token_id)
    assert longest <= 4
