"""Chat Completions as it looks on the wire: the request, and the response streamed and whole."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from deployments.core.config import Settings
from deployments.core.errors import HeadraceError, InvalidRequest, NoSuchModel, Unsupported
from deployments.core.ids import new_id
from deployments.core.types import MODELS, Cited, Delta, Failed, Finished, Message, Principal, Role, Sampling, Text, Turn, Usage
from deployments.gateway import envelope

FINGERPRINT = "fp_headrace_1"

_MAX_EVENT_CHARS = 8000
"""Text of one event: readers built on aiohttp die on lines over 64 KiB, and a character may take six bytes of JSON."""

DENIED = ("chat_template", "trust_remote_code", "grammar", "chat_parser", "id_slot", "slot_save_path")
_UNBUILT = ("tools", "functions", "function_call", "audio", "web_search_options", "logit_bias", "moderation", "prediction", "store")
_encode = msgspec.json.encode


def _utf8(text: str) -> str:
    """The text itself; raises ValueError where it holds half of a surrogate pair, which no UTF-8 can carry."""
    if not text.isascii():
        text.encode()
    return text


Words = Annotated[str, AfterValidator(_utf8)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class TextPart(_Wire):
    """A part of a message; only text is understood."""

    type: str
    text: Words | None = None


class ChatMessage(_Wire):
    """One message of the request."""

    role: Literal["developer", "system", "user", "assistant"]
    content: Words | list[TextPart] | None = None

    @model_validator(mode="after")
    def _only_text(self) -> "ChatMessage":
        if self.content is None:
            raise ValueError("content is required")
        for part in self.content if isinstance(self.content, list) else ():
            if part.type not in ("text", "input_text", "refusal") or part.text is None:
                raise ValueError(f"content parts of type '{part.type}' are not supported; send text")
        return self

    def message(self) -> Message:
        """As the flow knows it."""
        text = self.content if isinstance(self.content, str) else "\n".join(part.text or "" for part in self.content or ())
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, text)


class StreamOptions(_Wire):
    """What a streamed response carries besides text."""

    include_usage: bool | None = None


class ResponseFormat(_Wire):
    """The shape of the answer; only text for now."""

    type: str


class ChatRequest(BaseModel):
    """POST /v1/chat/completions. Unknown fields are ignored, fields that would change the meaning are refused."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str = Field(max_length=256)
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: list[Words] | None = Field(None, max_length=4)
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    def turn(self, caller: Principal, settings: Settings, now: float, store_id: str | None) -> Turn:
        """The turn that is asked for, to be answered from that store; raises InvalidRequest, Unsupported or NoSuchModel."""
        self._refuse()
        limits = settings.gateway
        if self.model not in MODELS:
            raise NoSuchModel(f"the model '{self.model}' does not exist; there are {', '.join(MODELS)}", param="model")
        if len(self.messages) > limits.max_messages:
            raise InvalidRequest(f"at most {limits.max_messages} messages", param="messages", code="too_many_messages")
        asked = self.max_completion_tokens or self.max_tokens
        if asked and asked > limits.max_tokens:
            name = "max_completion_tokens" if self.max_completion_tokens else "max_tokens"
            raise InvalidRequest(f"at most {limits.max_tokens} tokens", param=name, code="invalid_value")
        if any(not text or len(text) > 256 for text in self.stop or ()):
            raise InvalidRequest("a stop text has 1 to 256 characters", param="stop", code="invalid_value")
        sampling = Sampling(
            asked, self.temperature, self.top_p, self.frequency_penalty, self.presence_penalty, self.seed, tuple(self.stop or ())
        )
        messages = tuple(message.message() for message in self.messages)
        return Turn(new_id("chatcmpl-"), caller, self.model, messages, sampling, int(now), limits.deadline_s, store_id)

    def _refuse(self) -> None:
        extra = self.model_extra or {}
        for name in extra:
            if name.startswith(DENIED):
                raise Unsupported(f"'{name}' can't be set by a request", param=name)
        for name in _UNBUILT:
            if extra.get(name):
                raise Unsupported(f"'{name}' is not supported yet", param=name)
        if self.n not in (None, 1):
            raise Unsupported("only n=1 is supported", param="n", code="unsupported_value")
        if self.logprobs or self.top_logprobs:
            raise Unsupported("logprobs are not supported yet", param="logprobs")
        if self.response_format and self.response_format.type != "text":
            raise Unsupported("only response_format 'text' is supported yet", param="response_format.type", code="unsupported_value")


