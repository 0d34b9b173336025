"""Chat Completions as it looks on the wire: the request."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from deployments.core import config
from deployments.core.config import Settings
from deployments.core.errors import ContextTooLong, InvalidRequest, Unsupported
from deployments.core.ids import new_id
from deployments.core.shape import Schema
from deployments.core.tools import Tool, Toolbox, ToolCall
from deployments.core.types import Message, Principal, Role, Sampling, Turn
from deployments.gateway.pictures import picture
from deployments.gateway.prompting import PromptSpec
from deployments.gateway.responses import estimate
from deployments.gateway.schemas import MAX_TOOLS
from deployments.gateway.served import Served, selection
from deployments.gateway.structured import JsonSchema, Kind, asked, known_kind, parameters
from deployments.gateway.wire import MAX_DESCRIPTION_CHARS, MAX_LISTED, MAX_PARTS, Part, Sampled, Text, Words, either, refuse

_UNBUILT = ("functions", "function_call", "audio", "web_search_options", "logit_bias", "moderation", "store")
_SAID = {"type": ["string", "array"]}
_Choice = Literal["none", "auto", "required"]
_Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _addressed(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class ImageUrl(Part):
    """An image as a data URL, and how closely it is looked at."""

    url: Words
    detail: Literal["auto", "low", "high"] | None = None


class ContentPart(Part):
    """A part of a message: text, or an image of the user's."""

    type: Annotated[Text, Field(json_schema_extra={"enum": ["text", "input_text", "refusal"]})]
    text: Words | None = None
    refusal: Words | None = None
    image_url: Annotated[ImageUrl | None, BeforeValidator(_addressed, ImageUrl | None)] = None

    @property
    def words(self) -> str | None:
        """What it says; an image says nothing."""
        if self.type == "image_url":
            return "" if self.image_url else None
        return self.refusal if self.type == "refusal" else self.text


class CalledFunction(Part):
    """The function of a call, and its arguments as JSON."""

    name: _Name
    arguments: Words


