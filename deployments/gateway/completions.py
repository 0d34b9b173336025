"""Legacy completions as they look on the wire."""

from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic import Field

from deployments.core.config import Settings
from deployments.core.errors import HeadraceError, InvalidRequest, Unsupported
from deployments.core.ids import new_id
from deployments.core.types import Cancelled, Delta, Failed, Finished, Message, Principal, Sampling, Text, Turn, Usage
from deployments.gateway import envelope
from deployments.gateway.wire import FINGERPRINT, MAX_EVENT_CHARS, Sampled, SomeWords, Texts, refuse, usage

_UNBUILT = ("logit_bias", "logprobs", "suffix")
_encode = msgspec.json.encode


class CompletionRequest(Sampled):
    """POST /v1/completions: a prompt without roles, which is asked as a user would."""

    prompt: SomeWords | Texts
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1)

    def turns(self, caller: Principal, settings: Settings, now: float, store_id: str | None, deadline_s: float) -> list[Turn]:
        """The turns of each prompt, `n` for each; raises InvalidRequest, Unsupported or NoSuchModel."""
        self._check(settings)
        prompts, sampling, first = self._prompts(settings.gateway.max_choices), self._sampling(), new_id("cmpl-")
        names = [f"{first}-{place}" if place else first for place in range(len(prompts))]
        made = int(now), deadline_s, store_id
        return [
            Turn(name, caller, self.model, (Message("user", prompt),), _seeded(sampling, place % (self.n or 1)), *made)
            for place, (name, prompt) in enumerate(zip(names, prompts, strict=True))
        ]

    def _prompts(self, most: int) -> list[str]:
        """Each prompt as often as it is to be answered."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        texts = [prompt for prompt in prompts if isinstance(prompt, str) and prompt]
        if not texts or len(texts) < len(prompts):
            raise Unsupported("prompt is text, or a list of texts; token ids are not taken", param="prompt", code="unsupported_value")
        if len(texts) > most:
            raise InvalidRequest(f"at most {most} prompts", param="prompt", code="too_many_prompts")
        if len(texts) * (self.n or 1) > most:
            raise Unsupported(f"at most {most} answers: prompts times n", param="n", code="unsupported_value")
        return [text for text in texts for _ in range(self.n or 1)]

    def _check(self, settings: Settings) -> None:
        refuse(self.model_extra or {}, _UNBUILT)
        if self.best_of not in (None, 1):
            raise Unsupported("only best_of=1 is supported", param="best_of", code="unsupported_value")
        if self.max_tokens and self.max_tokens > settings.gateway.max_tokens:
            raise InvalidRequest(f"at most {settings.gateway.max_tokens} tokens", param="max_tokens", code="invalid_value")

    def _sampling(self) -> Sampling:
        penalties = self.frequency_penalty, self.presence_penalty
        return Sampling(self.max_tokens, self.temperature, self.top_p, *penalties, self.seed, tuple(self.stop or ()))


def _seeded(sampling: Sampling, number: int) -> Sampling:
    """The sampling of one of several answers to a prompt; with a seed each gets one of its own, or all would say the same."""
    return sampling if sampling.seed is None else msgspec.structs.replace(sampling, seed=sampling.seed + number)


class Completion:
    """Deltas of one answer, or of several, to a legacy completion, streamed or whole; sans-I/O."""

    def __init__(self, turns: Sequence[Turn], choices: int = 1, include_usage: bool = False, echo: bool = False):
        turn = turns[0]
        self._fixed = {"id": turn.id, "object": "text_completion", "created": turn.created, "model": turn.model}
        self._fixed["system_fingerprint"] = FINGERPRINT
        self._include_usage = include_usage
        self._choices = choices
        self._echoes = [turn.messages[0].content if echo else "" for turn in turns]
        self._texts = [[echoed] for echoed in self._echoes]
        self._ends: dict[int, Finished] = {}

    def start(self) -> bytes:
        """The prompts, where they are to be repeated."""
        return b"".join(self._text(text, index) for index, text in enumerate(self._echoes))

    def encode(self, deltas: Sequence[Delta], index: int = 0) -> bytes:
        """The events of some deltas of one answer."""
        return b"".join([self._event(delta, index) for delta in deltas])

    def failed(self, error: HeadraceError) -> bytes:
        """The event of an error after the first byte; nothing follows it."""
        return envelope.event(error)

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
                case Cancelled():
                    raise envelope.ended()
                case _:
                    pass
        if len(self._ends) < len(self._texts):
            return None
        choices = [_choice("".join(text), place, self._ends[place].reason) for place, text in enumerate(self._texts)]
        return _encode(self._fixed | {"choices": choices, "usage": usage(self._used())})

    def _event(self, delta: Delta, index: int) -> bytes:
        match delta:
            case Text(text=text):
                return self._text(text, index)
            case Finished():
                self._ends[index] = delta
                return self._last(index)
            case Failed():
                return self.failed(envelope.Broken(delta))
            case Cancelled():
                return self.failed(envelope.ended())
            case _:
                return b""

    def _text(self, text: str, index: int) -> bytes:
        pieces = [text[i : i + MAX_EVENT_CHARS] for i in range(0, len(text), MAX_EVENT_CHARS)]
        return b"".join([self._chunk(piece, index) for piece in pieces])

    def _last(self, index: int) -> bytes:
        """The end of one answer, with that of the stream behind the last of them."""
        last = self._chunk("", index, self._ends[index].reason)
        if len(self._ends) < len(self._texts):
            return last
        counts = self._fixed | {"choices": [], "usage": usage(self._used())}
        return last + (b"data: " + _encode(counts) + b"\n\n" if self._include_usage else b"") + b"data: [DONE]\n\n"

    def _used(self) -> Usage:
        """All tokens; those of a prompt count once, however often it was answered."""
        prompts = [end.usage.prompt_tokens for place, end in self._ends.items() if place % self._choices == 0]
        ends = [end.usage for end in self._ends.values()]
        return Usage(sum(prompts), sum(used.completion_tokens for used in ends), all(used.replayed for used in ends))

    def _chunk(self, text: str, index: int, reason: str | None = None) -> bytes:
        shape: dict[str, Any] = self._fixed | {"choices": [_choice(text, index, reason)], "usage": None}
        return b"data: " + _encode(shape) + b"\n\n"


def _choice(text: str, index: int, reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}
