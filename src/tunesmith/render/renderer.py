"""The renderer: conversations to tokens, for training and for inference alike.

The rule that everything else follows from: a prompt is tokenized as inference tokenizes it, the whole text at once,
and the answer is what follows. So a token is trained because it was put there as part of an answer; nobody searches
for answers afterwards. A dialogue is built turn by turn. Where the prompt of the next turn does not begin with the
tokens so far (thoughts leave the history, a merge crosses a border), a new example begins, so that every
trained answer is seen after exactly the tokens that inference would feed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tunesmith.errors import DataError
from tunesmith.render.dialect import AnswerText, Dialect
from tunesmith.render.encode import Encoder
from tunesmith.render.guard import guarded_messages, guarded_tools
from tunesmith.render.pieces import token_texts
from tunesmith.render.reader import AnswerReader
from tunesmith.render.tools.grammar import grammar_text
from tunesmith.types import Conversation, Message, RenderedExample, Role, RowRef, Span, ToolSpec


@dataclass(frozen=True, slots=True)
class RenderPolicy:
    """What is trained: `train_on_prompt` adds the prompts, `mask_history` leaves only the last answer."""

    train_on_prompt: bool = False
    mask_history: bool = False


@dataclass(slots=True)
class _Draft:
    """An example being built."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    num_turns: int = 0
    num_stops: int = 0

    def add(self, ids: Sequence[int], weight: float, role: Role) -> None:
        if not ids:
            return
        start = len(self.ids)
        self.ids.extend(ids)
        self.weights.extend([weight] * len(ids))
        self.spans.append(Span(start, len(self.ids), role, weight != 0.0))

    def finish(self, ref: RowRef | None) -> RenderedExample:
        return RenderedExample(
            tuple(self.ids), tuple(self.weights), tuple(self.spans), self.num_turns, self.num_stops, ref
        )


