"""The table of metrics, and the stages of a turn."""

import asyncio
import time

import pytest

from deployments.core.telemetry import FIRST_S, FIRST_TOKEN, REQUESTS, SOCKETS_OPEN, Few, export
from deployments.core.timings import MOST, Timings
from tests.fakes import until
from tests.telemetry import Carrier


def test_nothing_is_measured_before_somebody_carries_it() -> None:
    REQUESTS.add("/v1/models", "GET", "200")
    carrier = Carrier()
    export(carrier)
    REQUESTS.add("/v1/models", "GET", "200")
    export(None)
    REQUESTS.add("/v1/models", "GET", "200")
    assert carrier.total("headrace_requests") == 1


def test_each_kind_of_metric_goes_where_it_is_carried(carrier: Carrier) -> None:
    REQUESTS.add("/v1/models", "GET", "200", by=2)
    SOCKETS_OPEN.set(7)
    FIRST_TOKEN.see(0.25, "chat", "headrace")
    assert carrier.values["headrace_requests"] == {("/v1/models", "GET", "200"): [2]}
    assert carrier.values["headrace_sockets_open"] == {(): [7]}
    assert carrier.values["gen_ai_server_time_to_first_token_seconds"] == {("chat", "headrace"): [0.25]}


def test_a_counter_takes_no_nothing(carrier: Carrier) -> None:
    REQUESTS.add("/", "GET", "200", by=0)
    assert carrier.total("headrace_requests") == 0


def test_a_label_too_few_is_an_error(carrier: Carrier) -> None:
    with pytest.raises(ValueError, match="route"):
        REQUESTS.add("/v1/models", "GET")


def test_so_many_names_and_no_more() -> None:
    few = Few(2)
    assert [few.of(name) for name in ("a", "b", "c", "a", "c")] == ["a", "b", "other", "a", "other"]


def test_first_tokens_around_the_target_fall_into_different_buckets() -> None:
    def bucket(value: float) -> int:
        return next(place for place, bound in enumerate(FIRST_S) if value <= bound)

    assert len({bucket(value) for value in (0.05, 0.2, 0.4, 0.9, 1.1, 3.0)}) == 6


async def test_a_blocked_event_loop_is_seen(carrier: Carrier) -> None:
    export(carrier, "gateway")
    await asyncio.sleep(0)
    time.sleep(0.7)  # a call that blocks
    await until(lambda: max(carrier.values["headrace_event_loop_lag_seconds"].get(("gateway",), [0])) > 0.1)


async def test_what_is_counted_is_handed_over_within_a_second_and_once() -> None:
    class Heard(Carrier):
        @property
        def values(self) -> dict[str, dict[tuple[str, ...], list[float]]]:
            return self._values

    carrier = Heard()
    export(carrier, "gateway")
    for _ in range(3):
        REQUESTS.add("/", "GET", "200")
    await until(lambda: carrier.total("headrace_requests") == 3, within_s=1)
    REQUESTS.add("/", "GET", "200", by=4)
    await until(lambda: carrier.values["headrace_requests"] == {("/", "GET", "200"): [3, 4]}, within_s=1)
    export(None)
    assert carrier.total("headrace_requests") == 7


async def test_stages_are_timed_however_they_end(carrier: Carrier) -> None:
    timings = Timings()
    with timings.of("embed"):
        pass
    with pytest.raises(ValueError, match="no"), timings.of("search"):
        raise ValueError("no")
    with pytest.raises(asyncio.CancelledError), timings.of("generate"):
        raise asyncio.CancelledError
    assert [(one.stage, one.outcome) for one in timings.stages] == [("embed", "ok"), ("search", "failed"), ("generate", "cancelled")]
    assert set(carrier.values["headrace_stage_duration_seconds"]) == {("embed", "ok"), ("search", "failed"), ("generate", "cancelled")}


def test_stages_side_by_side_count_once() -> None:
    timings = Timings()
    for stage, at_s, took_s in (("route", 1, 1), ("search", 1.5, 2), ("compose", 5, 1)):
        timings.note(stage, at_s, took_s)
    assert timings.covered_s(10) == pytest.approx(3.5)
    assert timings.covered_s(3) == pytest.approx(2)
    assert timings.covered_s(0.5) == 0


def test_a_turn_of_many_stages_remembers_the_first() -> None:
    timings = Timings()
    for number in range(MOST + 1):
        timings.note(str(number), number, 1)
    assert len(timings.stages) == MOST
