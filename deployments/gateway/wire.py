"""What the requests of several endpoints share."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from deployments.core.errors import InvalidRequest, NoSuchModel, Unsupported
from deployments.core.models import BUILT_IN
from deployments.core.types import Principal, Usage

FINGERPRINT = "fp_headrace_1"

MAX_EVENT_CHARS = 8000
"""Text of one event: readers built on aiohttp die on lines over 64 KiB, and a character may take six bytes of JSON."""

_NAMED = 10
"""Models that an error names, of all there are."""
MAX_LABELS = 16
MAX_STRANGERS = 64
"""Fields of a request that nobody knows."""

MAX_LISTED = 2048
"""Messages, items or texts of one request, whatever is configured: each that is wrong costs an error of its own."""

MAX_PARTS = 256
"""Parts of one message."""

MAX_DESCRIPTION_CHARS = 4096
MAX_STOP_CHARS = 256

DENIED = ("chat_template", "trust_remote_code", "grammar", "chat_parser", "id_slot", "slot_save_path")
"""Fields by which a request would steer the model server itself."""


def _utf8(text: str) -> str:
    """The text itself; raises ValueError where it holds half of a surrogate pair, which no UTF-8 can carry."""
    if not text.isascii():
        text.encode()
    return text


def _all_utf8(values: list[Any]) -> list[Any]:
    for value in values:
        if isinstance(value, str):
            _utf8(value)
    return values


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > MAX_LABELS:
        raise ValueError(f"at most {MAX_LABELS} pairs")
    return value


Words = Annotated[str, AfterValidator(_utf8)]
SomeWords = Annotated[Words, Field(json_schema_extra={"minLength": 1})]
_SOME: dict[str, Any] = {"type": "string", "minLength": 1}
ModelName = Annotated[Words, Field(max_length=256, json_schema_extra={"examples": list(BUILT_IN)})]
Text = Annotated[Words, Field(max_length=512)]
Texts = Annotated[list[Any], Field(max_length=MAX_LISTED, json_schema_extra={"items": _SOME, "minItems": 1}), AfterValidator(_all_utf8)]
"""Texts, and whatever else a list may hold: it is refused at its first element, not with an error for each."""

Labels = Annotated[dict[Annotated[Words, Field(max_length=64)], Text], BeforeValidator(_few), Field(max_length=MAX_LABELS)]
"""Metadata; too many pairs are refused before each is looked at."""


class Part(BaseModel):
    """A part of a request; what is unknown in it is ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class StreamOptions(Part):
    """What a streamed response carries besides text."""

    include_usage: bool | None = None


ServiceTier = Literal["auto", "default", "flex", "priority"]


class Sampled(BaseModel):
    """What both kinds of completions are asked with; unknown fields are kept, to be ignored or refused by name."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: list[Words] | None = Field(None, max_length=4)
    n: int | None = Field(None, ge=1)
    service_tier: ServiceTier | None = None
    metadata: Labels | None = None

    @field_validator("stop", mode="before", json_schema_input_type=list[str] | str | None)
    @classmethod
    def _one_stop(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _short_stops(cls, texts: list[str] | None) -> list[str] | None:
        if any(not 0 < len(text) <= MAX_STOP_CHARS for text in texts or ()):
            raise ValueError(f"a stop text has 1 to {MAX_STOP_CHARS} characters")
        return texts


def either(*cases: dict[str, Any]) -> dict[str, Any]:
    """For the document: an object is as one of these cases. A field is of that kind and required, or with None not to be there."""
    return {
        "anyOf": [
            {
                "properties": {name: {"type": "null"} if kind is None else kind for name, kind in case.items()},
                "required": [name for name, kind in case.items() if kind is not None],
            }
            for case in cases
        ]
    }


def refuse(extra: Mapping[str, Any], unbuilt: tuple[str, ...]) -> None:
    """Raises Unsupported for a field that may not be set, or that would change the meaning and is not built."""
    if len(extra) > MAX_STRANGERS:
        raise InvalidRequest(f"more than {MAX_STRANGERS} fields that headrace does not know", code="invalid_value")
    for name in extra:
        if name.startswith(DENIED):
            raise Unsupported(f"'{name}' can't be set by a request", param=name)
    for name in unbuilt:
        if extra.get(name):
            raise Unsupported(f"'{name}' is not supported yet", param=name)


def known(model: str, caller: Principal, there: Sequence[str]) -> None:
    """Raises NoSuchModel for a model that is not there, or not for this caller."""
    if model not in (mine := allowed(caller, there)):
        some = ", ".join(mine[:_NAMED]) or "none"
        raise NoSuchModel(f"the model '{model}' does not exist; there are {some}{', …' * (len(mine) > _NAMED)}", param="model")


def allowed(caller: Principal, there: Sequence[str]) -> list[str]:
    """The models of those that the caller may name."""
    return [model for model in there if caller.models is None or model in caller.models]


def usage(used: Usage) -> dict[str, Any]:
    """Token counts as Chat Completions names them."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
