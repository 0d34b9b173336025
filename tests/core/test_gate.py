"""Leases over a real Valkey and a real database: turns, limits, quotas, processes that die, a Valkey that goes away."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from deployments.core.config import Admission, Generator, Log, Settings
from deployments.core.errors import HeadraceError, InvalidRequest, Overloaded, RateLimited
from deployments.core.gate import Gate
from deployments.core.handling import Handling
from deployments.core.images import IMAGE_TOKENS, Image
from deployments.core.lease import BACKGROUND, FLEXIBLE, INTERACTIVE, Lease, Want
from deployments.core.limits import Limits, Policy
from deployments.core.models import Rates
from deployments.core.store import Store
from deployments.core.types import Message, Principal, Sampling, Turn, Usage
from deployments.core.usage import Books
from deployments.core.valkey import connect
from deployments.core.vault import Vault
from tests.conftest import Server
from tests.fakes import ROOT, Clock, database, tenant, until

WANT = Want("m", prompt=10, most_output=100, typical=100, patience_s=5)


@dataclass
class Tape:
    """A tape that says what it is told."""

    tokens: int = 0
    first_at: float = 0.0
    last: object = None


@dataclass
class Hall:
    """Gates of several processes over one Valkey, with policies that can be changed."""

    store: Store
    open: Callable[[], "Gate"]
    principal: Principal
    policy: dict[str, Policy] = field(default_factory=dict)


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Each server with one engine: what they keep has nothing to do with each other."""
    if request.node.callspec.params["valkey_server"] == "valkey":
        async with database(tmp_path, Clock()) as store:
            yield store
        return
    store = Store(request.getfixturevalue("postgres").database(), Vault(ROOT), Clock())
    yield store
    await store.close()


@pytest.fixture
async def hall(valkey: Redis, valkey_server: Server, store: Store) -> AsyncIterator[Hall]:
    settings = Settings(
        admission=Admission(max_running=2, max_waiting=4, max_waiting_each=3, lease_s=1, wait_s=5),
        generator=Generator(base_url="http://127.0.0.1:1"),
        log=Log(stall_s=1),
    )
    gates: list[Gate] = []
    clients: list[Redis] = []

    def open_gate() -> Gate:
        clients.append(connect(valkey_server.url))
        gate = Gate(clients[-1], settings, policy, Books(store))
        gate.start()
        gates.append(gate)
        return gate

    async def policy(principal: Principal) -> Policy:
        return hall.policy.get(principal.tenant, Policy())

    hall = Hall(store, open_gate, await tenant(store, "acme"))
    yield hall
    for gate in gates:
        await gate.close()
    for client in clients:
        await client.aclose()


@asynccontextmanager
async def holding(gate: Gate, principal: Principal, want: Want = WANT) -> AsyncIterator[Lease]:
    async with gate.admit(principal, want) as lease, lease:
        yield lease


async def has_settled(gate: Gate) -> None:
    await until(lambda: not gate._ended and not gate._leases)
    await asyncio.sleep(0.05)
    await gate._books.flush()


async def test_who_waits_gets_the_turn_of_who_ends_in_whatever_process(hall: Hall) -> None:
    first, second = hall.open(), hall.open()
    order: list[str] = []

    async def work(gate: Gate, name: str) -> None:
        async with holding(gate, hall.principal):
            order.append(name)
            await asyncio.sleep(0.1)

    async with holding(first, hall.principal), holding(second, hall.principal):
        waiting = [asyncio.create_task(work(gate, name)) for gate, name in ((first, "a"), (second, "b"))]
        await asyncio.sleep(0.3)
        assert order == []
        assert (await first.look()).waiting == 2
    await asyncio.wait_for(asyncio.gather(*waiting), 2)
    assert sorted(order) == ["a", "b"]


async def test_who_leaves_the_queue_makes_room_in_it(hall: Hall) -> None:
    gate = hall.open()

    async def work() -> None:
        async with holding(gate, hall.principal):
            pass

    async with holding(gate, hall.principal), holding(gate, hall.principal):
        waiting = [asyncio.create_task(work()) for _ in range(3)]
        await until(lambda: len(gate._leases) == 5)
        with pytest.raises(RateLimited) as error:
            async with gate.admit(hall.principal, WANT):
                pass
        assert error.value.retry_after_s
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: not gate._ended)
        async with gate.admit(hall.principal, WANT) as lease:
            assert lease.place == 0


