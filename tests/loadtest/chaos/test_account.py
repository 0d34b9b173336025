"""The account of a fault: how long the service was away, what was lost, and whether the goal was met."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.chaos.account import Goal, Measure, Sum, Trial, recovery
from loadtest.chaos.answer import Answer, Attempt, Kind
from loadtest.chaos.table import FAULTS, chosen

times = st.floats(0, 100, allow_nan=False)


def whole(connections: int = 1) -> Answer:
    found = Answer(Kind.CHAT, 1, 0.0, connections=connections)
    found.chunk({"choices": [{"delta": {"content": "w0"}, "finish_reason": "stop"}]}, 1.0)
    found.chunk(None, 1.0)
    return found


def lost() -> Answer:
    return Answer(Kind.RESPONSE, 1, 0.0)


def test_the_service_is_back_with_the_first_answer_behind_the_last_failure() -> None:
    attempts = [
        Attempt(9, 10, True),
        Attempt(10.1, 10.2, False),
        Attempt(10.3, 11.5, True),
        Attempt(10.6, 10.7, False),
        Attempt(11, 11.2, True),
    ]
    assert recovery(attempts, 10) == pytest.approx(1.2)


def test_answers_asked_for_before_the_fault_do_not_count() -> None:
    assert recovery([Attempt(9.9, 10.4, False), Attempt(10, 10.1, True)], 10) == pytest.approx(0.1)


def test_a_service_that_answers_no_more_is_not_back() -> None:
    assert recovery([Attempt(10.1, 10.2, True), Attempt(10.3, 10.4, False)], 10) is None


@given(st.lists(st.tuples(times, times, st.booleans()), max_size=20), times)
def test_no_failure_is_ever_behind_the_time_of_coming_back(drawn: list[tuple[float, float, bool]], struck: float) -> None:
    attempts = [Attempt(sent, sent + took, good) for sent, took, good in drawn]
    back = recovery(attempts, struck)
    failures = [each.sent for each in attempts if not each.good and each.sent >= struck]
    if back is not None:
        assert back >= 0
        assert all(sent <= struck + back for sent in failures)


def test_ends_are_summed_over_all_trials() -> None:
    found = Sum([Trial([whole(), whole(2)], 0.5), Trial([lost(), whole()], 1.5)])
    assert (found.lost, found.silent, found.resumed, found.errors) == (1, 0, 1, 0.25)
    assert found.recovered(50) == pytest.approx(1.0)


def test_of_a_figure_the_worst_trial_counts() -> None:
    trials = [Trial([], 0.1, [Measure("late", value, 5), Measure("goodput", value, 0.85, at_least=True)]) for value in (1, 3, 2)]
    assert [(each.name, each.value) for each in Sum(trials).measures] == [("late", 3), ("goodput", 1)]


@pytest.mark.parametrize(
    ("trial", "missed"),
    [
        (Trial([whole()], 0.9), []),
        (Trial([whole()], 1.1), ["1.10 s instead of 1"]),
        (Trial([whole()], None), ["not back"]),
        (Trial([lost()], 0.9), ["1 lost", "100.00% errors instead of 50.00%"]),
        (Trial([whole()], 0.9, [Measure("orphans", 2, 0)]), ["orphans 2 instead of 0"]),
    ],
)
def test_a_goal_says_what_was_missed(trial: Trial, missed: list[str]) -> None:
    assert Goal(recovery_s=1, errors=0.5).missed(Sum([trial])) == missed


def test_a_fault_that_could_not_be_injected_has_not_met_its_goal() -> None:
    assert Goal().missed(Sum(broken="there is no process of edge")) == ["there is no process of edge"]


def test_a_number_without_its_letter_chooses_every_variant() -> None:
    assert [fault.number for fault in chosen("3,gate")] == ["3", "3s", "3g", "gate"]
    assert chosen("") == list(FAULTS)
    with pytest.raises(ValueError, match="no fault 99"):
        chosen("3,99")


def test_faults_have_numbers_of_their_own() -> None:
    assert len({fault.number for fault in FAULTS}) == len(FAULTS)
