"""What is measured of the backends and of their calls."""

from deployments.core.account import OK, STOPPED, Attempt
from deployments.core.telemetry import ATTEMPTS, BACKEND_CALLS, BACKENDS, BREAKER, CALL_DURATION, CHAT, FIRST_CHUNK, TOKEN_USAGE
from deployments.generator.standing import Standings

EVERY_S = 2.0
"""Pause between two looks at how the backends are doing."""

_STATES = {"closed": 0, "half_open": 1, "open": 2}


def told(attempt: Attempt, took_s: float, first_s: float | None) -> None:
    """Count a call that has ended; `first_s` is None where nothing was heard."""
    backend = BACKENDS.of(attempt.backend)
    ATTEMPTS.add(backend, attempt.outcome)
    CALL_DURATION.see(took_s, CHAT, backend, "" if attempt.outcome in (OK, STOPPED) else attempt.outcome)
    if first_s is not None:
        FIRST_CHUNK.see(first_s, CHAT, backend)
    TOKEN_USAGE.see(attempt.prompt_tokens, CHAT, backend, "input")
    TOKEN_USAGE.see(attempt.completion_tokens, CHAT, backend, "output")


def look(standings: Standings, now: float) -> None:
    """Say how the backends are doing."""
    for name, standing in standings.known.items():
        backend = BACKENDS.of(name)
        BREAKER.set(_STATES[standing.breaker.state(now)], backend)
        BACKEND_CALLS.set(standing.ongoing, backend)
