"""What tells a worse variant from chance: simulated canaries."""

import math
from random import Random

import pytest

from deployments.core.evidence import ENOUGH, ODDS, Events, Evidence, Ranks, together, worse
from pipeline.evaluate.canaries import WITHIN, ended, simulate


@pytest.mark.parametrize("weight", [0.05, 0.1, 0.2])
def test_a_variant_that_is_30_percent_slower_is_seen_within_200_of_its_turns(weight: float) -> None:
    turns = int(1.5 * WITHIN / weight)
    assert ended([simulate(seed, weight, turns, slower=1.3) for seed in range(50)]) == 50


def test_where_times_spread_twice_as_wide_nearly_all_are_seen() -> None:
    assert ended([simulate(seed, 0.1, 3000, slower=1.3, spread=0.5) for seed in range(50)]) >= 47


@pytest.mark.parametrize(("weight", "fails", "least"), [(0.05, 0.0, 49), (0.1, 0.0, 49), (0.05, 0.002, 46), (0.05, 0.005, 40)])
def test_a_variant_that_fails_in_5_of_100_is_seen_within_200_of_its_turns(weight: float, fails: float, least: int) -> None:
    turns = int(1.5 * WITHIN / weight)
    assert ended([simulate(seed, weight, turns, fails=fails, variant_fails=0.05) for seed in range(50)]) >= least


@pytest.mark.parametrize(("weight", "fails"), [(0.05, 0.005), (0.1, 0.05)])
def test_of_a_hundred_variants_that_are_no_worse_one_at_most_is_ended(weight: float, fails: float) -> None:
    assert ended([simulate(seed, weight, 5000, fails=fails) for seed in range(100)], within=5000) <= 1


def test_a_better_variant_is_left_alone() -> None:
    assert ended([simulate(seed, 0.2, 3000, slower=0.7, fails=0.05, variant_fails=0.01) for seed in range(20)], within=3000) == 0


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_a_bet_on_events_is_fair_at_the_share_and_unfavourable_under_it(share: float) -> None:
    for truth in (share, share / 2):
        for odds in ODDS:
            mean = (truth * odds + 1 - truth) / (1 + share * (odds - 1))
            assert mean == pytest.approx(1) if truth == share else mean < 1
    events = Events()
    events.happen(True, share)
    expected = sum(odds / (1 + share * (odds - 1)) for odds in ODDS) / len(ODDS)
    assert math.exp(events.wealth.log) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_the_mean_of_a_bet_on_ranks_is_one_for_each_value_also_where_all_are_equal(share: float) -> None:
    for values in ([1.0] * 12, [float(number) for number in range(12)]):
        sides: list[float] = []
        for variant in (False, True):
            ranks = Ranks(Random(1))
            for value in values[:-1]:
                ranks.take(False, value, 0.0)  # which pays nothing
            ranks.take(variant, values[-1], share)
            sides.append(math.exp(ranks.wealth.log))
        assert sides[0] != pytest.approx(1)
        assert (1 - share) * sides[0] + share * sides[1] == pytest.approx(1)


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_bursts_in_which_each_waits_for_those_before_end_no_variant(weight: float) -> None:
    assert ended([simulate(seed, weight, 2000, burst=40) for seed in range(100)], within=2000) <= 1


def test_what_two_processes_have_seen_adds_up_to_enough() -> None:
    seen: list[Evidence] = []
    for seed in range(2):
        evidence = Evidence(Random(seed))
        for _ in range(20):
            evidence.turn("control")
        evidence.turn("variant")
        for _ in range(2):
            evidence.event("errors", "variant", 0.05)
        seen.append(evidence)
    assert [worse(one.tally) for one in seen] == [None, None]
    both = together([one.tally for one in seen])
    assert both.wealth["errors"] > ENOUGH
    assert (worse(both), both.turns, both.events["errors"]) == ("errors", (40, 2), (0, 4))
