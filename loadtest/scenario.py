"""A scenario is one YAML file: who asks what, how many at which time, and what must hold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

FOLDER = Path(__file__).parent / "scenarios"

FASTEST = 100.0
"""Users a second: locust advises against more."""


class Strict(BaseModel):
    """A value object that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(Strict):
    """So many users for so long; `rate` users start or stop each second until there are as many."""

    seconds: float = Field(gt=0)
    users: int = Field(ge=1)
    rate: float = Field(gt=0)


class Bounds(Strict):
    """Upper bounds on percentiles, in milliseconds."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Gates(Strict):
    """What a run must keep; what is not named is not judged, except for the counts, which are 0."""

    ttft_ms: Bounds = Bounds()
    itl_ms: Bounds = Bounds()
    """Over every gap between two deltas of every answer."""
    e2e_ms: Bounds = Bounds()
    lag_ms: Bounds = Bounds(p99=1000)
    """How late requests were sent: above this the generator, not the service, set the pace."""
    success_ratio: float = 1.0
    """Of all requests but those refused with 429 or 503."""
    refused_ratio: float = 0.0
    """429 and 503 among all requests, at most."""
    sequence_gaps: int = 0
    duplicated_text: int = 0
    unexpected_5xx: int = 0
    """5xx other than 503."""
    refusals_without_retry_after: int = 0
    orphans: int = 0
    """Answers the simulator still works on after the last client has gone; judged when its URL is given."""
    last_turn: float | None = None
    """Median TTFT of the last turn of the conversations, as a multiple of that of their first, at most."""
    fairness: float | None = None
    """Jain's index over the tokens each key received, at least."""


class Pace(Strict):
    """The simulator's behaviour when the run starts a stack of its own."""

    ttft_ms: float = 50.0
    itl_ms: float = 20.0
    tokens: int = 50


class Scenario(Strict):
    """One kind of load and its service-level objectives."""

    about: str
    user: Literal["Asker", "Talker"]
    model: str = "headrace"
    max_tokens: int = Field(default=128, gt=0)
    pace_s: float = Field(gt=0)
    """Asker: seconds from one request to the next, answered or not. Talker: seconds of thought between turns."""
    turns: int = Field(default=1, ge=1)
    """Talker: turns of one conversation."""
    warm_up_s: float = 0.0
    """Requests begun this early are reported but not judged."""
    upstream: Pace = Pace()
    stack: dict[str, str] = {}
    """Settings of the stack that the run starts, as environment variables."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    gates: Gates


def names() -> list[str]:
    """Return the scenarios there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Scenario:
    """Return a scenario; FileNotFoundError or pydantic's ValidationError when there is none or it is wrong."""
    return Scenario.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


def stage_at(stages: Sequence[Stage], second: float) -> Stage | None:
    """Return the stage that is on at a second of the run; None when the run is over."""
    for stage in stages:
        second -= stage.seconds
        if second < 0:
            return stage
    return None


def scaled(scenario: Scenario, users_factor: float, time_factor: float) -> tuple[Stage, ...]:
    """Return the stages with more or fewer users, or shorter or longer ones; never fewer than one user."""
    return tuple(
        Stage(
            seconds=stage.seconds * time_factor,
            users=max(round(stage.users * users_factor), 1),
            rate=min(max(stage.rate * users_factor / time_factor, 0.5), FASTEST),
        )
        for stage in scenario.stages
    )
