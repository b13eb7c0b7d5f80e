"""`mistral` has the tokens of Mistral's own tokenizer library, over its real v3 vocabulary.

The library is no Jinja template: it encodes piece by piece with sentencepiece. Equality here says that the one-text
rule and sentencepiece's own rules for spaces agree.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import vocabularies
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from tunesmith.render.load import make_renderer
from tunesmith.render.probes import Probe, probe_conversations
from tunesmith.render.renderer import RenderPolicy
from tunesmith.types import Conversation, Message

MAKERS = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}


def _own(tokenizer: MistralTokenizer, probe: Probe) -> tuple[int, ...]:
    messages = [MAKERS[message.role](content=message.content) for message in probe.question]
    return tuple(tokenizer.encode_chat_completion(ChatCompletionRequest(messages=messages)).tokens)


# transformers' conversion of the sentencepiece model cuts runs of spaces differently ("__" + "hello", not
# "_" + "_hello"): the same text in other tokens, here and at inference, and nothing that a template could change.
RUNS_OF_SPACES = {
    "emoji and whitespace", "leading space", "leading space, two turns", "tabs and spaces", "system with edges",
    "tabs and spaces, with system", "tabs and spaces, two turns", "code", "code, with system", "code, two turns",
}  # fmt: skip
# The library strips whitespace from the end of answers; and it knows no thoughts, which here stay in the history.
OTHER_TEXT = {"trailing space, two turns", "thought, two turns"}


def test_a_prompt_has_the_tokens_of_mistrals_own_library(tmp_path: Path) -> None:
    own = MistralTokenizer.from_file(str(vocabularies.mistral_model_file()))
    renderer = make_renderer(vocabularies.mistral(tmp_path), "mistral")
    other_tokens, other_text, num_equal = set(), set(), 0
    for probe in probe_conversations():
        ours, theirs = renderer.prompt(probe.question), _own(own, probe)
        if ours == theirs:
            num_equal += 1
        elif renderer.decode(ours, skip_special_tokens=False) == renderer.decode(theirs, skip_special_tokens=False):
            other_tokens.add(probe.name)
        else:
            other_text.add(probe.name)
    assert other_tokens == RUNS_OF_SPACES
    assert other_text == OTHER_TEXT
    assert num_equal == 84


def test_an_answer_has_the_tokens_that_follow_the_prompt_in_mistrals_own_library(tmp_path: Path) -> None:
    """Encoded by itself, an answer would begin with one more space."""
    own = MistralTokenizer.from_file(str(vocabularies.mistral_model_file()))
    renderer = make_renderer(vocabularies.mistral(tmp_path), "mistral")
    words = ("Who are you?", "I am an assistant.", "你是谁？", "我是一个助手。")
    talk = tuple(Message("assistant" if index % 2 else "user", text) for index, text in enumerate(words))
    [example] = renderer.examples(Conversation(talk), RenderPolicy())
    follow_up = Probe("", (*talk, Message("user", "?"), Message("assistant", "-")))
    assert _own(own, follow_up)[: len(example.input_ids)] == example.input_ids


def test_the_system_text_stands_before_the_last_question(tmp_path: Path) -> None:
    renderer = make_renderer(vocabularies.mistral(tmp_path), "mistral")
    probe = next(probe for probe in probe_conversations() if probe.name == "Chinese with system")
    text = renderer.prompt_text(probe.question)
    assert text == "<s>[INST] 你是谁？[/INST] 我是一个人工智能助手。</s>[INST] 你是一个乐于助人的助手。\n\n谢谢[/INST]"


@pytest.mark.parametrize("word", ["[INST]", "[/INST]", "</s>"])
def test_typed_control_text_is_text_in_both(tmp_path: Path, word: str) -> None:
    own = MistralTokenizer.from_file(str(vocabularies.mistral_model_file()))
    renderer = make_renderer(vocabularies.mistral(tmp_path), "mistral")
    probe = Probe(word, (Message("user", f"What is {word} for?"), Message("assistant", "-")))
    assert renderer.prompt(probe.question) == _own(own, probe)
