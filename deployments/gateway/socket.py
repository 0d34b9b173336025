"""One WebSocket of the Responses API: frames in, events out, several answers at once in lanes."""

import asyncio
import contextlib
import json
import re
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from deployments.core.errors import HeadraceError, InvalidRequest, Overloaded, Unsupported
from deployments.core.sql import AWAY, away
from deployments.core.telemetry import SOCKET_CLOSES, STREAM_RESUMES
from deployments.core.types import Principal
from deployments.gateway import envelope
from deployments.gateway.asking import Asked, Memory, ask, enqueue, keeper, outliving, prewarm
from deployments.gateway.attached import attached, deltas
from deployments.gateway.bodies import parse
from deployments.gateway.caching import reusing
from deployments.gateway.context import Context
from deployments.gateway.events import Event, ResponseEvents, encoder, error_event
from deployments.gateway.frames import LEAVING, MAX_MESSAGE_BYTES
from deployments.gateway.replies import answering, nudging
from deployments.gateway.responses import ResponseRequest
from deployments.gateway.watch import Proof

MAX_LANES = 32
"""Lanes of one socket, the unnamed one included."""

BURST_S = 5
"""Frames may come at once that make up the allowed rate over so long."""

_LANE = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_WAITED_S = 5
"""How long closing waits for what still runs."""


class Frame(msgspec.Struct):
    """What a client may send; the fields of `response.create` are read by `ResponseRequest`."""

    type: str
    stream_id: str | None = None
    response_id: str | None = None
    starting_after: int | None = None
    generate: bool = True
    headrace: dict[str, Any] = {}


_decode = msgspec.json.Decoder(Frame).decode


class Pace:
    """Says when frames come faster than `per_s` beyond a burst; GCRA, as ITU-T I.371 has it."""

    def __init__(self, per_s: float):
        self._interval_s, self._due_s = 1 / per_s, 0.0

    def feed(self, now_s: float) -> bool:
        """Take a frame; False where it is one too many."""
        self._due_s = max(self._due_s, now_s) + self._interval_s
        return self._due_s - now_s <= BURST_S


