"""The functions of admission, against a reference in plain Python and against what they promise, on both servers."""

import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from deployments.core.gate import LIBRARY
from tests.conftest import Server
from tests.core.reference import LEASE_MS, PERIOD_MS, Model

START_MS = 1_800_000_000_000.0
RATES = [("tenant:requests", 600, PERIOD_MS, "r"), ("tenant:tokens", 4000, PERIOD_MS, "t"), ("key:k:tokens", 6000, PERIOD_MS, "t")]


class Functions:
    """The functions on a real server, whose clock stands where it is put."""

    def __init__(self, client: redis.Redis):
        self._client = client
        frozen = LIBRARY.replace("redis.call('TIME')", "{0, tonumber(redis.call('GET', 'hr:test:now')) * 1000}")
        assert frozen != LIBRARY
        client.execute_command("FUNCTION", "LOAD", "REPLACE", frozen)

    def at(self, now: float) -> None:
        self._client.set("hr:test:now", repr(now))

    def call(self, name: str, argument: Any) -> Any:
        return msgspec.msgpack.decode(self._client.execute_command("FCALL", name, 0, msgspec.msgpack.encode(argument)))

    def used(self, tenant: str) -> int:
        """Tokens charged to a tenant since the beginning."""
        return int(self._client.hget(f"hr:{{{tenant}}}:rate", "day_tokens") or 0)

    def states(self) -> dict[str, str]:
        """What every lease is at."""
        held = self._client.hgetall("hr:adm:leases")
        return {name.decode(): msgspec.msgpack.decode(packed)["state"] for name, packed in held.items()}

    def begin(self, tenants: list[str], now: float = START_MS) -> None:
        self._client.flushall()
        self.at(now)
        for tenant in tenants:
            self._client.execute_command("FCALL", "hr_warm", 0, tenant, 0, 0, 0)


@pytest.fixture
def functions(valkey_server: Server) -> Iterator[Functions]:
    with redis.Redis.from_url(valkey_server.url, protocol=3, retry=Retry(ConstantBackoff(0.05), 100)) as client:
        yield Functions(client)
        client.flushall()
        client.execute_command("FUNCTION", "LOAD", "REPLACE", LIBRARY)


def ask(name: str, tenant: str = "a", **changes: Any) -> dict[str, Any]:
    return {
        "id": name,
        "tenant": tenant,
        "key": "k",
        "model": "m",
        "session": "",
        "class": "0",
        "weight": 1.0,
        "requests": 1,
        "prompt": 10,
        "most_output": 50,
        "typical": 1_000_000,
        "slot": True,
        "patience": 1e12,
        "quota": {},
        "concurrent": {"tenant": 1000},
        "channel": "hr:grants:test",
        "w_in": 1,
        "w_out": 2,
        "block": 64,
        "most_waiting": 1000,
        "most_waiting_each": 1000,
        "rates": RATES,
        "pool": {"low": 3, "high": 3, "lease": LEASE_MS, "ageing": 5000},
    } | changes


WEIGHTS = {"a": 1.0, "b": 2.0, "c": 4.0}

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.sampled_from("abc"), st.sampled_from("012"), st.integers(0, 400), st.integers(1, 900)),
        st.tuples(st.just("meter"), st.integers(0, 30), st.integers(0, 300)),
        st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 400), st.integers(0, 900)),
        st.tuples(st.just("wait"), st.integers(1, 12_000)),
    ),
    max_size=80,
)


class Both:
    """The functions and their reference, led step by step; they must agree after each."""

    def __init__(self, functions: Functions):
        self.functions, self.model = functions, Model(slots=3, ageing_ms=5000, now=START_MS)
        self.names: list[str] = []
        functions.begin(list(WEIGHTS))

    def step(self, kind: str, *words: Any) -> None:
        getattr(self, kind)(*words)
        assert self.functions.states() == {name: held.state for name, held in self.model.leases.items()}
        for tenant in WEIGHTS:
            assert self.functions.used(tenant) == self.model.used.get(tenant, 0)

    def admit(self, tenant: str, service: str, prompt: int, most: int) -> None:
        bounds = {"concurrent": {"tenant": 4}, "most_waiting": 6, "most_waiting_each": 2, "weight": WEIGHTS[tenant]}
        wanted = ask(f"{len(self.names):05}", tenant, prompt=prompt, most_output=most, **bounds, **{"class": service})
        self.names.append(wanted["id"])
        assert self.functions.call("hr_admit", wanted)[0] == self.model.admit(wanted["id"], wanted)

    def wait(self, ms: int) -> None:
        self.model.now += ms
        self.functions.at(self.model.now)

    def meter(self, number: int, more: int) -> None:
        if name := self._name(number):
            held = self.model.leases.get(name)
            served = held.served + more * (held.state == "run") if held else 0
            state, charged, _ = self.functions.call("hr_meter", [(name, served, -1)])[0]
            assert (state, charged) == self.model.meter(name, served)

    def settle(self, number: int, prompt: int, served: int) -> None:
        if name := self._name(number):
            held = self.model.leases.get(name)
            prompt, served = (prompt, max(served, held.served)) if held and held.state == "run" else (0, 0)
            assert self.functions.call("hr_settle", [(name, prompt, served, False)]) == [self.model.settle(name, prompt, served)]

    def _name(self, number: int) -> str | None:
        """One of the last names, most of which are leases."""
        return self.names[-1 - number % min(len(self.names), 12)] if self.names else None


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_it_does_what_the_reference_does(functions: Functions, steps: list[tuple[Any, ...]]) -> None:
    both = Both(functions)
    for step in steps:
        both.step(*step)


