"""Types that several requests share, and the parts of a chat request below its first level.

`Body` is strict: no field more than is declared, no text where a number belongs. A field declared as `None` is one of
OpenAI's that cannot be honoured here: clients may send it as null, nothing else (errors.REFUSED_FIELDS says why).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_STOPS = 16
MAX_CHOICES = 16
MAX_PROMPTS = 256
MAX_TOOLS = 128
MAX_MESSAGES = 4096

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Label = Annotated[str, Field(max_length=512)]


class Body(BaseModel):
    """A JSON object with exactly the declared fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class TextPart(Body):
    """A part of a message. Pictures and sound are refused."""

    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Field(min_length=1)]


class CalledFunction(Body):
    """The function of a call: `arguments` is JSON text."""

    name: Name
    arguments: str


class Call(Body):
    """A call that an earlier answer made."""

    id: Annotated[str, Field(min_length=1, max_length=128)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class SystemMessage(Body):
    """Instructions; `developer` is the newer name."""

    role: Literal["system", "developer"]
    content: Content
    name: None = None


class UserMessage(Body):
    """A question."""

    role: Literal["user"]
    content: Content
    name: None = None


class AssistantMessage(Body):
    """An earlier answer, with its thought and its calls."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class ToolMessage(Body):
    """The result of a call; several may follow each other."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Annotated[str, Field(min_length=1, max_length=128)]
    name: Label | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Body):
    """A function that the model may call. `strict` has each call fit `parameters`."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class ChosenFunction(Body):
    """The name of a function."""

    name: Name


class ChosenTool(Body):
    """A tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A JSON schema. It is always held to, whatever `strict` says."""

    name: Name
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Body):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StreamOptions(Body):
    """`include_usage`: one more event, without choices, tells the tokens."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TemplateOptions(Body):
    """What a chat template can be told."""

    enable_thinking: bool | None = None
