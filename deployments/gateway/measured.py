"""What is measured of requests and of the answers that their readers get."""

import asyncio
import logging
from collections.abc import Sequence
from math import nan

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.core.errors import Forbidden, HeadraceError, StreamInterrupted, Unauthenticated
from deployments.core.follow import Follower
from deployments.core.spans import Mark
from deployments.core.telemetry import (
    ANSWERS_OPEN,
    CHAT,
    CLIENT_RETRIES,
    FAIRNESS,
    FIRST_TOKEN,
    JOB_AGE,
    JOBS_WAITING,
    MODELS,
    OUTPUT_TOKEN,
    OVERHEAD,
    POOL_LIMIT,
    POOL_RUNNING,
    POOL_WAITING,
    REQUEST_DURATION,
    REQUESTS,
    SOCKETS_OPEN,
    STREAM_ABORTS,
    STREAMS_OPEN,
)
from deployments.core.timings import Timings, record
from deployments.core.traces import Traces, trace
from deployments.core.types import Called, Cancelled, Delta, Failed, Finished, Last, Text, Turn
from deployments.gateway.context import Context
from deployments.gateway.lately import Lately

EVERY_S = 2.0
"""Pause between two looks at what is open now."""

JOBS_EVERY_S = 10.0
"""Pause between two looks at what waits for a worker: one statement."""

_logger = logging.getLogger("headrace.measured")

_METHODS = {"GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS"}
_RETRIES = b"x-stainless-retry-count"


class Measured:
    """Counts requests by the template of their route and their status."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and look at how its answer begins."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        begun = False

        def count(status: int) -> None:
            nonlocal begun
            begun, route = True, scope.get("route")
            REQUESTS.add(
                getattr(route, "path", "other"), scope["method"] if route and scope["method"] in _METHODS else "other", str(status)
            )

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        if any(name == _RETRIES and value != b"0" for name, value in scope["headers"]):
            CLIENT_RETRIES.add()
        try:
            await self._app(scope, receive, noted)
        except Exception:
            if not begun:  # what nobody expected is answered further out
                count(500)
            raise


class Heard:
    """Times what the reader of one answer gets: its first word, its last, and how it ends."""

    def __init__(self, turn: Turn, timings: Timings, mark: Mark, traces: Traces, lately: Lately):
        self._turn, self._timings, self._mark, self._traces, self._lately = turn, timings, mark, traces, lately
        self._first_s: float | None = None
        self._last: Delta | None = None
        self._last_s: float | None = None

    def handed(self, deltas: list[Delta]) -> None:
        """Note what the reader has been given."""
        now_s = self._timings.age_s
        if self._first_s is None and any(isinstance(delta, Called) or (isinstance(delta, Text) and delta.text) for delta in deltas):
            self._first(now_s)
        if isinstance(deltas[-1], Last):
            self._last, self._last_s = deltas[-1], now_s

    def left(self, follower: Follower) -> None:
        """Note that the reader is done, or gone, now."""
        follower.settle()
        if self._last_s is None:
            self._last_s = self._timings.age_s

    def end(self, follower: Follower, log: Sequence[Delta]) -> None:
        """Count the answer, once what wrote it has ended."""
        model, error, took_s = MODELS.of(self._turn.model), self._error(follower.broken), self._last_s or 0.0
        REQUEST_DURATION.see(took_s, CHAT, model, error)
        tokens = self._last.usage.completion_tokens if isinstance(self._last, Finished) else 0
        self._lately.ended(tokens, failed=bool(error) and _by(error) == "failed")
        if error:
            STREAM_ABORTS.add(_by(error))
            self._mark.note({"error.type": error})
        if self._first_s is not None:
            self._timings.note("relay", self._first_s, took_s - self._first_s)
            if tokens > 1 and took_s > self._first_s:  # what comes in one piece was not written now
                OUTPUT_TOKEN.see((took_s - self._first_s) / (tokens - 1), CHAT, model)
        record(self._turn, self._timings, error or "ok", self._first_s, took_s)
        if self._traces.wants(self._turn.id):
            self._traces.note(trace(self._turn, self._timings, log, self._turn.created, error or "ok", self._first_s, took_s))

    def _first(self, now_s: float) -> None:
        self._first_s = now_s
        FIRST_TOKEN.see(now_s, CHAT, MODELS.of(self._turn.model))
        self._lately.first(now_s)
        asked_s = max((one.at_ms + one.ms for one in self._timings.stages), default=0.0) / 1000
        OVERHEAD.see(max(0.0, asked_s - self._timings.covered_s(asked_s)))
        self._timings.note("first_token", asked_s, max(0.0, now_s - asked_s))

    def _error(self, broken: HeadraceError | None) -> str:
        """Why it did not end well: an error's code, "cancelled" where the client left, or "" where it did."""
        if isinstance(self._last, Failed):
            return self._last.code
        if isinstance(self._last, Finished):
            return ""
        if isinstance(self._last, Cancelled):
            return StreamInterrupted.code
        if isinstance(broken, Unauthenticated | Forbidden):
            return "key_revoked"
        return broken.wire_code if broken else "cancelled"


def _by(error: str) -> str:
    """Who ended an answer."""
    return {"cancelled": "client", "key_revoked": "key", "client_too_slow": "lagging"}.get(error, "failed")


def shown(timings: Timings) -> list[tuple[bytes, bytes]]:
    """The stages so far, as a header (W3C Server-Timing)."""
    stages = ", ".join(f"{one.stage};dur={one.ms}" for one in timings.stages)
    return [(b"server-timing", stages.encode())] if stages else []


def comment(timings: Timings) -> bytes:
    """The stages so far, as a comment in a stream: every client passes over it."""
    return b": headrace-timing " + msgspec.json.encode(timings.stages) + b"\n\n"


async def backlog(parts: Context) -> None:
    """Say what waits for a worker, again and again, until cancelled."""
    while True:
        try:
            waiting, oldest_s = await parts.store.jobs.waiting()
            JOBS_WAITING.set(waiting)
            JOB_AGE.set(oldest_s)
        except Exception:
            _logger.exception("can not see how much waits")
            JOBS_WAITING.set(nan)
            JOB_AGE.set(nan)
        await asyncio.sleep(JOBS_EVERY_S)


async def pulse(parts: Context) -> None:
    """Say what is open now, again and again, until cancelled."""
    while True:
        parts.lately.look()
        ANSWERS_OPEN.set(len(parts.outbox.writers))
        STREAMS_OPEN.set(parts.hub.followed)
        SOCKETS_OPEN.set(len(parts.sockets))
        try:
            load = await parts.gate.look()
            running, waiting, limit, jain = load.running, load.waiting, load.limit, load.jain
        except Exception as error:  # whatever it is, the next look may succeed
            _logger.warning("can not see what runs and waits: %s", type(error).__name__)
            running = waiting = limit = jain = nan
        POOL_RUNNING.set(running)
        POOL_WAITING.set(waiting)
        POOL_LIMIT.set(limit)
        FAIRNESS.set(jain)
        await asyncio.sleep(EVERY_S)
