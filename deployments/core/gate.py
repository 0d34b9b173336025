"""Admission: a lease for every piece of work, granted in one atomic step by Valkey (`admission.lua`), kept by signs of life.

A lease reserves tokens in front, is topped up while an answer is written, and gives back what was not used. Where the backends are
busy it waits for its turn in a queue that all processes share. Nothing is admitted while Valkey is away: callers wait, then get 503.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from deployments.core import config
from deployments.core.errors import HeadraceError, Overloaded
from deployments.core.ids import new_id
from deployments.core.images import IMAGE_TOKENS
from deployments.core.lease import BACKGROUND, FLEXIBLE, INTERACTIVE, Answer, Lease, Want, refusal
from deployments.core.limits import Policy
from deployments.core.models import Rates
from deployments.core.telemetry import ADMISSIONS
from deployments.core.tokenizer import Vocabulary
from deployments.core.types import Principal, Turn
from deployments.core.usage import Books
from deployments.core.window import Window

_logger = logging.getLogger("headrace.gate")

_PARTS = ("rates.lua", "shares.lua", "admission.lua")

LIBRARY = "#!lua name=headrace\n" + "".join((Path(__file__).parent / part).read_text() for part in _PARTS)
"""The functions, as Valkey loads them."""

RETRY_S = 0.05
"""Pause before Valkey is asked again."""

_TICK_S = 0.1
"""Pause between two looks at what the leases of this process have used."""

_MISSING = "unction not found"

_REMEMBERED = 1000
"""Requests whose admission is remembered, at most, for how long it took."""

_LATELY_S = 10
"""How far back these are looked at."""

_LINES = 32
"""Calls under way at once, each on a connection of its own; one takes a tenth of a millisecond of Valkey."""

_SIGNS_PER_LEASE = 4
"""Signs of life within the life of a lease; three may be lost."""

_encode = msgspec.msgpack.Encoder().encode
_answer = msgspec.msgpack.Decoder(Answer).decode
_signs = msgspec.msgpack.Decoder(list[tuple[str, float, int]]).decode
_known = msgspec.msgpack.Decoder(list[bool]).decode
_Lost = msgspec.msgpack.Decoder(tuple[str, str, str, int, int]).decode


class Load(msgspec.Struct, frozen=True, array_like=True):
    """What runs and waits in all processes: counts, the limit in force, how long a slot is held, and who got how much.

    `shares` are tenant, weighted tokens of the last minute, and leases.
    """

    running: int
    waiting: int
    limit: float
    hold_ms: float
    shares: list[tuple[str, float, int]]

    @property
    def jain(self) -> float:
        """Jain's index over the shares: 1 where all got the same, 1/n where one got everything."""
        work = [share for _, share, _ in self.shares if share > 0]
        return sum(work) ** 2 / (len(work) * sum(share * share for share in work)) if work else 1.0


