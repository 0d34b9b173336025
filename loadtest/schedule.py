"""When requests are due, fixed before the first of them: arrivals that do not wait for answers.

A closed loop asks less where the service is slow, and so hides how slow it is (coordinated omission); here every request has a time that
does not depend on any answer, and is timed from there.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random

from loadtest.scenario import Kind, Replay, Scenario, Stage

PROMPT_TOKENS = 8000
"""The longest prompt that is replayed; longer ones are cut to it."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it is due in seconds from the start, in which stage, what it asks for and how long it is."""

    due_s: float
    stage: int
    kind: Kind = "chat"
    prompt_tokens: int = 0
    """Words to pad the prompt to; 0 leaves it as it is."""
    tokens: int | None = None
    """Tokens of the answer; None is what the scenario says."""


def poisson(stages: Sequence[Stage], peak: float, mix: Mapping[Kind, float], seed: int) -> Iterator[Arrival]:
    """Yield arrivals at random times with the rates of the stages: a Poisson process, the same for the same seed."""
    random, begun = Random(seed), 0.0
    kinds, weights = list(mix), list(mix.values())
    for number, stage in enumerate(stages):
        rate = stage.per_s or stage.times_peak * peak
        due = begun
        begun += stage.seconds
        while rate and (due := due + random.expovariate(rate)) < begun:
            yield Arrival(due, number, random.choices(kinds, weights)[0])


def replayed(replay: Replay, data: Path, seconds: float, seed: int) -> Iterator[Arrival]:
    """Yield the recorded arrivals of the first `seconds`, scaled; ValueError where the file is no such trace.

    The columns are those of the Azure traces of 2023: TIMESTAMP, ContextTokens, GeneratedTokens.
    """
    random, first = Random(seed), None
    with (data / replay.file).open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                at = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
                prompt, answer = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{replay.file} is not a trace of requests: {error!r}") from error
            first = at if first is None else first
            due = (at - first) / replay.speed
            if due >= seconds:
                return
            if random.random() < replay.rate:
                words = min(max(round(prompt * replay.lengths), 1), PROMPT_TOKENS)
                yield Arrival(due, 0, "chat", words, max(round(answer * replay.lengths), 1))


def arrivals(scenario: Scenario, peak: float, data: Path | None) -> Iterator[Arrival]:
    """Yield all arrivals of a scenario in order; ValueError where a trace is wanted and there is no folder."""
    if scenario.replay is None:
        return poisson(scenario.stages, peak, scenario.mix, scenario.seed)
    if data is None:
        raise ValueError("this scenario replays a recorded trace: it needs the folder of data sets (DATA=folder, --data folder)")
    return replayed(scenario.replay, data, sum(stage.seconds for stage in scenario.stages), scenario.seed)


def offered(scenario: Scenario, peak: float) -> list[float]:
    """Return the requests a second that each stage is meant to bring."""
    return [stage.per_s or stage.times_peak * peak for stage in scenario.stages]