async def test_a_queue_that_is_full_is_our_load(hall: Hall, store: Store) -> None:
    gate = hall.open()
    others = [await tenant(store, name) for name in ("b", "c")]
    async with contextlib.AsyncExitStack() as stack:
        for principal in (hall.principal, *others) * 2:
            await stack.enter_async_context(gate.admit(principal, WANT))
        with pytest.raises(Overloaded) as error:
            await stack.enter_async_context(gate.admit(hall.principal, WANT))
        assert error.value.retry_after_s


async def test_who_would_wait_longer_than_it_can_is_refused_at_once(hall: Hall) -> None:
    gate = hall.open()
    async with holding(gate, hall.principal), holding(gate, hall.principal):
        with pytest.raises(Overloaded):
            await asyncio.wait_for(gate.admit(hall.principal, replace(WANT, patience_s=0.01)).__aenter__(), 1)


async def test_a_turn_that_does_not_come_in_time_is_said_so(hall: Hall) -> None:
    gate = hall.open()
    async with holding(gate, hall.principal), holding(gate, hall.principal):
        with pytest.raises(Overloaded):
            async with holding(gate, hall.principal, replace(WANT, patience_s=0.7)):
                pass


async def test_interactive_work_goes_first(hall: Hall) -> None:
    gate = hall.open()
    order: list[str] = []

    async def work(name: str, service: str) -> None:
        async with holding(gate, hall.principal, replace(WANT, service=service)):
            order.append(name)

    async with holding(gate, hall.principal):
        async with holding(gate, hall.principal):
            later = asyncio.create_task(work("background", BACKGROUND))
            await until(lambda: len(gate._leases) == 3)
            sooner = asyncio.create_task(work("interactive", "0"))
            await until(lambda: len(gate._leases) == 4)
        await asyncio.gather(later, sooner)
    assert order == ["interactive", "background"]


async def test_a_turn_that_may_be_slow_asks_for_a_class_of_its_own_and_images_count_as_read(hall: Hall) -> None:
    gate, said = hall.open(), Message("user", "Hi")
    turn = Turn("r", hall.principal, "mine", (said,), Sampling(), 0, 5, handling=Handling(service="flex", requests_per_minute=7))
    want = await gate.want(turn)
    assert (want.service, want.rates) == (FLEXIBLE, Rates(requests_per_minute=7))
    assert (await gate.want(turn, BACKGROUND)).service == BACKGROUND
    seen = msgspec.structs.replace(turn, messages=(msgspec.structs.replace(said, images=(Image("png", b""),) * 2),), handling=Handling())
    assert ((await gate.want(seen)).service, (await gate.want(seen)).prompt) == (INTERACTIVE, want.prompt + 2 * IMAGE_TOKENS)


async def test_limits_come_with_headers_and_a_time_to_come_back(hall: Hall) -> None:
    hall.policy["acme"] = Policy(Limits(requests_per_minute=2, tokens_per_minute=1000))
    gate = hall.open()
    async with gate.admit(hall.principal, WANT) as lease:
        headers = dict(lease.headers)
        assert (headers[b"x-ratelimit-limit-requests"], headers[b"x-ratelimit-remaining-requests"]) == (b"2", b"1")
        assert (headers[b"x-ratelimit-limit-tokens"], headers[b"x-ratelimit-remaining-tokens"]) == (b"1000", b"890")
    async with gate.admit(hall.principal, WANT):
        pass
    with pytest.raises(RateLimited) as error:
        await gate.admit(hall.principal, WANT).__aenter__()
    assert dict(error.value.headers)[b"x-ratelimit-remaining-requests"] == b"0"
    assert 25 < (error.value.retry_after_s or 0) <= 30


async def test_a_request_larger_than_its_limit_is_told_to_be_smaller(hall: Hall) -> None:
    hall.policy["acme"] = Policy(Limits(tokens_per_minute=50))
    with pytest.raises(InvalidRequest):
        await hall.open().admit(hall.principal, WANT).__aenter__()