def usage(used: Usage) -> dict[str, Any]:
    """Token counts as OpenAI names them."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def annotation(cited: Cited) -> dict[str, Any]:
    """A citation as Chat Completions nests it; offsets are half-open, in code points of the answer."""
    at = cited.citation
    return {"type": "url_citation", "url_citation": {"url": at.url, "title": at.title, "start_index": at.start, "end_index": at.end}}


class ChatStream:
    """Deltas to the bytes of a streamed chat completion; sans-I/O."""

    def __init__(self, turn: Turn, include_usage: bool):
        self._include_usage = include_usage
        fixed = {"id": turn.id, "object": "chat.completion.chunk", "created": turn.created, "model": turn.model}
        fixed |= {"system_fingerprint": FINGERPRINT, "service_tier": "default"}
        self._fixed = b"data: " + _encode(fixed)[:-1]
        self._text_head = self._fixed + b',"choices":[{"index":0,"delta":{"content":'
        self._text_tail = b'},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        self._annotations: list[dict[str, Any]] = []

    def start(self) -> bytes:
        """The first event: the role."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def encode(self, deltas: list[Delta]) -> bytes:
        """The events of some deltas; b"" where they make none."""
        return b"".join([self._event(delta) for delta in deltas])

    def failed(self, error: HeadraceError) -> bytes:
        """The event of an error after the first byte; nothing follows it."""
        return b"data: " + _encode(envelope.body(error)) + b"\n\n"

    def _event(self, delta: Delta) -> bytes:
        match delta:
            case Text(text=text):
                pieces = [text[i : i + _MAX_EVENT_CHARS] for i in range(0, len(text), _MAX_EVENT_CHARS)]
                return b"".join([self._text_head + _encode(piece) + self._text_tail for piece in pieces])
            case Cited():
                self._annotations.append(annotation(delta))
                return b""
            case Finished(reason=reason, usage=used):
                cited = self._chunk({"annotations": self._annotations}) if self._annotations else b""
                counts = self._fixed + b',"choices":[],"usage":' + _encode(usage(used)) + b"}\n\n" if self._include_usage else b""
                return cited + self._chunk({}, reason) + counts + b"data: [DONE]\n\n"
            case Failed():
                return self.failed(envelope.Broken(delta))
            case _:
                return b""

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._fixed + b',"choices":' + _encode([choice]) + b',"usage":null}\n\n'


class ChatBody:
    """Deltas to the body of a whole chat completion; sans-I/O."""

    def __init__(self, turn: Turn):
        self._turn = turn
        self._text: list[str] = []
        self._annotations: list[dict[str, Any]] = []

    def feed(self, deltas: list[Delta]) -> bytes | None:
        """Take deltas; the body once the last one has come. Raises Broken."""
        for delta in deltas:
            match delta:
                case Text(text=text):
                    self._text.append(text)
                case Cited():
                    self._annotations.append(annotation(delta))
                case Finished(reason=reason, usage=used):
                    return self._body(reason, used)
                case Failed():
                    raise envelope.Broken(delta)
                case _:
                    pass
        return None

    def _body(self, reason: str, used: Usage) -> bytes:
        message = {"role": "assistant", "content": "".join(self._text), "refusal": None, "annotations": self._annotations}
        turn = self._turn
        return _encode(
            {
                "id": turn.id,
                "object": "chat.completion",
                "created": turn.created,
                "model": turn.model,
                "system_fingerprint": FINGERPRINT,
                "service_tier": "default",
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
                "usage": usage(used),
            }
        )
