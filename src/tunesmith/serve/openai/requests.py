"""The bodies of the routes. The OpenAPI document is made of these.

Harmless fields (`user`, `metadata`, `store: false`, ...) are accepted and change nothing, since there is nothing here
that they could change. Everything else either has its meaning or is refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.serve.openai.fields import (
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_PROMPTS,
    MAX_STOPS,
    MAX_TOOLS,
    Body,
    ChatMessage,
    ChosenTool,
    Count,
    Label,
    Penalty,
    ResponseFormat,
    StopText,
    StreamOptions,
    TemplateOptions,
    TokenId,
    Tool,
)

TokenIds = Annotated[list[TokenId], Field(min_length=1)]


class GenerationBody(Body):
    """What chat and plain completions share."""

    model: Label
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1, description="0 and -1 switch it off")] | None = None
    do_sample: bool | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = None
    user: Label | None = None


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    audio: None = None
    functions: None = None
    function_call: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None
    moderation: None = None


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: None = None
    best_of: Literal[1] | None = None


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    model: Label
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None
    user: Label | None = None


class ScoreBody(Body):
    """POST /v1/score/evaluation: already formatted texts to be judged by a reward model."""

    model: Label
    messages: Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
    max_length: Count | None = None
