"""Legacy completions as they look on the wire."""

from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator

from deployments.core.config import Settings
from deployments.core.errors import HeadraceError, InvalidRequest, Unsupported
from deployments.core.ids import new_id
from deployments.core.types import Delta, Failed, Finished, Message, Principal, Sampling, Text, Turn, Usage
from deployments.gateway import envelope
from deployments.gateway.chat import StreamOptions
from deployments.gateway.wire import FINGERPRINT, MAX_EVENT_CHARS, Words, known, refuse, usage

_UNBUILT = ("logit_bias", "logprobs", "suffix")
_encode = msgspec.json.encode


class CompletionRequest(BaseModel):
    """POST /v1/completions: a prompt without roles, which is asked as a user would."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str = Field(max_length=256)
    prompt: Words | list[Words] | list[int] | list[list[int]]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: list[Words] | None = Field(None, max_length=4)
    n: int | None = Field(None, ge=1)
    best_of: int | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    def turns(self, caller: Principal, settings: Settings, now: float, store_id: str | None) -> list[Turn]:
        """A turn for each prompt; raises InvalidRequest, Unsupported or NoSuchModel."""
        limits = settings.gateway
        refuse(self.model_extra or {}, _UNBUILT)
        known(self.model)
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not prompts or not all(isinstance(prompt, str) and prompt for prompt in prompts):
            raise Unsupported("prompt is text, or a list of texts; token ids are not taken", param="prompt", code="unsupported_value")
        if len(prompts) > limits.max_choices:
            raise InvalidRequest(f"at most {limits.max_choices} prompts", param="prompt", code="too_many_prompts")
        for name, value in (("n", self.n), ("best_of", self.best_of)):
            if value not in (None, 1):
                raise Unsupported(f"only {name}=1 is supported", param=name, code="unsupported_value")
        if self.max_tokens and self.max_tokens > limits.max_tokens:
            raise InvalidRequest(f"at most {limits.max_tokens} tokens", param="max_tokens", code="invalid_value")
        if any(not text or len(text) > 256 for text in self.stop or ()):
            raise InvalidRequest("a stop text has 1 to 256 characters", param="stop", code="invalid_value")
        sampling = Sampling(
            self.max_tokens, self.temperature, self.top_p, self.frequency_penalty, self.presence_penalty, self.seed, tuple(self.stop or ())
        )
        name = new_id("cmpl-")
        return [
            Turn(
                f"{name}-{place}" if place else name,
                caller,
                self.model,
                (Message("user", str(prompt)),),
                sampling,
                int(now),
                limits.deadline_s,
                store_id,
            )
            for place, prompt in enumerate(prompts)
        ]


class Completion:
    """Deltas of one answer, or of several, to a legacy completion, streamed or whole; sans-I/O."""

    def __init__(self, turns: Sequence[Turn], include_usage: bool = False, echo: bool = False):
        turn = turns[0]
        self._fixed = {"id": turn.id, "object": "text_completion", "created": turn.created, "model": turn.model}
        self._fixed["system_fingerprint"] = FINGERPRINT
        self._include_usage = include_usage
        self._echoes = [turn.messages[0].content if echo else "" for turn in turns]
        self._texts = [[echoed] for echoed in self._echoes]
        self._ends: dict[int, Finished] = {}

    def start(self) -> bytes:
        """The prompts, where they are to be repeated."""
        return b"".join(self._chunk(text, index) for index, text in enumerate(self._echoes) if text)

    def encode(self, deltas: Sequence[Delta], index: int = 0) -> bytes:
        """The events of some deltas of one answer."""
        return b"".join([self._event(delta, index) for delta in deltas])

    def failed(self, error: HeadraceError) -> bytes:
        """The event of an error after the first byte; nothing follows it."""
        return b"data: " + _encode(envelope.body(error)) + b"\n\n"

    def feed(self, deltas: Sequence[Delta], index: int = 0) -> bytes | None:
        """Take deltas of one answer; the body once the last one of all has come. Raises Broken."""
        for delta in deltas:
            match delta:
                case Text(text=text):
                    self._texts[index].append(text)
                case Finished():
                    self._ends[index] = delta
                case Failed():
                    raise envelope.Broken(delta)
                case _:
                    pass
        if len(self._ends) < len(self._texts):
            return None
        choices = [_choice("".join(text), place, self._ends[place].reason) for place, text in enumerate(self._texts)]
        return _encode(self._fixed | {"choices": choices, "usage": usage(self._used())})

    def _event(self, delta: Delta, index: int) -> bytes:
        match delta:
            case Text(text=text):
                pieces = [text[i : i + MAX_EVENT_CHARS] for i in range(0, len(text), MAX_EVENT_CHARS)]
                return b"".join([self._chunk(piece, index) for piece in pieces])
            case Finished(reason=reason):
                self._ends[index] = delta
                last = self._chunk("", index, reason)
                if len(self._ends) < len(self._texts):
                    return last
                counts = self._fixed | {"choices": [], "usage": usage(self._used())}
                return last + (b"data: " + _encode(counts) + b"\n\n" if self._include_usage else b"") + b"data: [DONE]\n\n"
            case Failed():
                return self.failed(envelope.Broken(delta))
            case _:
                return b""

    def _used(self) -> Usage:
        used = [end.usage for end in self._ends.values()]
        return Usage(sum(one.prompt_tokens for one in used), sum(one.completion_tokens for one in used))

    def _chunk(self, text: str, index: int, reason: str | None = None) -> bytes:
        shape: dict[str, Any] = self._fixed | {"choices": [_choice(text, index, reason)], "usage": None}
        return b"data: " + _encode(shape) + b"\n\n"


def _choice(text: str, index: int, reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason or None}
