"""Long sessions: a conversation over a WebSocket or server-sent events, whose connections break and are gone on with."""

import time
from random import Random
from typing import Any, Protocol

import gevent
import orjson
import websocket
from locust import task
from locust.exception import StopUser

from loadtest.asking import Caller, Reply
from loadtest.events import Following
from loadtest.questions import question
from loadtest.users import Loaded

CONNECTIONS = 8
"""Over which one answer may come; one that takes more has failed."""

SILENCE_S = 60.0
"""Silence after which a connection counts as lost."""

AGAIN_S = 0.2
"""Before another connection is tried, times the number of those that were lost."""

LOST = (websocket.WebSocketException, OSError)
"""How a connection breaks."""


class Wire(Protocol):
    """How a session talks: one connection at a time."""

    def ask(self, body: dict[str, object], told: Following, leave_after: int | None) -> Reply:
        """Ask, and read until the end, the loss of the connection, or so many words."""
        ...

    def again(self, told: Following) -> Reply:
        """Go on behind the last event, over another connection."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


class Sse:
    """A request for each turn; what was cut is followed with GET."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def ask(self, body: dict[str, object], told: Following, leave_after: int | None) -> Reply:
        """Ask with POST, for an answer that outlives its connection."""
        headers = {"x-headrace-on-disconnect": "continue"}
        return self._caller.stream("/v1/responses", body | {"stream": True}, told, headers, leave_after)

    def again(self, told: Following) -> Reply:
        """Go on with GET."""
        return self._caller.stream(f"/v1/responses/{told.id}?stream=true&starting_after={told.number}", None, told)

    def close(self) -> None:
        """Nothing stays open between turns but the pool's connection."""


class WebSocket:
    """One socket for all turns; what was cut is attached to over another socket."""

    def __init__(self, host: str, bearer: str) -> None:
        self._url = f"ws{host.removeprefix('http')}/v1/responses"
        self._bearer = bearer
        self._socket: websocket.WebSocket | None = None

    def ask(self, body: dict[str, object], told: Following, leave_after: int | None) -> Reply:
        """Send `response.create`, for an answer that outlives its connection; over another socket where this one was closed meanwhile."""
        frame = body | {"type": "response.create", "headrace": {"on_disconnect": "continue"}}
        try:
            return self._exchange(frame, told, leave_after)
        except LOST as error:
            used = self._socket is not None
            self.close()
            return self._lost(told, error) if told.id or not used else self._again(frame, told, leave_after)

    def again(self, told: Following) -> Reply:
        """Attach."""
        frame = {"type": "headrace:response.attach", "response_id": told.id, "starting_after": told.number}
        return self._again(frame, told, None)

    def close(self) -> None:
        """Drop the connection without a word, as a network does."""
        if self._socket:
            self._socket.shutdown()
        self._socket = None

    def _again(self, frame: dict[str, Any], told: Following, leave_after: int | None) -> Reply:
        try:
            return self._exchange(frame, told, leave_after)
        except LOST as error:
            self.close()
            return self._lost(told, error)

    def _lost(self, told: Following, error: Exception) -> Reply:
        told.end(time.monotonic(), type(error).__name__)
        return Reply(told, told.status if told.id else 0)

    def _exchange(self, frame: dict[str, Any], told: Following, leave_after: int | None) -> Reply:
        try:
            socket = self._open()
        except websocket.WebSocketBadStatusException as error:
            told.fail(f"status {error.status_code}", time.monotonic())
            return Reply(told, error.status_code, retry_after="retry-after-ms" in (error.resp_headers or {}))
        socket.send(orjson.dumps(frame).decode())
        while not told.over:
            event = socket.recv()
            if not event:
                raise websocket.WebSocketConnectionClosedException("closed by the service")
            told.read(event.encode() if isinstance(event, str) else event, time.monotonic())
            if leave_after is not None and told.tokens >= leave_after:
                self.close()
                break
        return Reply(told, told.status, retry_after=told.retry_after)

    def _open(self) -> websocket.WebSocket:
        if self._socket is None:
            headers = {"authorization": self._bearer}
            self._socket = websocket.create_connection(self._url, SILENCE_S, header=headers, suppress_origin=True)
        return self._socket


class Session(Loaded):
    """Holds one conversation of many turns; every second session over a WebSocket, the others over server-sent events."""

    @task
    def talk(self) -> None:
        """Say one thing after the other and hear the answers, then end."""
        scenario, chance = self.scenario, Random(f"{self.scenario.seed}:{self.number}")
        tenant = self.number % len(self.keys)
        caller = self.caller(tenant)
        wire = WebSocket(self.host or "", f"Bearer {self.keys[tenant]}") if self.number % 2 else Sse(caller)
        made = caller.plain("POST", "/v1/conversations", "conversation", time.monotonic(), {})
        body: dict[str, object] = {"model": self.model, "max_output_tokens": scenario.max_tokens}
        body |= {"conversation": made.body["id"]} if made.body else {}
        for turn in range(scenario.turns):
            cut = chance.random() < scenario.reconnects
            leave_after = chance.randint(1, max((self.expected or scenario.max_tokens) - 1, 1)) if cut else None
            said = body | {"input": question(self.number * 10_000 + turn)}
            reply, resumes, resume_s = follow(wire, said, leave_after)
            if resume_s is not None:
                self.fire("RESUME", self.name, resume_s)
            due = time.time() - (time.monotonic() - reply.reading.sent)
            how = {"transport": "websocket" if self.number % 2 else "sse", "kind": "responses", "turn": turn, "tenant": tenant}
            self.record(reply, due, 0.0, resumes=resumes, resume_ms=resume_s and 1000 * resume_s, **how)
            gevent.sleep(scenario.pace_s * 2 * chance.random())
        wire.close()
        raise StopUser


def follow(wire: Wire, body: dict[str, object], leave_after: int | None) -> tuple[Reply, int, float | None]:
    """Ask and follow the answer to its end over as many connections as it takes; returns how many more there were, and how long the
    last one took from the loss of the one before to its first event."""
    told = Following(time.monotonic(), resumable=True)
    reply, resume_s = wire.ask(body, told, leave_after), None
    for resumes in range(CONNECTIONS):
        if told.over:
            return reply, resumes, resume_s
        gevent.sleep(AGAIN_S * max(resumes - 1, 0))
        lost, told.heard = time.monotonic(), None
        wire.again(told)
        resume_s = told.heard - lost if told.heard else resume_s
    told.fail("connection lost", time.monotonic())
    return reply, CONNECTIONS, resume_s