@pytest.mark.parametrize("count", [2000, pytest.param(50_000, marks=pytest.mark.full)])
def test_it_does_so_on_a_long_walk(functions: Functions, count: int) -> None:
    both, chance = Both(functions), random.Random(count)
    for _ in range(count):
        match chance.randrange(8):
            case 0 | 1 | 2:
                both.step("admit", chance.choice("abc"), chance.choice("012"), chance.randrange(300), chance.randrange(1, 300))
            case 3 | 4:
                both.step("wait", chance.randrange(3000))
                for number in range(12 if chance.random() < 0.9 else 6):
                    both.step("meter", number, 0)
            case 5 | 6:
                both.step("meter", chance.randrange(12), chance.randrange(200))
            case _:
                both.step("settle", chance.randrange(12), chance.randrange(300), chance.randrange(400))
    running, waiting, *_ = functions.call("hr_look", None)
    assert (running, waiting) == (sum(held.state == "run" for held in both.model.leases.values()), len(both.model.lines))


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.full)])
def test_what_is_charged_is_what_was_served_however_it_ends(functions: Functions, count: int) -> None:
    """Answers that end well, are cancelled, or whose process dies: nothing stays charged that was not served."""
    functions.begin(["a"])
    chance, now, served_all, live = random.Random(7), START_MS, 0, {}
    wide = [("tenant:tokens", 10**9, PERIOD_MS, "t")]
    for number in range(count):
        now += chance.random() * 20
        functions.at(now)
        name = f"{number:05}"
        prompt = chance.randrange(500)
        pool = {"low": 10_000, "high": 10_000, "lease": LEASE_MS, "ageing": 5000}
        assert functions.call("hr_admit", ask(name, rates=wide, prompt=prompt, most_output=chance.randrange(1, 500), pool=pool))[0] == "run"
        live[name] = served = chance.randrange(1, 900)
        functions.call("hr_meter", [(name, served, -1)])
        match chance.randrange(3):
            case 0:
                served_all += prompt + served + 3
                functions.call("hr_settle", [(name, prompt, served + 3, True)])
            case 1:
                functions.call("hr_settle", [(name, 0, 0, False)])
            case _:
                served_all += prompt + served  # what a dead process had reported
    functions.at(now + LEASE_MS + 1)
    while functions.call("hr_look", None)[0]:
        functions.call("hr_meter", [])
    assert functions.used("a") == served_all