class Renderer:
    """Renders with one dialect and one tokenizer; made by `load_renderer`.

    Attributes:
        tokenizer: the (repaired) tokenizer.
        template_name: the template's name, or "the model's own".
        stop_ids: the tokens at which generation stops, the trained end first; empty when there is none.
        stop_texts: their texts.
        notes: what the user should know: repairs, and what the template does unexpectedly.
    """

    def __init__(self, tokenizer: Any, dialect: Dialect, encoder: Encoder, notes: Sequence[str] = ()) -> None:
        self.tokenizer, self.dialect, self.encoder = tokenizer, dialect, encoder
        self.template_name = dialect.name
        self.notes = [*dialect.notes, *notes]
        texts = [text for text in dialect.stop_texts if encoder.is_token(text)]
        if tokenizer.eos_token and tokenizer.eos_token not in texts:
            texts.append(tokenizer.eos_token)
        self.end_id = encoder.token_id(dialect.end_text)
        self._end_ids = {self.end_id, encoder.token_id(dialect.call_end_text)} - {None}
        self.stop_texts = tuple(dict.fromkeys(texts)) if self.end_id is not None else ()
        self.stop_ids: tuple[int, ...] = tuple(tokenizer.convert_tokens_to_ids(text) for text in self.stop_texts)

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> tuple[int, ...]:
        """The generation prompt: what inference is fed, ending with the header of the answer.

        Raises: DataError for what the template cannot render (a refused order of turns, arguments that are no JSON).
        """
        return self.encoder.encode(self._guarded_prompt(messages, tools))

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
        """The generation prompt as text, for people to read."""
        return self.encoder.unguard(self._guarded_prompt(messages, tools))

    def examples(self, conversation: Conversation, policy: RenderPolicy) -> list[RenderedExample]:
        """The training examples of a dialogue: usually one; several when earlier turns would change their tokens.

        Every trained answer is in exactly one of them. A dialogue in which nothing is to be trained (all
        `Message.weight` are 0) gives none.

        Raises: DataError when the dialogue has no answer, ends with a question, or cannot be rendered.
        """
        messages = guarded_messages(conversation.messages, self.encoder.guard)
        tools = guarded_tools(conversation.tools, self.encoder.guard)
        _refuse_unanswered(messages)
        done: list[RenderedExample] = []
        draft = _Draft()
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt_text = self.dialect.prompt_text(messages[:index], tools)
            prompt = self.encoder.encode(prompt_text)
            if prompt[: len(draft.ids)] != tuple(draft.ids):
                if draft.num_turns:
                    done.append(draft.finish(conversation.ref))
                draft = _Draft()
            asked_by = messages[index - 1].role if index else "system"
            draft.add(prompt[len(draft.ids) :], float(policy.train_on_prompt), asked_by)
            is_last = index == len(messages) - 1
            weight = 1.0 if message.weight is None else message.weight
            answer = self.dialect.answer_text(messages[:index], message, tools)
            self._add_answer(draft, prompt_text, answer, 0.0 if policy.mask_history and not is_last else weight)
        if draft.num_turns:
            done.append(draft.finish(conversation.ref))
        return done

    def text_ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a plain text, no token added; special tokens that it spells out are text like the rest."""
        return self.encoder.encode(self.encoder.guard(text))

    @cached_property
    def text_start_id(self) -> int | None:
        """The token that the tokenizer itself puts before every text, as the model saw in pretraining; often none."""
        start = self.tokenizer.bos_token_id
        ids = self.tokenizer("a", verbose=False)["input_ids"]
        return int(start) if start is not None and ids[:1] == [start] else None

    @cached_property
    def text_end_id(self) -> int | None:
        """The token that ends a document: Llama's `<|end_of_text|>` where there is one, else the end token."""
        return next(
            (
                found
                for name in ("<|end_of_text|>", self.tokenizer.eos_token or "")
                if (found := self.encoder.token_id(name)) is not None
            ),
            None,
        )

    def parse(self, text: str, tools: Sequence[ToolSpec] = ()) -> Message:
        """The assistant message behind generated text: thought and tool calls apart, literal text of the layout off.

        Calls are looked for when `tools` are given; one that is not valid stays text. The text must still hold the
        tokens of `visible_special_ids`: see `decode_visible`.
        """
        return self.dialect.parse(text, tools)

    def reader(self, tools: Sequence[ToolSpec] = ()) -> AnswerReader:
        """Reads an answer while it is written; its deltas, joined, are `parse` of the whole text."""
        return AnswerReader(self.dialect.shape, tools)

    @property
    def tool_format(self) -> str | None:
        """How calls are written; None when that is not known, so that calls in answers stay text."""
        found = self.dialect.shape.tools
        return found.name if found else None

    def call_grammar(
        self,
        tools: Sequence[ToolSpec],
        names: Sequence[str] | None = None,
        required: bool = True,
        parallel: bool = True,
    ) -> str | None:
        """The form of an answer that calls tools, as a Lark grammar of llguidance; None when there is no such form.

        Args:
            tools: the functions.
            names: those of them that may be called; None for all.
            required: the answer is a call; otherwise it may also be words, or words and then calls.
            parallel: several calls may be made.
        """
        shape = self.dialect.shape
        chosen = {tool.name: tool.parameters for tool in tools if names is None or tool.name in names}
        rules = shape.tools.call_rules(chosen, many=parallel) if shape.tools and chosen else None
        if rules is None:
            return None
        thinking = self.dialect.open_thinking
        thought = None
        if thinking:
            thought = ("" if shape.opened else thinking.open.strip("\n"), thinking.close.strip("\n"))
        rules = replace(rules, before=shape.calls_before, after=shape.calls_after)
        return grammar_text(rules, thought, self._added_token_id, required=required)

    @cached_property
    def visible_special_ids(self) -> tuple[int, ...]:
        """The special tokens that an answer must still show when it is read: markers of thoughts and calls."""
        shape = self.dialect.shape
        markers = list(shape.tools.markers) if shape.tools else []
        markers += [shape.thinking.open.strip("\n"), shape.thinking.close.strip("\n")] if shape.thinking else []
        ids = (self.encoder.token_id(marker) for marker in markers)
        special = {token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return tuple(dict.fromkeys(found for found in ids if found is not None and found in special))

    def decode_visible(self, ids: Sequence[int]) -> str:
        """The text of tokens without special tokens, but for those of `visible_special_ids`."""
        if not self.visible_special_ids:
            return self.decode(ids)
        hidden = set(self.tokenizer.all_special_ids) - set(self.visible_special_ids)
        hidden |= {
            token_id
            for token_id, token in self.tokenizer.added_tokens_decoder.items()
            if token.special and token_id not in self.visible_special_ids
        }
        return self.decode([token_id for token_id in ids if token_id not in hidden], skip_special_tokens=False)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens, without any cleaning-up of spaces."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return str(text)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; joined they are `decode(ids, skip_special_tokens=False)`.

        A character that spans several tokens stands at the first of them; the others are empty.
        """
        return token_texts(ids, lambda part: self.decode(part, skip_special_tokens=False))

    def contract(self) -> dict[str, Any]:
        """The render contract of a run, JSON-able: see `render/contract.py`."""
        from tunesmith.render.contract import make_contract

        return make_contract(self)

    def _guarded_prompt(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
        guard = self.encoder.guard
        return self.dialect.prompt_text(guarded_messages(messages, guard), guarded_tools(tools, guard))

    def _added_token_id(self, text: str) -> int | None:
        """The id of a text that stands beside the ordinary vocabulary, such as `<tool_call>`."""
        found = self.encoder.token_id(text)
        return found if found in self.tokenizer.added_tokens_decoder else None

    def _add_answer(self, draft: _Draft, prompt_text: str, answer: AnswerText, weight: float) -> None:
        context_text, context = prompt_text, tuple(draft.ids)
        if answer.silent:
            context = self._extend(context, prompt_text, answer.silent)
            context_text = prompt_text + answer.silent
            draft.add(context[len(draft.ids) :], 0.0, "assistant")
        ids = self._extend(context, context_text, answer.taught)[len(context) :]
        draft.add(ids, weight, "assistant")
        if weight != 0.0 and ids:
            draft.num_turns += 1
            draft.num_stops += ids[-1] in self._end_ids

    def _extend(self, context: tuple[int, ...], context_text: str, text: str) -> tuple[int, ...]:
        """`context` and then `text`: as one tokenization where it begins with `context`, else encoded anew."""
        whole = self.encoder.encode(context_text + text)
        if whole[: len(context)] == context:
            return whole
        return context + self.encoder.encode(text)


def _refuse_unanswered(messages: Sequence[Message]) -> None:
    if not messages or messages[-1].role != "assistant":
        raise DataError(
            "the conversation does not end with an answer",
            why="what follows the last answer could not be trained",
            fix="remove the turns after the last answer, or add one",
        )