async def test_no_more_at_once_than_allowed_for_tenant_and_session(hall: Hall) -> None:
    hall.policy["acme"] = Policy(Limits(concurrent=2, concurrent_per_session=1))
    gate = hall.open()
    session = replace(WANT, session="conv_1")
    async with gate.admit(hall.principal, session):
        with pytest.raises(RateLimited, match="session"):
            await gate.admit(hall.principal, session).__aenter__()
        async with gate.admit(hall.principal, WANT):
            with pytest.raises(RateLimited, match="tenant"):
                await gate.admit(hall.principal, WANT).__aenter__()


async def test_an_answer_that_uses_its_limit_up_is_ended(hall: Hall) -> None:
    hall.policy["acme"] = Policy(Limits(tokens_per_minute=200))
    gate, tape = hall.open(), Tape()

    async def write() -> None:
        async with holding(gate, hall.principal) as lease:
            lease.tape = tape
            while True:
                tape.tokens += 10  # 164 are reserved before the block that does not fit: they are not met between two looks by chance
                await asyncio.sleep(0.02)

    with pytest.raises(RateLimited):
        await write()
    assert 180 <= tape.tokens + 10 <= 200 + 64


async def test_what_is_used_is_written_into_the_books_and_counts_against_quotas_after_valkey_lost_them(hall: Hall, valkey: Redis) -> None:
    hall.policy["acme"] = Policy(Limits(tokens_per_day=300))
    gate = hall.open()
    async with gate.admit(hall.principal, WANT) as lease:
        lease.used = Usage(50, 150)
    await has_settled(gate)
    await valkey.flushall()
    with pytest.raises(RateLimited) as error:
        await gate.admit(hall.principal, WANT).__aenter__()
    assert error.value.wire_code == "insufficient_quota"
    assert await Books(hall.store).used(hall.principal) == (1, 200, 200)


async def test_an_answer_that_breaks_off_is_charged_for_what_was_written_and_read(hall: Hall) -> None:
    gate = hall.open()
    async with gate.admit(hall.principal, WANT) as lease:
        lease.reads([Message("user", "x" * 20)])
        lease.tape = Tape(tokens=7)
    async with gate.admit(hall.principal, WANT) as lease:
        lease.tape = Tape()
    await has_settled(gate)
    requests, tokens, _ = await Books(hall.store).used(hall.principal)
    assert (requests, tokens) == (2, 7 + await gate.vocabulary.count([Message("user", "x" * 20)]))


async def test_an_answer_that_breaks_off_in_its_second_call_is_charged_for_both(hall: Hall) -> None:
    gate, told = hall.open(), [Message("user", "x" * 20)]
    async with gate.admit(hall.principal, WANT) as lease:
        lease.tape = tape = Tape(tokens=3)
        lease.spent(Usage(100, 3))
        lease.reads(told)
        tape.tokens += 40
    await has_settled(gate)
    _, tokens, _ = await Books(hall.store).used(hall.principal)
    assert tokens == 100 + await gate.vocabulary.count(told) + 43


class Deaf:
    """A client that loses the reply to the next settlement."""

    def __init__(self, client: Redis):
        self._client, self.lost = client, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        reply = await self._client.execute_command(*args, **options)
        if args[:2] == ("FCALL", "hr_settle") and not self.lost:
            self.lost += 1
            raise ConnectionError("the connection was lost")
        return reply


