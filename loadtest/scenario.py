"""A scenario is one YAML file: who asks what, how many at which time, and what must hold."""

from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

FOLDER = Path(__file__).parent / "scenarios"

Kind = Literal["chat", "responses", "search", "embeddings", "upload"]
"""What one arrival asks for."""


class Strict(BaseModel):
    """A value object that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(Strict):
    """So much load for so long: requests that arrive, or sessions that are held."""

    seconds: float = Field(gt=0, le=24 * 3600)
    per_s: float = Field(default=0, ge=0, le=5000)
    """Requests that arrive each second on average, whatever has become of earlier ones."""
    times_peak: float = Field(default=0, ge=0, le=100)
    """The same, as a multiple of the measured peak."""
    sessions: int = Field(default=0, ge=0, le=10_000)
    """Sessions that are begun, evenly over `begin_s`; the stage is over when all have ended, or its time is."""
    begin_s: float = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(map(bool, (self.per_s, self.times_peak, self.sessions))) != 1:
            raise ValueError("a stage has one of per_s, times_peak and sessions")
        return self


class Peak(Strict):
    """How the peak is measured before the load: so many callers who ask again as soon as they are answered."""

    at_once: int = Field(ge=1, le=1000)
    seconds: float = Field(gt=0, le=600)
    warm_s: float = Field(default=5, ge=0)
    """The first seconds of these do not count."""


class Replay(Strict):
    """A recorded trace, below the folder of data sets: arrivals that many times as dense, lengths that many times as long."""

    file: str
    speed: float = Field(default=1, gt=0)
    rate: float = Field(default=1, gt=0, le=1)
    """The part of the recorded requests that is asked, drawn by seed."""
    lengths: float = Field(default=1, gt=0, le=10)


class Bounds(Strict):
    """Upper bounds on percentiles, in milliseconds."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Gates(Strict):
    """What a run must keep; what is not named is not judged, except for the counts, which are 0."""

    ttft_ms: Bounds = Bounds()
    """Of answers that were admitted, from the time their request was due."""
    itl_ms: Bounds = Bounds()
    """Over every gap between two deltas of every answer."""
    e2e_ms: Bounds = Bounds()
    kind_ms: dict[Kind, Bounds] = {}
    """Of the requests of one kind in total; of uploads, until they are ingested."""
    lag_ms: Bounds = Bounds(p99=1000)
    """How late requests were sent: above this the generator, not the service, set the pace."""
    success_ratio: float = 1.0
    """Of all requests but those refused with 429 or 503."""
    refused_ratio: float = 0.0
    """429 and 503 among all requests, at most."""
    unfinished: int | None = 0
    """Requests that were admitted and did not come to their proper end; null where `success_ratio` alone decides."""
    silent_failures: int = 0
    """Answers that ended without their last event and without an error that says so."""
    sequence_gaps: int = 0
    """Words of the simulator's numbered text that never came."""
    lost_events: int = 0
    """Numbers missing among the events of responses, over all their connections."""
    duplicated_text: int = 0
    unexpected_5xx: int = 0
    """5xx other than 503."""
    refusals_without_retry_after: int = 0
    orphans: int = 0
    """Answers the simulator still works on after the last client has gone; judged when its URL is given."""
    last_turn: float | None = None
    """Median TTFT of the last turn of the sessions, as a multiple of that of their first, at most."""
    fairness: float | None = None
    """Jain's index over the tokens each key received, at least."""
    goodput: float | None = None
    """In the busiest stage: answers a second that began in time (`ttft_ms.p95`) and came to their end, beside what can be had, at least.

    That is the measured peak, or what was asked for, whichever is less.
    """
    ttft_of_peak: float | None = None
    """p99 of TTFT, as a multiple of that while the peak was measured, at most."""
    memory_mib_per_10min: float | None = None
    """How fast the stack's memory grows after the warm-up; judged where the run starts the stack."""


class Pace(Strict):
    """The simulator's behaviour when the run starts a stack of its own."""

    ttft_ms: float = 50.0
    itl_ms: float = 20.0
    tokens: int = 50
    slots: int | None = None
    """Answers it writes at once; more wait."""


class Scenario(Strict):
    """One kind of load and its service-level objectives."""

    about: str
    user: Literal["Arrivals", "Session"]
    mix: dict[Kind, float] = {"chat": 1}
    """Arrivals: what they ask for, by weight."""
    model: str = "headrace"
    max_tokens: int = Field(default=128, gt=0)
    pace_s: float = Field(default=1, ge=0)
    """Session: seconds of thought between turns."""
    turns: int = Field(default=1, ge=1, le=10_000)
    """Session: turns of one."""
    reconnects: float = Field(default=0, ge=0, le=1)
    """Session: the part of the turns whose connection is cut within the answer, which is then gone on with over another one."""
    warm_up_s: float = 0.0
    """Times and ratios are judged of requests begun later; counts of what must not happen, of all."""
    over_s: float = Field(default=60, gt=0)
    """Arrivals: what is under way when the last request has been sent has this long to end."""
    seed: int = 7
    upstream: Pace = Pace()
    stack: dict[str, str] = {}
    """Settings of the stack that the run starts, as environment variables."""
    peak: Peak | None = None
    replay: Replay | None = None
    """Arrivals come from here instead of by chance; a stage says for how long."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    gates: Gates

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(bool(stage.sessions) != (self.user == "Session") for stage in self.stages):
            raise ValueError("sessions are for the user Session, and for it alone")
        if self.user == "Session" and len(self.stages) > 1:
            raise ValueError("sessions have one stage")
        if self.peak is None and (self.gates.goodput or self.gates.ttft_of_peak or any(stage.times_peak for stage in self.stages)):
            raise ValueError("what is compared with the peak needs `peak`")
        return self


def names() -> list[str]:
    """Return the scenarios there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Scenario:
    """Return a scenario; FileNotFoundError or pydantic's ValidationError when there is none or it is wrong."""
    return Scenario.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


def scaled(scenario: Scenario, load_factor: float, time_factor: float, turns: int = 0) -> Scenario:
    """Return a scenario of more or less load, or of shorter or longer stages and pauses, and with other `turns` of
    sessions where these are not 0; never fewer than one session."""
    stages = tuple(
        stage.model_copy(
            update={
                "seconds": stage.seconds * time_factor,
                "per_s": stage.per_s * load_factor,
                "sessions": max(round(stage.sessions * load_factor), 1) if stage.sessions else 0,
                "begin_s": stage.begin_s * time_factor,
            }
        )
        for stage in scenario.stages
    )
    peak = scenario.peak and scenario.peak.model_copy(
        update={"seconds": scenario.peak.seconds * time_factor, "warm_s": scenario.peak.warm_s * time_factor}
    )
    update = {
        "stages": stages,
        "peak": peak,
        "turns": turns or scenario.turns,
        "pace_s": scenario.pace_s * time_factor,
        "warm_up_s": scenario.warm_up_s * time_factor,
        "over_s": scenario.over_s * time_factor,
    }
    return scenario.model_copy(update=update)
