"""POST /v1/responses as it looks on the wire: what is honoured, what is echoed, what is refused."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from deployments.core.config import Settings
from deployments.core.errors import ContextTooLong, InvalidRequest, Unsupported
from deployments.core.estimate import CHARS_PER_TOKEN
from deployments.core.handling import service_of
from deployments.core.ids import new_id
from deployments.core.images import IMAGE_TOKENS
from deployments.core.responses import Item
from deployments.core.shape import Schema
from deployments.core.types import Message, Principal, Sampling, Turn
from deployments.gateway.items import RawItem, encoded, first_image, normalised, reference
from deployments.gateway.prompting import PromptSpec
from deployments.gateway.schemas import MAX_TOOLS
from deployments.gateway.structured import JsonSchema, Kind, SchemaName, asked, known_kind
from deployments.gateway.tools import MAX_ECHO_SCHEMA_BYTES, Name, ToolSpec, boxed, chosen, echoed, searched
from deployments.gateway.wire import MAX_DESCRIPTION_CHARS, MAX_LISTED, Labels, ModelName, Part, ServiceTier, Text, Words, either, refuse

INCLUDES = (
    "file_search_call.results",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
_UNBUILT = ("context_management", "moderation", "image", "access_programs", "logit_bias")
_MAX_ECHO_BYTES = 512


class Format(Part):
    """The shape of the answer; `json_schema` has a name and a schema."""

    type: Kind = "text"
    name: SchemaName | None = None
    description: Annotated[Words, Field(max_length=MAX_DESCRIPTION_CHARS)] | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    def echo(self) -> dict[str, Any]:
        """As the response repeats it."""
        if self.type != "json_schema":
            return {"type": self.type}
        fields = {"name": self.name, "description": self.description, "strict": bool(self.strict), "schema": self.schema_}
        return {"type": self.type, **fields}


class TextSpec(Part):
    """How text is written."""

    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Background(Part):
    """How soon a background response is wanted."""

    completion_window: Annotated[Text, Field(json_schema_extra={"enum": ["soonest"]})] = "soonest"


def _named(value: object) -> object:
    return value.get("id", "") if isinstance(value, dict) else value


Hint = Annotated[Words, Field(max_length=_MAX_ECHO_BYTES)]
"""What a caller may send, and gets back, without a meaning here."""


class ResponseRequest(BaseModel):
    """POST /v1/responses. Unknown fields are ignored, fields that would change the meaning are refused."""

    model_config = ConfigDict(
        extra="allow",
        allow_inf_nan=False,
        json_schema_extra=either(
            {"previous_response_id": {"type": "string"}, "conversation": None},
            {"conversation": {"type": ["string", "object"]}, "previous_response_id": None},
            {"input": {"type": ["string", "array"], "minItems": 1}, "previous_response_id": None, "conversation": None},
        ),
    )

    model: ModelName
    input: Words | Annotated[list[RawItem], Field(max_length=MAX_LISTED, fail_fast=True)] | None = None
    instructions: Words | None = None
    prompt: PromptSpec | None = None
    previous_response_id: Name | None = None
    conversation: Annotated[Name | None, BeforeValidator(_named, Name | dict[Literal["id"], Name] | None)] = None
    include: list[Annotated[Text, Field(json_schema_extra={"enum": list(INCLUDES)})]] | None = Field(None, max_length=16)
    tools: list[ToolSpec] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Text | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = Field(None, ge=1, le=1 << 20)
    max_output_tokens: int | None = Field(None, ge=1)
    text: TextSpec | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Labels | None = None
    store: bool | None = None
    background: bool | None = None
    background_options: Background | None = None
    stream: bool | None = None
    service_tier: ServiceTier | None = None
    reasoning: dict[str, Any] | None = None
    user: Hint | None = None
    safety_identifier: Hint | None = None
    prompt_cache_key: Hint | None = None
    prompt_cache_retention: Hint | None = None

    @property
    def searches(self) -> bool:
        """Whether the request carries the file_search tool."""
        return any(tool.type == "file_search" for tool in self.tools or ())

    @property
    def wanted_store(self) -> str | None:
        """The one vector store that the file_search tool names."""
        named = [tool.vector_store_ids for tool in self.tools or () if tool.type == "file_search" and tool.vector_store_ids]
        return named[0][0] if named and len(named[0]) == 1 else None

    @property
    def pictured(self) -> str | None:
        """The first part of the input that is an image, as errors name it."""
        return first_image(self.input) if isinstance(self.input, list) else None

    def plan(self, caller: Principal, settings: Settings, now: float, store_id: str | None, retrieves: bool = True) -> "Plan":
        """What is asked for; `store_id` is the vector store to search, where a tool asks for it or the model `retrieves`.

        Raises InvalidRequest or Unsupported.
        """
        self._refuse(settings)
        name = new_id("resp_")
        items = self._items(settings)
        search = searched(self.tools or (), self.tool_choice, store_id)
        messages = (Message("system", self.instructions),) if self.instructions else ()
        store_id = store_id if search or retrieves else None
        sampling, deadline_s = self._sampling(settings), settings.gateway.deadline_s
        toolbox = boxed(self.tools or (), self.tool_choice, settings.tools, self.parallel_tool_calls, self.max_tool_calls)
        turn = Turn(name, caller, self.model, messages, sampling, int(now), deadline_s, store_id, toolbox, search, self.conversation)
        references = {place: named for place, item in enumerate(items) if (named := reference(item))}
        return Plan(turn, self._snapshot(name, int(now)), items, references, INCLUDES[0] in (self.include or ()))

    def _refuse(self, settings: Settings) -> None:
        refuse(self.model_extra or {}, _UNBUILT)
        if self.previous_response_id and self.conversation:
            raise InvalidRequest("previous_response_id and conversation exclude each other", param="conversation", code="invalid_value")
        if self.background and self.store is False:
            raise InvalidRequest("a background response is stored", param="store", code="invalid_value")
        if self.background_options and self.background_options.completion_window != "soonest":
            raise Unsupported("only 'soonest' is supported", param="background_options.completion_window", code="unsupported_value")
        for place, value in enumerate(self.include or ()):
            if value not in INCLUDES:
                raise Unsupported(f"include is any of {', '.join(INCLUDES)}", param=f"include[{place}]", code="unsupported_value")
        if self.text and self.text.format:
            known_kind(self.text.format.type, "text.format.type")
        bound = settings.gateway.max_tokens
        if self.max_output_tokens and self.max_output_tokens > bound:
            raise InvalidRequest(f"at most {bound} tokens", param="max_output_tokens", code="invalid_value")

    def _items(self, settings: Settings) -> tuple[Item, ...]:
        if self.input is None or self.input == []:
            if self.previous_response_id or self.conversation:
                return ()
            raise InvalidRequest("input is required", param="input", code="missing_required_parameter")
        if isinstance(self.input, str):
            return (normalised({"role": "user", "content": self.input}, "input"),)
        if len(self.input) > settings.gateway.max_messages:
            raise InvalidRequest(f"at most {settings.gateway.max_messages} items", param="input", code="too_many_items")
        return tuple(normalised(item, f"input[{place}]") for place, item in enumerate(self.input))

    def _sampling(self, settings: Settings) -> Sampling:
        probable = INCLUDES[1] in (self.include or ()) or bool(self.top_logprobs)
        return Sampling(
            self.max_output_tokens,
            self.temperature,
            self.top_p,
            self.frequency_penalty,
            self.presence_penalty,
            top_logprobs=(self.top_logprobs or 0) if probable else None,
            json_object=bool(self.text and self.text.format and self.text.format.type == "json_object"),
            schema=self._schema(),
        )

    def _schema(self) -> Schema | None:
        form = self.text.format if self.text else None
        if not form or form.type != "json_schema":
            return None
        if not form.name:
            raise InvalidRequest("name is required", param="text.format.name", code="missing_required_parameter")
        spec = JsonSchema(name=form.name, description=form.description, strict=form.strict, schema=form.schema_)
        made = asked(spec, "text.format.schema", held=not self.stream)
        if len(made.schema) > MAX_ECHO_SCHEMA_BYTES:
            message = f"a schema that the response repeats has at most {MAX_ECHO_SCHEMA_BYTES} bytes"
            raise InvalidRequest(message, param="text.format.schema", code="invalid_json_schema")
        return made

    def _snapshot(self, name: str, now: int) -> dict[str, Any]:
        """The Response object before anything has been written; every field is there, with its default."""
        text = self.text or TextSpec()
        form: dict[str, Any] = {"format": text.format.echo() if text.format else {"type": "text"}}
        return {
            "id": name,
            "object": "response",
            "created_at": now,
            "completed_at": None,
            "status": "queued" if self.background else "in_progress",
            "error": None,
            "incomplete_details": None,
            "instructions": self.instructions,
            "previous_response_id": self.previous_response_id,
            "conversation": {"id": self.conversation} if self.conversation else None,
            "model": self.model,
            "output": [],
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "tools": [echoed(tool) for tool in self.tools or ()],
            "tool_choice": chosen(self.tool_choice),
            "truncation": self.truncation or "disabled",
            "text": form | ({"verbosity": text.verbosity} if text.verbosity else {}),
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "top_logprobs": self.top_logprobs or 0,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": self.max_tool_calls,
            "store": self.store is not False,
            "background": bool(self.background),
            "service_tier": service_of(self.service_tier),
            "metadata": self.metadata or {},
            "usage": None,
            "reasoning": _small(self.reasoning),
            "user": self.user,
            "safety_identifier": self.safety_identifier,
            "prompt_cache_key": self.prompt_cache_key,
        } | ({"prompt_cache_retention": self.prompt_cache_retention} if self.prompt_cache_retention else {})


class Plan(msgspec.Struct, frozen=True):
    """A request for a response, read: the turn without what came before it, the object it begins as, and its input.

    `references` names, by their place in the input, the items that stand for others. With `seams` its events tell where another
    backend took over.
    """

    turn: Turn
    snapshot: dict[str, Any]
    inputs: tuple[Item, ...]
    references: dict[int, str]
    include_results: bool
    seams: bool = False

    @property
    def store(self) -> bool:
        """Whether the response is kept."""
        return bool(self.snapshot["store"])

    @property
    def asked(self) -> bytes:
        """What an encoder of its events needs."""
        return msgspec.json.encode({"response": self.snapshot, "results": self.include_results, "seams": self.seams})


def estimate(messages: Sequence[Message]) -> int:
    """How many tokens some messages take, roughly."""
    calls = sum(len(call.name) + len(call.arguments) for message in messages for call in message.calls)
    images = IMAGE_TOKENS * sum(len(message.images) for message in messages)
    return (sum(len(message.content) for message in messages) + calls) // CHARS_PER_TOKEN + 4 * len(messages) + images


def window(messages: Sequence[Message], budget_tokens: int, truncation: str) -> tuple[Message, ...]:
    """The messages that fit: all of them, or with `auto` the newest, beginning with a user's; raises ContextTooLong."""
    kept = list(messages)
    while estimate(kept) > budget_tokens:
        later = next((place for place in range(1, len(kept)) if kept[place].role == "user"), None)
        if truncation == "disabled" or later is None:
            raise ContextTooLong(f"the input is longer than {budget_tokens} tokens; truncation 'auto' drops the oldest", param="input")
        kept = kept[later:]
    return tuple(kept)


def _small(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is echoed without a meaning, where it is small."""
    return value if len(encoded(value, "reasoning")) <= _MAX_ECHO_BYTES else None