async def test_what_is_settled_is_charged_and_booked_once_where_the_reply_is_lost(hall: Hall, valkey: Redis) -> None:
    hall.policy["acme"] = Policy(Limits(tokens_per_day=10_000))
    gate = hall.open()
    deaf = gate._valkey = Deaf(gate._valkey)
    for used in (Usage(50, 150), Usage(5, 15)):
        async with gate.admit(hall.principal, WANT) as lease:
            lease.used = used
    await until(lambda: deaf.lost)
    await has_settled(gate)
    assert await valkey.hmget("hr:{acme}:rate", "day_tokens", "day_requests") == [b"220", b"2"]
    assert await Books(hall.store).used(hall.principal) == (2, 220, 220)


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.full)])
async def test_who_leaves_at_a_random_moment_of_admission_holds_nothing(hall: Hall, valkey: Redis, count: int) -> None:
    hall.policy["acme"] = Policy(Limits(tokens_per_day=10**9))
    gate, chance = hall.open(), random.Random(5)
    async with gate.admit(hall.principal, WANT):
        pass

    async def leave() -> None:
        with contextlib.suppress(TimeoutError, HeadraceError):
            async with asyncio.timeout(chance.random() * 0.004), gate.admit(hall.principal, WANT) as lease:
                await asyncio.sleep(0.001)
                lease.used = Usage(3, 4)

    for _ in range(count // 20):
        await asyncio.gather(*(leave() for _ in range(20)))
    await has_settled(gate)
    load = await gate.look()
    assert (load.running, load.waiting, await valkey.hgetall("hr:adm:leases")) == (0, 0, {})
    requests, tokens, _ = await Books(hall.store).used(hall.principal)
    assert await valkey.hmget("hr:{acme}:rate", "day_tokens", "day_requests") == [b"%d" % tokens, b"%d" % requests]


async def test_what_a_dead_process_held_is_given_back_and_what_it_used_is_booked(hall: Hall, valkey: Redis) -> None:
    gate, other = hall.open(), hall.open()
    admission = gate.admit(hall.principal, WANT)
    lease = await admission.__aenter__()
    lease.tape = Tape(tokens=30)
    await until(lambda: lease._reported == 30)
    for task in gate._tasks:
        task.cancel()
    gate._leases.clear()
    await asyncio.sleep(1.2)
    async with other.admit(hall.principal, WANT) as living:
        living.tape = Tape(tokens=1)
        await until(lambda: living._reported == 1)
        await asyncio.sleep(0.3)
        assert (await other.look()).running == 1
    await has_settled(other)
    assert (await Books(hall.store).used(hall.principal))[:2] == (2, 40 + 1 + await gate.vocabulary.count([]))


async def test_a_valkey_without_memory_counts_as_away(hall: Hall, valkey: Redis) -> None:
    gate = hall.open()
    await valkey.config_set("maxmemory", 1)
    try:
        with pytest.raises(Overloaded):
            await gate.admit(hall.principal, WANT).__aenter__()
    finally:
        await valkey.config_set("maxmemory", 0)
    async with gate.admit(hall.principal, WANT):
        pass


async def test_a_gate_closes_without_valkey(valkey_server: Server, hall: Hall) -> None:
    gate = hall.open()
    async with gate.admit(hall.principal, WANT):
        pass
    valkey_server.kill()
    await gate.close()
    assert all(task.done() for task in gate._tasks)
    Path(valkey_server.url.removeprefix("unix://")).unlink(missing_ok=True)
    valkey_server.start()
    await until(Path(valkey_server.url.removeprefix("unix://")).exists)
    await asyncio.sleep(0.1)  # it is there a moment before somebody listens


async def test_nothing_is_admitted_without_valkey_and_leases_are_taken_up_again(valkey_server: Server, hall: Hall, tmp_path: Path) -> None:
    gate = hall.open()
    started: list[float] = []
    loop = asyncio.get_running_loop()

    async def wait_turn() -> None:
        async with holding(gate, hall.principal, replace(WANT, patience_s=20)):
            started.append(loop.time())

    async with holding(gate, hall.principal) as one, holding(gate, hall.principal):
        waiting = asyncio.create_task(wait_turn())
        await until(lambda: len(gate._leases) == 3)
        one.tape = Tape(tokens=5)
        valkey_server.kill()
        refused_at = loop.time()
        with pytest.raises(Overloaded):
            await gate.admit(hall.principal, WANT).__aenter__()
        assert loop.time() - refused_at < 3
        valkey_server.start()
        await until(lambda: Path(valkey_server.url.removeprefix("unix://")).exists())

        async def known() -> bool:
            with contextlib.suppress(HeadraceError):
                load = await gate.look()
                return (load.running, load.waiting) == (2, 1)
            return False

        async with asyncio.timeout(5):
            while not await known():
                await asyncio.sleep(0.05)
        assert not started
    await asyncio.wait_for(waiting, 3)
    assert started
