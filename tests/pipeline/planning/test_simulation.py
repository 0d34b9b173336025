"""The simulation admits, refuses and scales as the policies say, the same for the same seed."""

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.planning.simulation import Simulation, Stage, Story, World, target_ongoing

CALM = World((Stage(60, 10),), output_tokens=50, most=1)


def played(world: World) -> Story:
    return Simulation(world).run()


def test_the_same_seed_tells_the_same_story() -> None:
    assert played(CALM) == played(CALM)
    assert played(CALM) != played(replace(CALM, seed=2))


def test_a_load_that_has_room_waits_for_nothing() -> None:
    story = played(CALM)
    assert story.asked == story.answered == pytest.approx(600, rel=0.2)
    assert (story.refused, max(story.waits_s), story.replicas) == (0, 0.0, [(0.0, 1)])


def test_over_its_room_requests_wait_in_order_and_then_are_refused_at_once() -> None:
    full = played(replace(CALM, stages=(Stage(60, 100),), slots_each=10, max_waiting=20, wait_s=60))
    assert full.most_at_once == 10
    assert full.most_waiting == 20
    assert full.refused
    assert full.asked == full.answered + full.refused


def test_nobody_waits_much_longer_than_anybody_may() -> None:
    late = played(replace(CALM, stages=(Stage(120, 100),), slots_each=10, max_waiting=10_000, wait_s=2))
    assert late.refused
    assert late.percentiles(late.waits_s)[95] < 2 * 1.5


def test_replicas_follow_a_burst_up_and_down() -> None:
    stages = (Stage(30, 5), Stage(60, 100), Stage(400, 5))  # one goes at a time
    story = played(replace(CALM, stages=stages, slots_each=40, rule=target_ongoing(20), most=10, downscale_delay_s=30))
    counts = [count for _, count in story.replicas]
    assert counts[0] == 1
    assert max(counts) >= 6
    assert counts[-1] == 1
    first_up = next(when for when, count in story.replicas if count > 1)
    assert 30 < first_up < 30 + 2 * 2 + 5 + 3 + 5  # two looks, the look-back, the delay, the start


def test_a_fall_shorter_than_the_delay_takes_no_replica_away() -> None:
    stages = (Stage(60, 100), Stage(20, 5), Stage(60, 100))
    story = played(replace(CALM, stages=stages, slots_each=40, rule=target_ongoing(20), most=10, downscale_delay_s=60))
    counts = [count for _, count in story.replicas]
    assert counts == sorted(counts)
    assert counts[-1] >= 5


@settings(max_examples=20, deadline=None)
@given(st.floats(1, 60), st.integers(1, 20), st.integers(0, 30), st.floats(0.1, 20), st.integers(0, 5))
def test_every_request_is_answered_or_refused(rate: float, slots: int, waiting: int, wait_s: float, seed: int) -> None:
    world = replace(CALM, stages=(Stage(20, rate),), slots_each=slots, max_waiting=waiting, wait_s=wait_s, seed=seed, most=3)
    story = played(replace(world, rule=target_ongoing(slots)))
    assert story.asked == story.answered + story.refused == story.refused + len(story.ttft_s)
    assert story.most_at_once <= 3 * slots
    assert story.most_waiting <= waiting


def test_ten_thousand_streams_take_seconds() -> None:
    began = time.process_time()
    story = played(World((Stage(30, 2000),), output_tokens=250, least=79, most=100))
    assert story.most_at_once > 9_000
    assert time.process_time() - began < 30
