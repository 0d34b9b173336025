"""The reading side of the response log: one subscription a process, any number of followers a response."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from typing import Any, Protocol

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from deployments.core import config
from deployments.core.errors import HeadraceError, Overloaded, StreamInterrupted
from deployments.core.log import Batch, read, shared_channel
from deployments.core.outbox import RETRY_S
from deployments.core.telemetry import REPLAYED
from deployments.core.types import Called, Delta, LogRef, Searched, Text

_logger = logging.getLogger("headrace.follow")
_decode = msgspec.msgpack.Decoder(list[Batch]).decode

STOP_CHANNEL = "hr:stop"
"""Where a replica says that a response shall not go on: nobody follows it any more, or its owner has cancelled it."""


async def receive(valkey: Redis, channel: str, subscribed: asyncio.Event, handle: Callable[[bytes], None]) -> None:
    """Hand every message of one channel to `handle`; ends only by the error of a lost connection."""
    async with valkey.pubsub() as pubsub:
        await pubsub.subscribe(channel)
        async for message in pubsub.listen():
            if message["type"] == "subscribe":
                subscribed.set()
            elif message["type"] == "message":
                handle(message["data"])


class Ordered:
    """Deltas in, each once and in order out; sans-I/O."""

    def __init__(self) -> None:
        self.next_seq = 0
        self.epoch = 0
        self._early: dict[int, Delta] = {}

    def take(self, epoch: int, deltas: list[Delta]) -> list[Delta]:
        """What can be read now; deltas of a writer that has been fenced off are dropped, with all of its that had come early."""
        if epoch < self.epoch:
            return []
        if epoch > self.epoch:
            self.epoch = epoch
            self._early.clear()
        for delta in deltas:
            if delta.seq >= self.next_seq:
                self._early[delta.seq] = delta
        ready: list[Delta] = []
        while delta := self._early.pop(self.next_seq, None):
            self.next_seq += 1
            ready.append(delta)
        return ready


class Listens(Protocol):
    """What a hub hands deltas to."""

    def deliver(self, epoch: int, deltas: list[Delta]) -> None:
        """Take deltas as they arrive, perhaps twice or out of order."""
        ...


class Tape:
    """Keeps all of one response, for who runs it."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.tokens = 0
        """Tokens that the backend has written, as far as they can be counted while it writes."""
        self.first_at = 0.0
        """When the first of them came, by the loop's clock."""
        self._order = Ordered()
        self._grown = asyncio.Event()

    def deliver(self, epoch: int, deltas: list[Delta]) -> None:
        """Take deltas as they arrive."""
        fresh = self._order.take(epoch, deltas)
        self.deltas += fresh
        self.tokens += sum(delta.tokens if isinstance(delta, Text) else isinstance(delta, Called) for delta in fresh)
        if self.tokens and not self.first_at:
            self.first_at = asyncio.get_running_loop().time()
        self._grown.set()

    @property
    def last(self) -> Delta | None:
        """The newest delta."""
        return self.deltas[-1] if self.deltas else None

    def recall(self, deltas: Sequence[Delta]) -> None:
        """Take deltas from the record, which is the truth."""
        self.deliver(self._order.epoch, list(deltas))

    async def until(self, count: int, within_s: float) -> bool:
        """Wait for that many deltas; False where they do not come in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while len(self.deltas) < count:
                    self._grown.clear()
                    await self._grown.wait()
        return len(self.deltas) >= count


class Follower:
    """Reads one response in order; deltas may arrive twice or out of order, they are read once and in order."""

    def __init__(self, max_lag_bytes: int):
        self._order = Ordered()
        self._max_lag_bytes = max_lag_bytes
        self._lag_bytes = 0
        self._ready: list[Delta] = []
        self._broken: HeadraceError | None = None
        self._arrival: asyncio.Future[None] | None = None
        self.handed: Callable[[list[Delta]], None] = _nobody
        """Is told what was read once that has been passed on: who comes for more has done so."""
        self._read: list[Delta] = []

    @property
    def next_seq(self) -> int:
        """The number of the next delta that is expected."""
        return self._order.next_seq

    def recall(self, deltas: list[Delta]) -> None:
        """Take deltas from the record, which is the truth; they are no lag, however many they are."""
        self._ready += self._order.take(self._order.epoch, deltas)
        self._wake()

    def deliver(self, epoch: int, deltas: list[Delta]) -> None:
        """Take deltas as they arrive."""
        for delta in self._order.take(epoch, deltas):
            self._ready.append(delta)
            self._lag_bytes += _size(delta)
        if self._lag_bytes > self._max_lag_bytes:
            self._broken = StreamInterrupted("the client reads too slowly", code="client_too_slow")
            self._ready.clear()
        self._wake()

    @property
    def broken(self) -> HeadraceError | None:
        """What every read raises from now on."""
        return self._broken

    def settle(self) -> None:
        """Count what was read as passed on."""
        if self._read:
            self.handed(self._read)
            self._read = []

    async def read(self) -> list[Delta]:
        """The next deltas; [] where `nudge` came first. Raises StreamInterrupted when the reader has fallen too far behind."""
        self.settle()
        if not self._ready and not self._broken:
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        if self._broken:
            raise self._broken
        ready, self._ready, self._lag_bytes = self._ready, [], 0
        self._read = ready
        return ready

    def fail(self, error: HeadraceError) -> None:
        """Make every read raise, because nothing will follow."""
        self._broken = error
        self._wake()

    def nudge(self) -> None:
        """Make a read that waits return nothing."""
        if self._arrival and not self._arrival.done():
            self._arrival.set_result(None)

    def _wake(self) -> None:
        if self._ready or self._broken:
            self.nudge()


def _nobody(deltas: list[Delta]) -> None:
    """Tell nobody."""


def _size(delta: Delta) -> int:
    """What a delta weighs for a reader who lags, in bytes, roughly."""
    match delta:
        case Text(text=text):
            return len(text)
        case Called(arguments=arguments):
            return 64 + len(arguments)
        case Searched(hits=hits):
            return 64 + sum(len(hit.text) for hit in hits)
        case _:
            return 64


class Hub:
    """The followers of one process, fed by one subscription that comes back by itself."""

    def __init__(self, valkey: Redis, settings: config.Log):
        self.channel = f"hr:push:{uuid.uuid4().hex}"
        self._valkey = valkey
        self._settings = settings
        self._listeners: dict[str, list[Listens]] = defaultdict(list)
        self._shared: dict[str, _Shared] = {}
        self._pubsub: PubSub | None = None
        self._subscribed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._errands: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to listen, in a task of its own."""
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def close(self) -> None:
        """End the task."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def followed(self) -> int:
        """Answers that somebody follows in this process."""
        return len(self._listeners) + sum(len(shared.followers) for shared in self._shared.values())

    async def ready(self, within_s: float) -> None:
        """Return once the subscription stands; raises Overloaded where it does not within that time."""
        if not self._subscribed.is_set():
            await _patient(self._subscribed, within_s)

    async def recorded(self, ref: LogRef) -> list[Delta]:
        """What the record of a log holds; raises Overloaded where Valkey is away."""
        try:
            return await read(self._valkey, ref)
        except (RedisError, OSError) as error:
            raise Overloaded("the response log is not available", retry_after_s=1) from error

    async def _recorded(self, ref: LogRef, until: float) -> list[Delta]:
        """The same, once Valkey is back, if it is by then."""
        while True:
            try:
                return await self.recorded(ref)
            except Overloaded:
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(RETRY_S)

    @contextlib.contextmanager
    def follow(self, response_id: str) -> Generator[Follower]:
        """A follower of a response that is pushed to this process, from the first delta on, for as long as the context lasts."""
        follower = Follower(self._settings.max_lag_bytes)
        with self._listening(response_id, follower):
            yield follower

    @contextlib.contextmanager
    def tape(self, response_id: str) -> Generator[Tape]:
        """A tape of a response that is pushed to this process."""
        tape = Tape()
        with self._listening(response_id, tape):
            yield tape

    @contextlib.asynccontextmanager
    async def attach(self, ref: LogRef, within_s: float) -> AsyncGenerator[Follower]:
        """A follower of a shared log, wherever it is written: first what is recorded, then what comes.

        Raises Overloaded where Valkey does not answer within that time.
        """
        channel, follower = shared_channel(ref), Follower(self._settings.max_lag_bytes)
        shared = self._shared.get(channel)
        if shared is None:
            shared = self._shared[channel] = _Shared(ref)
            await self._subscribe(channel)
        shared.followers.append(follower)
        try:
            until = time.monotonic() + within_s
            await _patient(shared.subscribed, within_s)
            recorded = await self._recorded(ref, until)
            REPLAYED.add(by=len(recorded))
            follower.recall(recorded)
            yield follower
        finally:
            shared.followers.remove(follower)
            if not shared.followers:
                del self._shared[channel]
                self._run(self._unsubscribe(channel))

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to its followers; where nobody follows, ask the writer to stop."""
        response_id, epoch, deltas = batch
        if listeners := self._listeners.get(response_id):
            for listener in listeners:
                listener.deliver(epoch, deltas)
        elif self._subscribed.is_set():
            self._run(self.stop(response_id))

    async def stop(self, response_id: str) -> None:
        """Ask whoever writes a response to stop; nothing happens where Valkey is away."""
        with contextlib.suppress(RedisError, OSError):
            await self._valkey.publish(STOP_CHANNEL, response_id)

    @contextlib.contextmanager
    def _listening(self, response_id: str, listener: Listens) -> Generator[None]:
        self._listeners[response_id].append(listener)
        try:
            yield
        finally:
            self._listeners[response_id].remove(listener)
            if not self._listeners[response_id]:
                del self._listeners[response_id]

    def _run(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._valkey.pubsub() as self._pubsub:
                    await self._pubsub.subscribe(self.channel, *self._shared)
                    async for message in self._pubsub.listen():
                        self._hear(message["type"], message["channel"].decode(), message["data"])
            except (RedisError, OSError) as error:
                _logger.warning("subscription lost: %s", error)
            self._pubsub = None
            self._subscribed.clear()
            for shared in self._shared.values():
                shared.subscribed.clear()
            await asyncio.sleep(RETRY_S)

    def _hear(self, kind: str, channel: str, data: Any) -> None:
        shared = self._shared.get(channel)
        if kind == "message":
            for batch in _decode(data):
                if channel == self.channel:
                    self.deliver(batch)
                elif shared:
                    shared.deliver(batch)
        elif kind == "subscribe" and channel == self.channel:
            self._subscribed.set()
        elif kind == "subscribe" and shared:
            shared.subscribed.set()
            self._run(self._catch_up(shared))

    async def _catch_up(self, shared: "_Shared") -> None:
        """Read what was published while the subscription did not stand."""
        with contextlib.suppress(RedisError, OSError):
            deltas = await read(self._valkey, shared.ref)
            for follower in shared.followers:
                follower.recall(deltas)

    async def _subscribe(self, channel: str) -> None:
        if self._pubsub:  # without one, the next subscription takes the channel with it
            with contextlib.suppress(RedisError, OSError):
                await self._pubsub.subscribe(channel)

    async def _unsubscribe(self, channel: str) -> None:
        if self._pubsub and channel not in self._shared:
            with contextlib.suppress(RedisError, OSError):
                await self._pubsub.unsubscribe(channel)


class _Shared:
    """A shared log that some in this process follow."""

    def __init__(self, ref: LogRef):
        self.ref = ref
        self.followers: list[Follower] = []
        self.subscribed = asyncio.Event()

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to all of them."""
        for follower in self.followers:
            follower.deliver(batch[1], batch[2])


async def _patient(event: asyncio.Event, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        raise Overloaded("the response log is not available", retry_after_s=1) from None
