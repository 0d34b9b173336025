"""What is measured of the backends and of their calls."""

import contextlib
from collections.abc import Generator

import msgspec

from deployments.core.account import OK, STOPPED, Attempt
from deployments.core.models import Upstream
from deployments.core.spans import Mark, span
from deployments.core.telemetry import ATTEMPTS, BACKEND_CALLS, BACKENDS, BREAKER, CALL_DURATION, CHAT, FIRST_CHUNK, TOKEN_USAGE
from deployments.core.types import Generation
from deployments.generator.standing import Standings

EVERY_S = 2.0
"""Pause between two looks at how the backends are doing."""

_STATES = {"closed": 0, "half_open": 1, "open": 2}


class Told:
    """One call of a backend, as it is counted, and told on its span."""

    def __init__(self, mark: Mark):
        self._mark = mark
        self._words: list[str] | None = [] if mark.wants_content else None

    def hear(self, text: str) -> None:
        """Take what the backend says, where that is to be told."""
        if self._words is not None:
            self._words.append(text)

    def end(self, attempt: Attempt, took_s: float, first_s: float | None) -> None:
        """Count a call that has ended; `first_s` is None where nothing was heard."""
        backend, error = BACKENDS.of(attempt.backend), "" if attempt.outcome in (OK, STOPPED) else attempt.outcome
        ATTEMPTS.add(backend, attempt.outcome)
        CALL_DURATION.see(took_s, CHAT, backend, error)
        if first_s is not None:
            FIRST_CHUNK.see(first_s, CHAT, backend)
            self._mark.note({"gen_ai.response.time_to_first_chunk": first_s})
        TOKEN_USAGE.see(attempt.prompt_tokens, CHAT, backend, "input")
        TOKEN_USAGE.see(attempt.completion_tokens, CHAT, backend, "output")
        self._mark.note({"gen_ai.usage.input_tokens": attempt.prompt_tokens, "gen_ai.usage.output_tokens": attempt.completion_tokens})
        if self._words is not None:
            self._mark.note({"gen_ai.output.messages": "".join(self._words)})


@contextlib.contextmanager
def calling(upstream: Upstream, generation: Generation) -> Generator[Told]:
    """The span of one call of a backend."""
    about = {
        "gen_ai.operation.name": CHAT,
        "gen_ai.provider.name": "openai",  # whose API it speaks
        "gen_ai.request.model": upstream.model,
        "gen_ai.request.stream": True,
        "gen_ai.response.id": generation.log.response_id,
        "headrace.backend": upstream.name,
    }
    with span(f"{CHAT} {upstream.model}", about, kind="client") as mark:
        if mark.wants_content:
            mark.note({"gen_ai.input.messages": msgspec.json.encode(generation.messages).decode()})
        yield Told(mark)


def seen(standings: Standings, now: float) -> None:
    """Say how the backends are doing."""
    for name, standing in standings.known.items():
        backend = BACKENDS.of(name)
        BREAKER.set(_STATES[standing.breaker.state(now)], backend)
        BACKEND_CALLS.set(standing.ongoing, backend)
