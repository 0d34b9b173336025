from hypothesis import given
from hypothesis import strategies as st

from deployments.core.sections import Resilience
from deployments.generator.breaker import Breaker

SETTINGS = Resilience(window=10, failures=3, open_s=5, longest_open_s=20)


def call(breaker: Breaker, now: float, good: bool | None) -> None:
    assert breaker.allows(now)
    breaker.ended(now, good, breaker.began(now))


def tripped(now: float = 0) -> Breaker:
    breaker = Breaker(SETTINGS)
    for _ in range(3):
        call(breaker, now, False)
    return breaker


def test_it_opens_when_half_of_the_last_calls_failed_and_not_before() -> None:
    breaker = Breaker(SETTINGS)
    for good in [True] * 4 + [False] * 3:
        call(breaker, 0, good)
    assert breaker.state(0) == "closed"
    call(breaker, 0, False)
    assert breaker.state(0) == "open"
    assert not breaker.allows(4.9)


def test_what_says_nothing_of_the_backend_changes_nothing() -> None:
    breaker = Breaker(SETTINGS)
    for good in [False, False] + [None] * 20 + [False]:
        call(breaker, 0, good)
    assert breaker.state(0) == "open"


def test_one_call_tries_it_and_its_success_closes_it() -> None:
    breaker = tripped()
    assert breaker.state(5) == "half_open"
    probe = breaker.began(5)
    assert probe
    assert not breaker.allows(5)
    breaker.ended(6, True, probe)
    assert breaker.state(6) == "closed"
    call(breaker, 6, False)
    assert breaker.state(6) == "closed"


def test_a_probe_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    breaker, now, pauses = tripped(), 0.0, list[float]()
    for _ in range(4):
        begun = now
        while not breaker.allows(now):
            now += 0.5
        pauses.append(now - begun)
        call(breaker, now, False)
    assert pauses == [5, 10, 20, 20]


def test_a_probe_that_is_given_up_lets_the_next_one_try() -> None:
    breaker = tripped()
    breaker.ended(6, None, breaker.began(5))
    assert breaker.allows(6)


def test_a_call_from_before_it_opened_does_not_judge_the_probe() -> None:
    breaker = tripped()
    probe = breaker.began(5)
    breaker.ended(5, True, False)
    assert not breaker.allows(5)
    breaker.ended(5, False, probe)
    assert breaker.state(6) == "open"


def test_a_pause_that_was_asked_for_is_kept_within_bounds() -> None:
    breaker = Breaker(SETTINGS)
    breaker.cool(0, 3)
    assert (breaker.allows(2.9), breaker.allows(3)) == (False, True)
    breaker.cool(10, 1e9)
    assert (breaker.allows(29.9), breaker.allows(30)) == (False, True)


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from([True, False, None])), max_size=60))
def test_whatever_happens_it_lets_somebody_through_within_the_longest_pause(events: list[tuple[float, bool | None]]) -> None:
    breaker, now = Breaker(SETTINGS), 0.0
    for pause_s, good in events:
        now += pause_s
        if breaker.allows(now):
            call(breaker, now, good)
    assert breaker.allows(now + SETTINGS.longest_open_s)