class Call(Part):
    """A call that the assistant made."""

    id: Annotated[Words, Field(max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Part):
    """One message of the request."""

    model_config = ConfigDict(
        json_schema_extra=either(
            {"role": {"enum": ["developer", "system", "user", "assistant"]}, "content": _SAID, "tool_calls": None, "tool_call_id": None},
            {"role": {"const": "assistant"}, "tool_calls": {"type": "array", "minItems": 1}, "tool_call_id": None},
            {"role": {"const": "tool"}, "content": _SAID, "tool_calls": None, "tool_call_id": {"type": "string"}},
        )
    )

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Words | Annotated[list[ContentPart], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    tool_calls: list[Call] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_call_id: Annotated[Words, Field(max_length=256)] | None = None

    @model_validator(mode="after")
    def _sound(self) -> "ChatMessage":
        if self.content is None and not self.tool_calls:
            raise ValueError("content is required")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant makes tool_calls")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("a message of the role 'tool', and no other, has a tool_call_id")
        for part in self.content if isinstance(self.content, list) else ():
            if part.type not in ("text", "input_text", "refusal", "image_url"):
                raise ValueError(f"content parts of type '{part.type}' are not supported; send text or image_url")
            if part.type == "image_url" and self.role != "user":
                raise ValueError("only the user sends images")
            if part.words is None:
                raise ValueError("a part has a text, or a refusal or an image_url where it is one")
        return self

    @property
    def pictures(self) -> list[tuple[int, ImageUrl]]:
        """Its images, and which parts they are."""
        parts = self.content if isinstance(self.content, list) else ()
        return [(place, part.image_url) for place, part in enumerate(parts) if part.image_url and part.type == "image_url"]

    def message(self, place: str, limits: config.Gateway) -> Message:
        """As the flow knows it, its texts before its images; raises InvalidRequest."""
        parts = self.content if isinstance(self.content, list) else ()
        text = self.content if isinstance(self.content, str) else "\n".join(part.words or "" for part in parts if part.type != "image_url")
        role: Role = "system" if self.role == "developer" else self.role
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls or ())
        images = [picture(sent.url, sent.detail, f"{place}.content[{part}].image_url.url", limits) for part, sent in self.pictures]
        return Message(role, text, calls, self.tool_call_id, tuple(images))


class ResponseFormat(Part):
    """The shape of the answer."""

    type: Kind
    json_schema: JsonSchema | None = None


class Function(Part):
    """A function that the model may ask for."""

    name: _Name
    description: Annotated[Words, Field(max_length=MAX_DESCRIPTION_CHARS)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Served):
    """A tool: a function of the caller's, or `mcp`, tools that headrace runs."""

    type: Annotated[Text, Field(json_schema_extra={"enum": ["function", "mcp"]})]
    function: Function | None = None


class Named(Part):
    """A function by its name."""

    name: _Name


class NamedTool(Part):
    """One of the request's tools."""

    type: Literal["function"] = "function"
    function: Named


class Allowed(Part):
    """The tools that are left, and whether one must be called."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(max_length=MAX_TOOLS)


class ToolChoice(Part):
    """Whether a function must be called, and which may be."""

    type: Literal["none", "auto", "required", "function", "allowed_tools"]
    function: Named | None = None
    allowed_tools: Allowed | None = None


class ChatRequest(Sampled):
    """POST /v1/chat/completions. Unknown fields are ignored, fields that would change the meaning are refused."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_LISTED, fail_fast=True)
    prompt: PromptSpec | None = None
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[ToolSpec] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Annotated[Text, Field(json_schema_extra={"enum": ["text"]})]] | None = Field(None, max_length=8)

    @field_validator("tool_choice", mode="before", json_schema_input_type=ToolChoice | _Choice | None)
    @classmethod
    def _short_choice(cls, value: object) -> object:
        return {"type": value} if isinstance(value, str) else value

    def turns(self, caller: Principal, settings: Settings, now: float, store_id: str | None, deadline_s: float) -> list[Turn]:
        """What is asked for, as often as it is asked for (`n`), to be answered from that store.

        Raises InvalidRequest or Unsupported.
        """
        messages = tuple(one.message(f"messages[{place}]", settings.gateway) for place, one in enumerate(self.messages))
        self._check(messages, settings)
        name, sampling, toolbox = new_id("chatcmpl-"), self._sampling(), self._toolbox(settings)
        first = Turn(name, caller, self.model, messages, sampling, int(now), deadline_s, store_id, toolbox)
        return [first, *(_again(first, number) for number in range(1, self.n or 1))]

    @property
    def pictured(self) -> str | None:
        """The first part that is an image, as errors name it."""
        places = ((place, part) for place, message in enumerate(self.messages) for part, _ in message.pictures)
        return next((f"messages[{place}].content[{part}]" for place, part in places), None)

    def _check(self, messages: Sequence[Message], settings: Settings) -> None:
        limits = settings.gateway
        refuse(self.model_extra or {}, _UNBUILT)
        if estimate(messages) > limits.max_input_tokens:
            raise ContextTooLong(f"the messages are longer than {limits.max_input_tokens} tokens", param="messages")
        if len(self.messages) > limits.max_messages:
            raise InvalidRequest(f"at most {limits.max_messages} messages", param="messages", code="too_many_messages")
        if (self.n or 1) > limits.max_choices:
            raise Unsupported(f"n is at most {limits.max_choices}", param="n", code="unsupported_value")
        asked = self.max_completion_tokens or self.max_tokens
        if asked and asked > limits.max_tokens:
            name = "max_completion_tokens" if self.max_completion_tokens else "max_tokens"
            raise InvalidRequest(f"at most {limits.max_tokens} tokens", param=name, code="invalid_value")
        if set(self.modalities or ()) - {"text"}:
            raise Unsupported("answers are text", param="modalities", code="unsupported_value")
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs goes with logprobs", param="top_logprobs", code="invalid_value")
        if self.response_format:
            known_kind(self.response_format.type, "response_format.type")

    def _sampling(self) -> Sampling:
        return Sampling(
            self.max_completion_tokens or self.max_tokens,
            self.temperature,
            self.top_p,
            self.frequency_penalty,
            self.presence_penalty,
            self.seed,
            tuple(self.stop or ()),
            (self.top_logprobs or 0) if self.logprobs else None,
            bool(self.response_format and self.response_format.type == "json_object"),
            self._schema(),
        )

    def _schema(self) -> Schema | None:
        if not self.response_format or self.response_format.type != "json_schema":
            return None
        if not self.response_format.json_schema:
            raise InvalidRequest("json_schema is required", param="response_format.json_schema", code="missing_required_parameter")
        if self.stop:
            raise InvalidRequest("a stop text would cut the JSON in pieces", param="stop", code="invalid_value")
        return asked(self.response_format.json_schema, "response_format.json_schema.schema", held=not self.stream)

    def _toolbox(self, settings: Settings) -> Toolbox:
        named = list(enumerate(self.tools or ()))
        served = tuple(selection(tool, f"tools[{place}]", settings.tools) for place, tool in named if tool.type == "mcp")
        tools = tuple(_tool(tool, place) for place, tool in named if tool.type != "mcp")
        tools, choice = _chosen(self.tool_choice, tools) if self.tool_choice else (tools, "auto")
        served = () if choice == "none" else served
        if choice == "required" and not tools and not served:
            raise InvalidRequest("tool_choice 'required' needs tools", param="tool_choice", code="invalid_value")
        return Toolbox(tools, choice, self.parallel_tool_calls, served, asks=False) if tools or served else Toolbox()


def _again(first: Turn, number: int) -> Turn:
    """The same turn once more; with a seed it gets one of its own, or it would say the same."""
    seed = None if first.sampling.seed is None else first.sampling.seed + number
    sampling = msgspec.structs.replace(first.sampling, seed=seed)
    return msgspec.structs.replace(first, id=f"{first.id}-{number}", sampling=sampling)


def _tool(tool: ToolSpec, place: int) -> Tool:
    if tool.type != "function" or tool.function is None:
        raise Unsupported("only tools of type 'function' are supported", param=f"tools[{place}].type", code="unsupported_value")
    function, param = tool.function, f"tools[{place}].function.parameters"
    return Tool(function.name, function.description, parameters(function.parameters, param, function.strict), function.strict)


def _chosen(choice: ToolChoice, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], str]:
    """The tools that are left, and the choice among them."""
    names = {tool.name for tool in tools}
    if choice.type in ("none", "auto", "required"):
        return tools, choice.type
    if choice.type == "function" and choice.function and choice.function.name in names:
        return tools, f"={choice.function.name}"
    if choice.type == "allowed_tools" and choice.allowed_tools:
        kept = {one.function.name for one in choice.allowed_tools.tools}
        if kept <= names:
            return tuple(tool for tool in tools if tool.name in kept), choice.allowed_tools.mode
    raise InvalidRequest("tool_choice names functions among the tools", param="tool_choice", code="invalid_value")