class Gate:
    """The leases of one process."""

    def __init__(self, valkey: Redis, settings: config.Settings, policies: Callable[[Principal], Awaitable[Policy]], books: Books):
        self._valkey = valkey
        self._settings = settings.admission
        self._generator = settings.generator
        self._pool = settings.pool
        self._policies = policies
        self._books = books
        self._stall_s = settings.log.stall_s
        self.vocabulary = Vocabulary(settings.vocabulary)
        self._channel = f"hr:grants:{uuid.uuid4().hex}"
        self._lines = asyncio.Semaphore(_LINES)
        self._leases: dict[str, Lease] = {}
        self._ended: list[Lease] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()
        self._took = Window(_LATELY_S, _REMEMBERED)

    @property
    def admit_ms(self) -> float:
        """What admission took of this process's requests of the last seconds, in the middle of them; 0 where there were none."""
        return 1000 * self._took.quantile(0.5, time.perf_counter())

    def start(self) -> None:
        """Begin to listen for grants and to give signs of life."""
        loop = asyncio.get_running_loop()
        beside = (self._listen(), self._tick(), self._books.run(), self.vocabulary.warm())
        self._tasks = [loop.create_task(one) for one in beside]

    async def close(self) -> None:
        """Settle what has ended, and stop."""
        with contextlib.suppress(RedisError, OSError, HeadraceError):
            await self._settle()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._books.flush()

    @contextlib.asynccontextmanager
    async def admit(self, principal: Principal, want: Want) -> AsyncGenerator[Lease]:
        """A lease for some work; leaving the context settles it.

        Raises RateLimited for the caller's own limits, InvalidRequest for what could never pass, Overloaded for our load.
        """
        lease = Lease(new_id("lease_"), principal, want, await self._policies(principal), asyncio.get_running_loop())
        try:
            lease.take(await self._ask(lease))
            self._leases[lease.id] = lease
            yield lease
        finally:
            self._leases.pop(lease.id, None)
            self._ended.append(lease)
            self._wake.set()

    async def want(self, turn: Turn, service: str = INTERACTIVE, requests: int = 1, slot: bool = True) -> Want:
        """What answering a turn takes, as far as it is known before."""
        prompt = await self.vocabulary.count(turn.messages, turn.toolbox) + (self._generator.context_tokens if turn.store_id else 0)
        prompt += IMAGE_TOKENS * sum(len(message.images) for message in turn.messages)
        usual = self._generator.default_max_tokens
        longest_s = self._settings.background_wait_s if service == BACKGROUND else min(self._settings.wait_s, turn.deadline_s)
        most = turn.sampling.max_tokens or usual
        handling = turn.handling
        if service == INTERACTIVE and handling.service == "flex":
            service = FLEXIBLE
        rates = Rates(requests_per_minute=handling.requests_per_minute, tokens_per_minute=handling.tokens_per_minute)
        return Want(turn.model, prompt, most, usual, longest_s, turn.conversation_id or "", service, requests, slot, rates)

    async def look(self) -> Load:
        """What runs and waits, everywhere; raises Overloaded where Valkey is away."""
        return msgspec.msgpack.decode(await self._call("hr_look", within_s=0), type=Load)

    async def _ask(self, lease: Lease) -> Answer:
        """What the functions say to a lease; raises what refuses it."""
        within_s, started = min(self._stall_s, lease.want.patience_s), time.perf_counter()
        while True:
            try:
                answer = _answer(await self._call("hr_admit", _encode(self._request(lease)), within_s=within_s))
            except Overloaded as error:
                ADMISSIONS.add(error.wire_code)
                raise
            if answer.state != "cold":
                break
            used = await self._books.used(lease.principal)
            await self._call("hr_warm", lease.principal.tenant, *used, within_s=within_s)
        ended = time.perf_counter()
        self._took.feed(ended, ended - started)
        if error := refusal(answer, lease):
            ADMISSIONS.add(error.wire_code)
            raise error
        ADMISSIONS.add("waits" if answer.state == "wait" else "admitted")
        return answer

    def _request(self, lease: Lease) -> dict[str, Any]:
        settings = self._settings
        return lease.request() | {
            "channel": self._channel,
            "w_in": settings.input_weight,
            "w_out": settings.output_weight,
            "block": settings.top_up_tokens,
            "most_waiting": settings.max_waiting,
            "most_waiting_each": settings.max_waiting_each,
            "rates": lease.rates(settings.models.get(lease.want.model, lease.want.rates)),
            "pool": {
                "low": self._pool.low,
                "high": self._pool.high,
                "lease": settings.lease_s * 1000,
                "ageing": settings.ageing_s * 1000,
            },
        }

    async def _call(self, name: str, *arguments: Any, within_s: float) -> bytes:
        """What a function answers; waits so long for a Valkey that is away. Raises Overloaded."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while True:
            try:
                async with self._lines:
                    return cast(bytes, await self._valkey.execute_command("FCALL", name, 0, *arguments))
            except (RedisError, OSError) as error:
                if isinstance(error, ResponseError) and not _unwell(error):
                    raise
                if _MISSING in str(error):
                    await self._load()
                if loop.time() > until:
                    raise Overloaded("admission is not available", retry_after_s=1) from error
            await asyncio.sleep(RETRY_S)

    async def _load(self) -> None:
        """Load the functions; where we may not, whoever runs Valkey does."""
        with contextlib.suppress(RedisError, OSError):
            await self._valkey.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)

    async def _listen(self) -> None:
        """Hear which leases have got their turn; what is missed here, the next sign of life brings."""
        while True:
            try:
                async with self._valkey.pubsub() as pubsub:
                    await pubsub.subscribe(self._channel)
                    async for message in pubsub.listen():
                        if message["type"] == "message" and (lease := self._leases.get(message["data"].decode())):
                            lease.run()
            except (RedisError, OSError) as error:
                _logger.warning("grants are not heard: %s", error)
            await asyncio.sleep(RETRY_S)

    async def _tick(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._settle()
                await self._meter()
            except (RedisError, OSError, HeadraceError) as error:
                _logger.warning("leases can not be kept: %s", error)
            except Exception:
                _logger.exception("leases can not be kept")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._wake.wait()

    async def _meter(self) -> None:
        """Report what the leases have used, where something is due."""
        now = asyncio.get_running_loop().time()
        due = [lease for lease in self._leases.values() if lease.due(now, self._settings.lease_s / _SIGNS_PER_LEASE)]
        if not due:
            return
        signs = [lease.sign(now) for lease in due]
        answers = _signs(await self._call("hr_meter", _encode(signs), within_s=0))
        for lease, (state, charged, place) in zip(due, answers, strict=True):
            if state != "gone":
                lease.told(state, charged, place)
        if any(state == "gone" for state, *_ in answers):
            await self._return()
        await self._mourn()

    async def _return(self) -> None:
        """Bring back the leases that Valkey has lost, those that wait behind those that run; the ones it still knows stay as they are."""
        for lease in sorted(self._leases.values(), key=lambda lease: not lease.running):
            lease.take(_answer(await self._call("hr_admit", _encode(self._request(lease) | lease.again()), within_s=0)))

    async def _settle(self) -> None:
        """End the leases whose work has ended; those that the functions do not know any more are charged all the same."""
        leases, self._ended = self._ended, []
        if not leases:
            return
        try:
            ended = [await lease.settled(self.vocabulary) for lease in leases]
            known = _known(await self._call("hr_settle", _encode([one.row for one in ended]), within_s=0))
            missing = [one for one, there in zip(ended, known, strict=True) if not there and one.served]
            for one in missing:
                await self._call("hr_admit", _encode(self._request(one.lease) | one.lease.again(one)), within_s=0)
                await self._call("hr_settle", _encode([one.row]), within_s=0)
        except BaseException:
            self._ended = leases + self._ended
            raise
        for one, there in zip(ended, known, strict=True):
            if one.lease.admitted or there:  # one whose caller left while it was let in has been counted as well
                self._books.note(one.lease.principal, one.lease.want.model, one.lease.want.requests, one.prompt, one.served)

    async def _mourn(self) -> None:
        """Write into the books what the leases of dead processes had used."""
        for packed in cast(list[bytes], await self._valkey.lpop("hr:adm:lost", 16) or []):
            tenant, key, model, prompt, served = _Lost(packed)
            self._books.note(Principal(tenant, key, frozenset()), model, 1, prompt, served)


def _unwell(error: ResponseError) -> bool:
    """Whether a Valkey can't work now, which is as if it were away; any other error it answers with is a fault of ours."""
    known = isinstance(error, OutOfMemoryError | ReadOnlyError)
    return known or any(word in str(error) for word in (_MISSING, "OOM", "MISCONF", "READONLY", "BUSY"))