def test_no_window_holds_more_than_its_limit_and_a_block_for_each_stream(functions: Functions) -> None:
    """200 answers of unknown length at once, for four minutes: a minute's limit at once, then as much a minute, no more, no less."""
    functions.begin(["a"])
    limit, block, tick_ms, streams = 12_000, 64, 250, 200
    rates = [("tenant:tokens", limit, PERIOD_MS, "t")]
    pool = {"low": 1000, "high": 1000, "lease": LEASE_MS, "ageing": 5000}
    live: dict[str, tuple[int, int]] = {}
    served_at: list[int] = []
    number = 0
    for tick in range(4 * PERIOD_MS // tick_ms):
        functions.at(START_MS + tick * tick_ms)
        while len(live) < streams:
            number += 1
            name = f"{number:06}"
            if functions.call("hr_admit", ask(name, rates=rates, prompt=5, most_output=40, pool=pool))[0] != "run":
                break
            live[name] = (0, random.Random(number).randrange(10, 400))
        signs = [(name, served + 5, -1) for name, (served, _) in live.items()]
        states = functions.call("hr_meter", signs) if signs else []
        served_at.append(sum(5 for _ in signs))
        ended = []
        for (name, served, _), (state, _, _) in zip(signs, states, strict=True):
            live[name] = (served, live[name][1])
            if state == "over" or served >= live[name][1]:
                ended.append((name, 5, served, True))
                served_at[-1] += 5
                del live[name]
        if ended:
            functions.call("hr_settle", ended)
    minute = PERIOD_MS // tick_ms
    for start in range(0, len(served_at) - minute):
        for length in (1, minute // 4, minute):
            window = sum(served_at[start : start + length])
            assert window <= limit + limit * length / minute + block * streams
    last = sum(served_at[-2 * minute :])
    assert 0.98 * 2 * limit <= last <= 2 * limit + block * streams


def test_concurrency_finds_what_a_backend_can_do_and_costs_little_of_it(functions: Functions) -> None:
    """Two minutes of far too much work for a backend of 32 slots that nobody has told us of."""
    functions.begin(["a"])
    slots, ttft_ms, hold_ms, step_ms = 32, 200, 2200, 50
    pool = {"low": 4, "high": 512, "lease": LEASE_MS, "ageing": 5000}
    line: deque[tuple[str, float]] = deque()
    busy: dict[str, tuple[float, float]] = {}
    ended, waits, number = list[float](), list[tuple[float, float]](), 0
    states: dict[str, str] = {}
    for step in range(120_000 // step_ms):
        now = START_MS + step * step_ms
        functions.at(now)
        for _ in range(5):
            number += 1
            name = f"{number:06}"
            state = functions.call("hr_admit", ask(name, rates=[], most_output=100, pool=pool, most_waiting=64, most_waiting_each=64))[0]
            if state in ("run", "wait"):
                states[name] = state
        for name, state in functions.states().items():
            if state == "run" and states.get(name) != "in":
                states[name] = "in"
                line.append((name, now))
        while line and len(busy) < slots:
            name, came = line.popleft()
            busy[name] = (came, now)
        signs = [(name, 0, -1) for name, state in states.items() if state != "in" or name not in busy]
        for name, (came, began) in busy.items():
            first = began + ttft_ms <= now < began + ttft_ms + step_ms
            signs.append((name, 1, now - came if first else -1))
            if first:
                waits.append((now, now - came))
        functions.call("hr_meter", signs)
        done = [name for name, (_, began) in busy.items() if now >= began + hold_ms]
        for name in done:
            del busy[name], states[name]
            ended.append(now)
        functions.call("hr_settle", [(name, 10, 100, True) for name in done])
    for minute in range(2):
        within = sum(START_MS + minute * 60_000 <= moment < START_MS + (minute + 1) * 60_000 for moment in ended)
        assert within >= 0.85 * 60_000 / hold_ms * slots
    late = sorted(wait for moment, wait in waits if moment > START_MS + 90_000)
    assert late[len(late) // 2] < 700
    every = sorted(wait for _, wait in waits)
    assert every[int(0.95 * len(every))] < 2000  # from the first answer on: it begins with few at once
    assert every[-1] < 4000


def test_a_request_larger_than_the_limit_can_never_pass(functions: Functions) -> None:
    functions.begin(["a"])
    assert functions.call("hr_admit", ask("1", prompt=5000))[0] == "never"


def test_a_limit_of_nothing_lets_nothing_in_and_spoils_nothing(functions: Functions) -> None:
    functions.begin(["a"])
    shut = {"rates": [("tenant:requests", 0, PERIOD_MS, "r"), ("tenant:tokens", 0, PERIOD_MS, "t")]}
    assert functions.call("hr_admit", ask("1", **shut))[0] == "never"
    assert functions.call("hr_admit", ask("2", **shut, requests=0, prompt=0, most_output=0))[0] == "run"
    assert functions.call("hr_settle", [("2", 0, 0, False)]) == [True]
    assert functions.call("hr_admit", ask("3"))[0] == "run"


def test_the_time_to_come_back_is_the_time_to_come_back(functions: Functions) -> None:
    functions.begin(["a"])
    wanted = {"rates": [("tenant:requests", 6, PERIOD_MS, "r")], "slot": False}
    for number in range(6):
        assert functions.call("hr_admit", ask(f"{number}", **wanted))[0] == "free"
    state, wait_ms, what, left, *_ = functions.call("hr_admit", ask("7", **wanted))
    assert (state, what, left[1]) == ("rate", "tenant:requests", 0)
    functions.at(START_MS + wait_ms - 1)
    assert functions.call("hr_admit", ask("8", **wanted))[0] == "rate"
    functions.at(START_MS + wait_ms)
    assert functions.call("hr_admit", ask("9", **wanted))[0] == "free"


def test_quotas_end_with_the_day_and_the_month(functions: Functions) -> None:
    last_second_of_february = 1_835_481_599_000.0  # 2028-02-29T23:59:59Z
    functions.begin(["a"], last_second_of_february)
    quota = {"quota": {"day_tokens": 100, "month_tokens": 150}, "rates": [], "slot": False, "prompt": 60, "most_output": 0}

    def use(name: str) -> list[Any]:
        answer = functions.call("hr_admit", ask(name, **quota))
        functions.call("hr_settle", [(name, 60, 0, True)])
        return answer[:3]

    assert use("1")[0] == "free"
    assert use("2") == ["quota", 1000, "day_tokens"]
    functions.at(last_second_of_february + 1000)
    assert [use(name)[0] for name in "34"] == ["free", "quota"]
    functions.at(last_second_of_february + 86_401_000)
    assert [use(name)[0] for name in "56"] == ["free", "quota"]
    functions.at(last_second_of_february + 2 * 86_400_000 + 1000)
    assert use("7") == ["quota", 29 * 86_400_000, "month_tokens"]


def test_quotas_that_are_not_known_are_asked_for(functions: Functions) -> None:
    functions.begin([])
    assert functions.call("hr_admit", ask("1", quota={"day_tokens": 100}))[0] == "cold"
    functions.begin(["a"])
    assert functions.call("hr_admit", ask("1", quota={"day_tokens": 100}))[0] == "run"


def test_asking_again_with_the_same_name_charges_once(functions: Functions) -> None:
    """The answer of the first may have been lost."""
    functions.begin(["a"])
    first, second = (functions.call("hr_admit", ask("1")) for _ in range(2))
    assert (second[0], second[5], functions.used("a")) == (first[0], first[5], 60)


def test_who_waits_and_asks_again_is_told_its_place(functions: Functions) -> None:
    """The answer of the first may have been lost, as when Valkey hung."""
    functions.begin(["a"])
    pool = ask("1")["pool"] | {"low": 1, "high": 1}
    for name in ("1", "2"):
        functions.call("hr_admit", ask(name, pool=pool))
    first, second = (functions.call("hr_admit", ask("3", pool=pool)) for _ in range(2))
    assert (first[0], first[2]) == (second[0], second[2]) == ("wait", "1")


def test_settling_again_changes_nothing(functions: Functions) -> None:
    """The reply to the first may have been lost."""
    functions.begin(["a"])
    functions.call("hr_admit", ask("1"))
    functions.call("hr_admit", ask("2"))
    for _ in range(2):
        assert functions.call("hr_settle", [("1", 10, 7, True)]) == [True]
        assert (functions.used("a"), functions.states()) == (17 + 60, {"2": "run"})


def test_what_valkey_has_lost_is_settled_once_it_is_taken_up_again(functions: Functions) -> None:
    functions.begin(["a"])
    assert functions.call("hr_settle", [("1", 10, 7, True)]) == [False]
    functions.call("hr_admit", ask("1", again=True, charged=17, reported=0, running=False, slot=False))
    for _ in range(2):
        assert functions.call("hr_settle", [("1", 10, 7, True)]) == [True]
        assert (functions.used("a"), functions.states()) == (17, {})


def test_who_left_before_being_let_in_is_not_let_in_after_that(functions: Functions) -> None:
    """A call that is given up may reach the server behind the one that settles it."""
    functions.begin(["a"])
    assert functions.call("hr_settle", [("1", 0, 0, False)]) == [False]
    assert functions.call("hr_admit", ask("1"))[0] == "left"
    assert functions.call("hr_settle", [("1", 0, 0, False)]) == [False]
    assert (functions.used("a"), functions.states()) == (0, {})


@pytest.mark.parametrize("jump_ms", [3_600_000, -3_600_000])
def test_a_clock_that_jumps_gives_no_more_than_a_window_and_stops_nobody(functions: Functions, jump_ms: int) -> None:
    functions.begin(["a"])
    wanted = {"rates": [("tenant:requests", 10, PERIOD_MS, "r")], "slot": False}
    admitted = sum(functions.call("hr_admit", ask(f"a{n}", **wanted))[0] == "free" for n in range(20))
    functions.at(START_MS + jump_ms)
    again = sum(functions.call("hr_admit", ask(f"b{n}", **wanted))[0] == "free" for n in range(20))
    functions.at(START_MS + jump_ms + PERIOD_MS)
    later = sum(functions.call("hr_admit", ask(f"c{n}", **wanted))[0] == "free" for n in range(20))
    assert (admitted, later) == (10, 10)
    assert again <= 10


def test_a_lease_that_was_forgotten_is_taken_up_again(functions: Functions) -> None:
    functions.begin(["a"])
    known = ask("1", again=True, charged=124, reported=60, served=50, running=True)
    assert functions.call("hr_admit", known)[0] == "run"
    assert functions.call("hr_meter", [("1", 55, -1)])[0][:2] == ["run", 124]
    functions.call("hr_settle", [("1", 10, 60, True)])
    assert functions.used("a") == 70 - 60  # what was told before had been charged by whoever forgot it
