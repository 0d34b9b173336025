"""Who is asked, how often, and when: the plan of a call, its budget, and how the backends stand."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.core import config
from deployments.core.errors import BackendFailed, DeadlineExceeded, HeadraceError, InvalidRequest, Overloaded, Throttled, Unreachable
from deployments.core.sections import Contract, Resilience, Upstream
from deployments.core.types import Tier
from deployments.generator.budget import Budget
from deployments.generator.plan import Plan
from deployments.generator.standing import Standings, Wish

SETTINGS = Resilience()


def backend(name: str, rank: int = 0, **others: Any) -> Upstream:
    return Upstream(name=name, base_url=f"http://{name}", model="m", rank=rank, **others)


A, B, C = backend("a"), backend("b", 1), backend("c", 2)
BROKEN = BackendFailed("broken")


class World:
    """Backends and a clock."""

    def __init__(self, settings: Resilience = SETTINGS, seed: int = 0):
        self.settings, self.standings, self.budget = settings, Standings(settings), Budget(settings)
        self.random, self.now = Random(seed), 0.0

    def plan(self, *upstreams: Upstream, until: float = 60, regions: tuple[str, ...] = (), tier: Tier | None = None) -> Plan:
        return Plan(upstreams, self.settings, self.standings, self.budget, self.random, self.now + until, Wish(regions, tier))

    def run(self, plan: Plan, errors: list[HeadraceError | None], contract: Contract | None = None) -> list[str]:
        """The names that are asked while calls end with these errors; None ends well."""
        asked = list[str]()
        for error in errors:
            call = plan.begin(self.now)
            asked.append(call.upstream.name)
            if error is None:
                call.end(self.now, good=True)
                break
            plan.failed(call, error, self.now)
            self.now += plan.again(error, self.now, contract)
        return asked


def test_the_next_rank_is_asked_at_once_where_the_first_fails() -> None:
    world = World()
    assert world.run(world.plan(A, B, C), [BROKEN, DeadlineExceeded("late"), None]) == ["a", "b", "c"]
    assert world.now == 0


def test_a_lone_backend_is_asked_again_after_a_pause_that_grows() -> None:
    world, ends = World(), list[float]()
    plan = world.plan(A)
    for _ in range(3):
        assert world.run(plan, [BROKEN]) == ["a"]
        ends.append(world.now)
    pauses = [later - before for before, later in zip([0.0, *ends], ends, strict=False)]
    assert 0.05 <= pauses[0] <= 0.1 <= pauses[1] <= 0.2 <= pauses[2] <= 0.4


@pytest.mark.parametrize("error", [InvalidRequest("wrong"), HeadraceError("ours")])
def test_what_is_not_the_backends_fault_is_final_and_not_held_against_it(error: HeadraceError) -> None:
    world = World()
    for _ in range(50):
        with pytest.raises(type(error)):
            world.run(world.plan(A, B), [error])
    assert world.run(world.plan(A, B), [None]) == ["a"]


def test_attempts_are_bounded() -> None:
    world = World()
    with pytest.raises(BackendFailed):
        world.run(world.plan(*(backend(str(n)) for n in range(9))), [BROKEN] * 9)
    assert sum(standing.breaker.allows(0) for standing in map(world.standings.of, "012345678")) == 9


def test_nothing_is_begun_that_cannot_end_in_time() -> None:
    world = World()
    with pytest.raises(BackendFailed):
        world.run(world.plan(A, until=0.06), [BROKEN])
    with pytest.raises(BackendFailed):
        world.run(world.plan(A, B, until=0.04), [BROKEN])


def test_a_caller_in_a_hurry_says_nothing_of_a_backend() -> None:
    world = World()
    for _ in range(50):
        plan = world.plan(A, B, until=1)
        call = plan.begin(world.now)
        world.now += 1
        plan.failed(call, DeadlineExceeded("late"), world.now)
        with pytest.raises(DeadlineExceeded):
            plan.again(DeadlineExceeded("late"), world.now, None)
    assert world.run(world.plan(A, B), [None]) == ["a"]


def test_a_short_pause_that_a_backend_asks_for_is_waited_for_and_a_long_one_goes_elsewhere_or_fails() -> None:
    world = World()
    assert world.run(world.plan(A), [Throttled("later", retry_after_s=1.5), None]) == ["a", "a"]
    assert 1.5 <= world.now <= 1.7
    with pytest.raises(Throttled):
        world.run(world.plan(A), [Throttled("later", retry_after_s=30)])
    assert world.run(world.plan(A, B), [None]) == ["b"]
    with pytest.raises(Overloaded) as refused:
        world.plan(A).begin(world.now)
    assert refused.value.wire_code == "backends_out"


def test_once_a_backend_is_out_nobody_asks_it_until_one_call_tries_it() -> None:
    world = World()
    for _ in range(SETTINGS.failures):
        world.run(world.plan(A, B), [Unreachable("gone"), None])
    assert world.run(world.plan(A, B), [None]) == ["b"]
    world.now += SETTINGS.open_s
    trying, beside = world.plan(A, B).begin(world.now), world.plan(A, B).begin(world.now)
    assert (trying.upstream.name, beside.upstream.name) == ("a", "b")
    trying.end(world.now, good=True)
    assert world.run(world.plan(A, B), [None]) == ["a"]


def test_a_broken_answer_keeps_to_its_contract() -> None:
    deaf = backend("deaf", 1, continues=False)
    world = World()
    assert world.run(world.plan(A, deaf, C), [BROKEN, None], "continue") == ["a", "c"]
    assert world.run(world.plan(A, deaf, C), [BROKEN, None], "restart") == ["a", "deaf"]
    with pytest.raises(BackendFailed):
        world.run(world.plan(A, B), [BROKEN], "fail")


def test_of_one_rank_the_nearest_and_then_the_quickest_is_asked() -> None:
    near, far, farther = (backend(name, region=name) for name in ("near", "far", "farther"))
    world = World(Resilience(spare_retries=100, most_retries=100, failures=100, window=100))
    for one, took_s in ((near, 0.9), (far, 0.1), (farther, 0.4)):
        world.standings.of(one.name).answered(0, took_s)
    assert world.run(world.plan(near, far, farther, regions=("near",)), [None]) == ["near"]
    assert {world.run(world.plan(near, far, farther, regions=("near",)), [BROKEN, None])[1] for _ in range(20)} == {"far"}
    assert world.run(world.plan(farther, far, regions=("near", "far")), [None]) == ["far"]
    assert {world.run(world.plan(far, farther), [None])[0] for _ in range(20)} == {"far"}
    assert world.run(world.plan(farther, far, regions=("near", "far")), [None]) == ["far"]


def test_a_backend_takes_no_more_than_it_may() -> None:
    small = backend("small", max_ongoing=1)
    world = World()
    first = world.plan(small, B).begin(0)
    assert world.run(world.plan(small, B), [None]) == ["b"]
    first.leave(0)
    assert world.run(world.plan(small, B), [None]) == ["small"]


def test_backends_of_one_name_are_refused() -> None:
    for names in (["b", "b"], ["primary"]):
        with pytest.raises(ValidationError, match="name of its own"):
            config.Generator(fallbacks=tuple(backend(name) for name in names))


def test_a_peak_counts_at_once_and_fades() -> None:
    standing = World().standings.of("a")
    standing.answered(0, 2)
    assert standing.cost == 2
    standing.answered(10, 0.1)
    assert 0.1 < standing.cost < 1


errors = st.sampled_from(
    [None, None, None, BROKEN, Unreachable("gone"), Overloaded("busy"), Throttled("later", retry_after_s=0.7), DeadlineExceeded("late")]
)


@given(st.lists(st.tuples(errors, st.floats(0, 1)), min_size=1, max_size=400), st.integers(0, 99))
def test_whatever_fails_the_backends_get_few_calls_more_than_we_do(ends: list[tuple[HeadraceError | None, float]], seed: int) -> None:
    world, offered, served = World(seed=seed), 0, 0
    rest = iter(ends)
    for error, pause_s in rest:
        world.now += pause_s
        offered += 1
        plan = world.plan(A, B)
        try:
            while True:
                call = plan.begin(world.now)
                served += not isinstance(error, Unreachable)
                if error is None:
                    call.end(world.now, good=True)
                    break
                began = world.now
                plan.failed(call, error, world.now)
                world.now += plan.again(error, world.now, None)
                assert world.now - began <= 2 * SETTINGS.longest_backoff_s
                error, _ = next(rest, (None, 0))
        except HeadraceError:
            pass
    assert served <= offered * (1 + SETTINGS.retry_share) + SETTINGS.spare_retries
    assert all(world.standings.of(name).ongoing == 0 for name in "ab")


def test_a_call_goes_to_its_tier_whatever_the_rank() -> None:
    world, small, large = World(), backend("small", tier="small"), backend("large", rank=1, tier="large")
    assert world.run(world.plan(small, large, tier="large"), [None]) == ["large"]
    assert world.run(world.plan(small, large, tier="small"), [None]) == ["small"]


def test_where_no_backend_of_the_tier_answers_the_other_tier_does() -> None:
    world, small, large = World(), backend("small", tier="small"), backend("large", rank=1, tier="large")
    assert world.run(world.plan(small, large, tier="large"), [BROKEN, None]) == ["large", "small"]


def test_a_backend_without_a_tier_takes_every_call_by_its_rank() -> None:
    world, every, large = World(), backend("every"), backend("large", rank=1, tier="large")
    assert world.run(world.plan(every, large, tier="large"), [None]) == ["every"]


def test_a_backend_that_is_preferred_goes_before_all_others_while_it_takes_calls():
    first, other = Upstream(name="first", base_url="x", model="m", rank=0), Upstream(name="other", base_url="x", model="m", rank=3)
    settings = Resilience(failures=1)
    standings = Standings(settings)
    plan = Plan((first, other), settings, standings, Budget(settings), Random(1), until=100, wish=Wish(prefers="other"))
    call = plan.begin(0)
    assert call.upstream.name == "other"
    plan.failed(call, Unreachable("gone"), 0.1)
    assert plan.again(Unreachable("gone"), 0.1, None) == 0
    assert plan.begin(0.1).upstream.name == "first"
    assert Plan((first, other), settings, standings, Budget(settings), Random(1), until=100).begin(0.1).upstream.name == "first"


def test_a_session_stays_with_its_backend_in_every_process_until_that_is_much_slower() -> None:
    peers = tuple(Upstream(name=name, base_url="u", model="m", weight=weight) for name, weight in (("a", 1), ("b", 1), ("c", 2)))
    settings = Resilience()

    def chosen(session: str, standings: Standings, seed: int) -> str:
        upstream = standings.choose(peers, Wish(session=session), 0, Random(seed))
        assert upstream
        return upstream.name

    quiet = Standings(settings)
    own = {f"s{number}": chosen(f"s{number}", quiet, 0) for number in range(400)}
    assert all(chosen(session, Standings(settings), seed) == name for seed, (session, name) in enumerate(own.items()))
    shares = Counter(own.values())
    assert 60 <= shares["a"] <= 140
    assert 160 <= shares["c"] <= 240, "by weight"
    session = next(session for session, name in own.items() if name == "a")
    busy = Standings(settings)
    busy.of("a").ongoing = 1
    assert chosen(session, busy, 1) == "a"
    busy.of("a").ongoing = 5
    assert chosen(session, busy, 1) != "a"
