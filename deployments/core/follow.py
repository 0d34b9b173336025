"""The reading side of the response log: one subscription a process, one follower a response."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Generator

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from deployments.core import config
from deployments.core.errors import HeadraceError, Overloaded, StreamInterrupted
from deployments.core.log import RETRY_S, Batch
from deployments.core.types import Delta, Text

_logger = logging.getLogger("headrace.follow")
_decode = msgspec.msgpack.Decoder(list[Batch]).decode

STOP_CHANNEL = "hr:stop"
"""Where a replica says that it gets deltas of a response nobody follows any more."""


async def receive(valkey: Redis, channel: str, subscribed: asyncio.Event, handle: Callable[[bytes], None]) -> None:
    """Hand every message of one channel to `handle`; ends only by the error of a lost connection."""
    async with valkey.pubsub() as pubsub:
        await pubsub.subscribe(channel)
        async for message in pubsub.listen():
            if message["type"] == "subscribe":
                subscribed.set()
            elif message["type"] == "message":
                handle(message["data"])


class Follower:
    """Reads one response in order; deltas may arrive twice or out of order, they are read once and in order."""

    def __init__(self, max_lag_bytes: int):
        self.next_seq = 0
        self.epoch = 0
        self._max_lag_bytes = max_lag_bytes
        self._lag_bytes = 0
        self._ready: list[Delta] = []
        self._early: dict[int, Delta] = {}
        self._broken: HeadraceError | None = None
        self._arrival: asyncio.Future[None] | None = None

    def deliver(self, epoch: int, deltas: list[Delta]) -> None:
        """Take deltas as they arrive; those of a writer that has been fenced off are dropped."""
        if epoch < self.epoch:
            return
        self.epoch = epoch
        for delta in deltas:
            if delta.seq >= self.next_seq:
                self._early[delta.seq] = delta
        while delta := self._early.pop(self.next_seq, None):
            self.next_seq += 1
            self._ready.append(delta)
            self._lag_bytes += len(delta.text) if isinstance(delta, Text) else 64
        if self._lag_bytes > self._max_lag_bytes:
            self._broken = StreamInterrupted("the client reads too slowly", code="client_too_slow")
            self._ready.clear()
        if self._arrival and not self._arrival.done() and (self._ready or self._broken):
            self._arrival.set_result(None)

    async def read(self) -> list[Delta]:
        """The next deltas; [] where `nudge` came first. Raises StreamInterrupted when the reader has fallen too far behind."""
        if not self._ready and not self._broken:
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        if self._broken:
            raise self._broken
        ready, self._ready, self._lag_bytes = self._ready, [], 0
        return ready

    def nudge(self) -> None:
        """Make a read that waits return nothing."""
        if self._arrival and not self._arrival.done():
            self._arrival.set_result(None)


class Hub:
    """The followers of one process, fed by one subscription that comes back by itself."""

    def __init__(self, valkey: Redis, settings: config.Log):
        self.channel = f"hr:push:{uuid.uuid4().hex}"
        self._valkey = valkey
        self._settings = settings
        self._followers: dict[str, Follower] = {}
        self._subscribed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stops: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to listen, in a task of its own."""
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def close(self) -> None:
        """End the task."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def ready(self, within_s: float) -> None:
        """Return once the subscription stands; raises Overloaded where it does not within that time."""
        if self._subscribed.is_set():
            return
        try:
            async with asyncio.timeout(within_s):
                await self._subscribed.wait()
        except TimeoutError:
            raise Overloaded("the response log is not available", retry_after_s=1) from None

    @contextlib.contextmanager
    def follow(self, response_id: str) -> Generator[Follower]:
        """A follower from the first delta on, for as long as the context lasts."""
        follower = self._followers[response_id] = Follower(self._settings.max_lag_bytes)
        try:
            yield follower
        finally:
            del self._followers[response_id]

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to its follower; where nobody follows, ask the writer to stop."""
        response_id, epoch, deltas = batch
        if follower := self._followers.get(response_id):
            follower.deliver(epoch, deltas)
        elif self._subscribed.is_set():
            stop = asyncio.get_running_loop().create_task(self._stop(response_id))
            self._stops.add(stop)
            stop.add_done_callback(self._stops.discard)

    async def _stop(self, response_id: str) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._valkey.publish(STOP_CHANNEL, response_id)

    async def _listen(self) -> None:
        while True:
            try:
                await receive(self._valkey, self.channel, self._subscribed, self._push)
            except (RedisError, OSError) as error:
                _logger.warning("subscription lost: %s", error)
            self._subscribed.clear()
            await asyncio.sleep(RETRY_S)

    def _push(self, message: bytes) -> None:
        for batch in _decode(message):
            self.deliver(batch)