class Socket:
    """Serves one client until it goes, its time is over, or it breaks a bound."""

    def __init__(self, parts: Context, proof: Proof, socket: WebSocket):
        self._parts = parts
        self._proof = proof
        self._socket = socket
        self._limits = parts.settings.gateway
        self._lanes: dict[str | None, asyncio.Task[None]] = {}
        self._over: set[str | None] = set()
        """Lanes whose answer has been told to its end, and is being settled: the next one waits for that."""
        self._seen: set[str | None] = set()
        self._memory = Memory()
        self._pace = Pace(self._limits.socket_frames_per_s)
        self._sending = asyncio.Lock()
        self._life = asyncio.timeout(self._limits.socket_life_s)
        self._ended = False
        self._leaving = False
        self._asked = 0
        """Answers that are asked for over this socket, whatever they wait for."""

    def leave(self) -> None:
        """End it once what was asked over it is answered, as this process is to end; the client finds another."""
        self._leaving = True
        self._close_if_left()

    def _close_if_left(self) -> None:
        if self._leaving and not self._asked:
            with contextlib.suppress(RuntimeError):  # it ends already
                self._life.reschedule(asyncio.get_running_loop().time())

    def end(self, why: HeadraceError) -> None:
        """End it now, as its caller may not be here any more."""
        if not self._ended:
            self._ended = True
            self._life.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Serve; ends with the socket closed and nothing of its foreground left running."""
        try:
            await self._receive()
        except TimeoutError:
            if self._ended:
                await self._close(1008)
                return
            if self._leaving:
                await self._close(1012)
                return
            await self._refuse(InvalidRequest("this connection is too old; open another", code="websocket_connection_limit_reached"))
            await self._close(1001)
        except asyncio.CancelledError:
            await self._close(1012)
            raise
        finally:
            await self._end()

    async def _receive(self) -> None:
        """Take frames until the client goes or one ends the connection; raises TimeoutError where its time is over."""
        with self._parts.watch.over(self._proof, self.end):
            async with self._life:
                if leaving := self._socket.scope.get(LEAVING):
                    leaving.add_done_callback(lambda _: self.leave())
                while True:
                    message = await self._socket.receive()
                    if message["type"] == "websocket.disconnect":
                        SOCKET_CLOSES.add("client")
                        return
                    if not await self._take(message):
                        return

    async def _take(self, message: Mapping[str, Any]) -> bool:
        """Handle one frame; False where it ended the connection."""
        text = message.get("text")
        if _size(message) > MAX_MESSAGE_BYTES:
            await self._close(1009)
            return False
        if not self._pace.feed(asyncio.get_running_loop().time()):
            await self._close(1008)
            return False
        if text is None:
            await self._refuse(InvalidRequest("frames are JSON text", code="invalid_json"))
            return True
        lane: str | None = None
        try:
            frame = _decode(text)
            lane = frame.stream_id
            self._begin(frame, text)
        except msgspec.ValidationError as error:
            await self._refuse(InvalidRequest(str(error), code="invalid_value"), lane)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            await self._refuse(InvalidRequest("the frame is not JSON", code="invalid_json"), lane)
        except HeadraceError as error:
            await self._refuse(error, lane)
        return True

    def _begin(self, frame: Frame, text: str) -> None:
        """Start what a frame asks for, in its lane; raises what is wrong with it."""
        lane = frame.stream_id
        if lane is not None and not _LANE.fullmatch(lane):
            raise InvalidRequest("stream_id has 1 to 256 letters, digits, '_', '.' or '-'", param="stream_id", code="invalid_value")
        if self._leaving:
            raise Overloaded("this server is to end; connect again", retry_after_s=1)
        if frame.type not in ("response.create", "headrace:response.attach"):
            raise Unsupported(f"frames of type '{frame.type[:64]}' are not supported", param="type", code="unsupported_value")
        before = self._lanes.get(lane)
        if before and not before.done() and lane not in self._over:
            raise InvalidRequest("this lane is still answering; use another stream_id", param="stream_id", code="stream_busy")
        most = self._limits.max_socket_answers
        if (
            len(self._seen | {lane}) > MAX_LANES
            or sum(not task.done() for name, task in self._lanes.items() if name not in self._over) >= most
        ):
            message = f"at most {MAX_LANES} lanes and {most} answers at once"
            raise InvalidRequest(message, param="stream_id", code="websocket_stream_limit_reached")
        self._seen.add(lane)
        asks = frame.type == "response.create"
        work = self._create(frame, text) if asks else self._attach(frame)
        self._over.discard(lane)
        self._asked += asks
        self._lanes[lane] = asyncio.get_running_loop().create_task(self._guarded(work, lane, before))
        self._lanes[lane].add_done_callback(lambda _: self._answered(asks))

    def _answered(self, asks: bool) -> None:
        """Note that a lane is done with what it was asked; a socket that is to leave may then be closed."""
        self._asked -= asks
        self._close_if_left()

    async def _guarded(self, work: Coroutine[Any, Any, None], lane: str | None, before: asyncio.Task[None] | None) -> None:
        """Do a lane's work once what came before is settled; what goes wrong becomes an error event of that lane."""
        try:
            if before:
                await asyncio.wait({before})
            await work
        except HeadraceError as error:
            await self._refuse(error, lane)
        except AWAY as error:
            if not (told := away(error)):
                raise
            await self._refuse(told, lane)
        except (WebSocketDisconnect, RuntimeError):
            if self._socket.client_state is WebSocketState.CONNECTED:
                raise
        finally:
            work.close()  # it has not begun where the socket ended before

    async def _create(self, frame: Frame, text: str) -> None:
        body, caller = _request(text), await self._proof.again()
        wish = frame.headrace.get("on_disconnect")
        if body.background:
            raise Unsupported("background goes with POST /v1/responses", param="background")
        asked = await ask(self._parts, caller, body, outliving(wish, "headrace.on_disconnect"), self._memory)
        (turn,) = await reusing(self._parts, [asked.turn], self._socket.headers)
        asked = replace(asked, turn=turn)
        if not frame.generate:
            await self._prewarm(asked, frame.stream_id)
        elif asked.outlives:
            await enqueue(self._parts, asked)
            await self._follow(caller, asked.turn.id, asked.events(), -1, frame.stream_id)
        else:
            await self._answer(asked, frame.stream_id)

    async def _prewarm(self, asked: Asked, lane: str | None) -> None:
        """Do early what the answer will need, and keep the input as a response without output."""
        events = ResponseEvents(asked.plan.snapshot, speaks=False)
        await self._send(events.start(), lane)
        last = events.feed(await prewarm(self._parts, asked))
        self._note(lane, events)
        await self._send(last, lane)
        self._memory.keep(asked, events)

    async def _answer(self, asked: Asked, lane: str | None) -> None:
        """Answer while the socket is open."""
        events = asked.events()
        async with answering(self._parts, asked.turn, keeper(self._parts, asked)) as answer:
            ready = events.start()
            with nudging(answer.follower, self._limits.keep_alive_s):
                while not events.ended:
                    ready += events.feed(await answer.follower.read())
                    self._note(lane, events)
                    await self._send(ready, lane)
                    ready = []
        self._memory.keep(asked, events)

    async def _attach(self, frame: Frame) -> None:
        """Follow a response that outlives its connection."""
        if not frame.response_id:
            raise InvalidRequest("response_id is required", param="response_id", code="missing_required_parameter")
        caller = await self._proof.again()
        stored = await self._parts.store.of(caller).responses.get(frame.response_id)
        after = -1 if frame.starting_after is None else frame.starting_after
        STREAM_RESUMES.add()
        await self._follow(caller, frame.response_id, encoder(stored), after, frame.stream_id)

    async def _follow(self, caller: Principal, response_id: str, events: ResponseEvents, after: int, lane: str | None) -> None:
        async with attached(self._parts, caller, response_id) as follower:
            ready = events.start()
            async for log in deltas(self._parts, caller, response_id, follower):
                ready += events.feed(log)
                self._note(lane, events)
                await self._send([event for event in ready if event.number > after], lane)
                ready = []

    def _note(self, lane: str | None, events: ResponseEvents) -> None:
        """Note that a lane is told its last event next, where that is so: its client may go on at once."""
        if events.ended:
            self._over.add(lane)

    async def _send(self, events: list[Event], lane: str | None) -> None:
        """Send events."""
        await self._say([event.frame(lane) for event in events])

    async def _refuse(self, error: HeadraceError, lane: str | None = None) -> None:
        """Tell what is wrong; the socket stays open."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._say([error_event(error, lane)])

    async def _say(self, frames: list[bytes]) -> None:
        """Send frames; a client that does not take them in time is cut."""
        try:
            async with asyncio.timeout(self._limits.send_timeout_s), self._sending:
                for frame in frames:
                    await self._socket.send_text(frame.decode())
        except TimeoutError:
            await self._close(1008)

    async def _close(self, code: int) -> None:
        SOCKET_CLOSES.add(str(code))
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            await self._socket.close(code)

    async def _end(self) -> None:
        """End what runs in the foreground; what outlives its connection goes on elsewhere."""
        tasks = [task for task in self._lanes.values() if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_WAITED_S)


def _size(message: Mapping[str, Any]) -> int:
    """The length of a frame in bytes; of a text that is too long anyway, in characters."""
    text, data = message.get("text"), message.get("bytes") or b""
    return len(data) if text is None else len(text) if len(text) > MAX_MESSAGE_BYTES else len(text.encode())


def _request(text: str) -> ResponseRequest:
    """The request of a `response.create` frame; raises InvalidRequest naming what is wrong."""
    try:
        return ResponseRequest.model_validate(parse(text))
    except json.JSONDecodeError as error:
        raise InvalidRequest(error.msg, code="invalid_json") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise envelope.invalid(first["type"], first["loc"], first["msg"]) from None
