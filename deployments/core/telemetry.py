"""What is measured: the one table of metrics, and where their values go.

Names are Prometheus's spelling; those that begin with `gen_ai_` are OpenTelemetry's for generative AI (semantic-conventions-genai, read
in autumn 2026). No label holds what a tenant says, is called, or names: each has a few values that are ours or the operator's. A process
measures nothing until `export` has been given the kinds of metrics of whatever carries them; under Serve that is `ray.util.metrics`,
which sends them to the Prometheus endpoint of every node, with `ray_` before each name.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

_logger = logging.getLogger("headrace.telemetry")

BEAT_S = 0.5
"""How often a process hands over what it has counted, and looks how late its event loop is."""
MOST_NAMES = 64
"""Different values of a label whose values are names; others are `other`."""

LONG_S = tuple(0.01 * 2**power for power in range(14))
FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
STAGE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WORK_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
TOKENS = tuple(float(4**power) for power in range(14))
SCORE = tuple(step / 20 for step in range(1, 21))
COUNT = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Makes(Protocol):
    """What carries metrics: makes each kind by its name; the interface of `ray.util.metrics`."""

    def Counter(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> Any:  # noqa: N802
        """Something with `inc(value, tags)`."""
        ...

    def Gauge(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> Any:  # noqa: N802
        """Something with `set(value, tags)`."""
        ...

    def Histogram(  # noqa: N802
        self, name: str, description: str = "", boundaries: list[float] | None = None, tag_keys: tuple[str, ...] | None = None
    ) -> Any:
        """Something with `observe(value, tags)`."""
        ...


class Metric(ABC):
    """One row of the table: a name, what it says, and its labels. Values are given with one text for each label, in their order."""

    kind = ""

    def __init__(self, name: str, says: str, *labels: str):
        self.name, self.says, self.labels = name, says, labels
        self._carrier: Any = None
        METRICS.append(self)

    def carried(self, makes: Makes | None) -> None:
        """Have values go there; None is nowhere."""
        self._carrier = makes and self._made(makes)

    @abstractmethod
    def _made(self, makes: Makes) -> Any: ...

    def _tags(self, values: Sequence[str]) -> dict[str, str]:
        return dict(zip(self.labels, values, strict=True))


class Counter(Metric):
    """A sum that only grows; its name ends with `_total`."""

    kind = "counter"

    def __init__(self, name: str, says: str, *labels: str):
        super().__init__(name, says, *labels)
        self.counted: dict[tuple[str, ...], float] = {}
        """What this process has added, by labels."""
        self._handed: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, by: float = 1) -> None:
        """Add to it; whatever carries it hears at the next beat, as each call there costs more than all of this."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, and got {labels}")
        if by > 0:
            self.counted[labels] = self.counted.get(labels, 0) + by

    def carried(self, makes: Makes | None) -> None:
        """Have values go there from now on; None is nowhere."""
        self.hand()
        super().carried(makes)
        self._handed = dict(self.counted)

    def hand(self) -> None:
        """Hand over what has been added since the last time."""
        if self._carrier is None:
            return
        for labels, count in list(self.counted.items()):  # threads count as well
            if more := count - self._handed.get(labels, 0):
                self._carrier.inc(more, self._tags(labels))
                self._handed[labels] = count

    def _made(self, makes: Makes) -> Any:
        return makes.Counter(self.name.removesuffix("_total"), description=self.says, tag_keys=self.labels)


class Gauge(Metric):
    """A value of now."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Say what it is."""
        if self._carrier:
            self._carrier.set(value, self._tags(labels))

    def _made(self, makes: Makes) -> Any:
        return makes.Gauge(self.name, description=self.says, tag_keys=self.labels)


class Histogram(Metric):
    """How values are spread over buckets, whose upper bounds are given."""

    kind = "histogram"

    def __init__(self, name: str, says: str, *labels: str, buckets: Sequence[float]):
        super().__init__(name, says, *labels)
        self.buckets = tuple(buckets)

    def see(self, value: float, *labels: str) -> None:
        """Count a value."""
        if self._carrier:
            self._carrier.observe(value, self._tags(labels))

    def _made(self, makes: Makes) -> Any:
        return makes.Histogram(self.name, description=self.says, boundaries=list(self.buckets), tag_keys=self.labels)


METRICS: list[Metric] = []
"""The table, in the order of the documentation."""

OPERATION, MODEL, ERROR = "gen_ai_operation_name", "gen_ai_request_model", "error_type"
CHAT = "chat"

REQUEST_DURATION = Histogram(
    "gen_ai_server_request_duration_seconds", "From an answer's admission to its last event.", OPERATION, MODEL, ERROR, buckets=LONG_S
)
FIRST_TOKEN = Histogram(
    "gen_ai_server_time_to_first_token_seconds", "From admission until the first word was handed over.", OPERATION, MODEL, buckets=FIRST_S
)
OUTPUT_TOKEN = Histogram(
    "gen_ai_server_time_per_output_token_seconds", "Time for each token behind the first one.", OPERATION, MODEL, buckets=TOKEN_S
)
CALL_DURATION = Histogram(
    "gen_ai_client_operation_duration_seconds", "One call of a model backend.", OPERATION, "backend", ERROR, buckets=LONG_S
)
FIRST_CHUNK = Histogram(
    "gen_ai_client_operation_time_to_first_chunk_seconds", "From a call until its backend's first word.", OPERATION, "backend",
    buckets=FIRST_S,
)  # fmt: skip
TOKEN_USAGE = Histogram(
    "gen_ai_client_token_usage", "Tokens that one call of a backend read and wrote.", OPERATION, "backend", "gen_ai_token_type",
    buckets=TOKENS,
)  # fmt: skip

REQUESTS = Counter("headrace_requests_total", "Requests that were answered, by the template of their route.", "route", "method", "status")
CLIENT_RETRIES = Counter("headrace_client_retries_total", "Requests that a client says it repeats (`x-stainless-retry-count`).")
ANSWERS_OPEN = Gauge("headrace_answers_open", "Answers that run in a gateway now.")
STREAMS_OPEN = Gauge("headrace_streams_open", "Readers of answers now, resumed and watching ones included.")
SOCKETS_OPEN = Gauge("headrace_sockets_open", "WebSockets open now.")
SOCKET_CLOSES = Counter("headrace_socket_closes_total", "WebSockets that were closed: by us with that code, or by the client.", "code")
STREAM_ABORTS = Counter(
    "headrace_stream_aborts_total", "Answers that did not reach their end, by who ended them: client, key, lagging, failed.", "by"
)
STREAM_RESUMES = Counter("headrace_stream_resumes_total", "Readers that came back to an answer, or came to one of others.")
REPLAYED = Counter("headrace_stream_replayed_events_total", "Deltas that readers were given from the record.")

STAGE_DURATION = Histogram(
    "headrace_stage_duration_seconds", "One stage of a turn, as who waits for it sees it.", "stage", "outcome", buckets=STAGE_S
)
STAGE_WORK = Histogram(
    "headrace_stage_work_seconds", "The same as the stage itself sees it; what is left is the way there and back.", "stage",
    buckets=STAGE_S,
)  # fmt: skip
OVERHEAD = Histogram("headrace_overhead_seconds", "What of the time to the first word no stage accounts for.", buckets=STAGE_S)
LOOP_LAG = Histogram("headrace_event_loop_lag_seconds", "How late a process's event loop wakes up.", "stage", buckets=STAGE_S)

ADMISSIONS = Counter("headrace_admissions_total", "What admission said: admitted, waits, or the code of a refusal.", "decision")
ADMISSION_WAIT = Histogram("headrace_admission_wait_seconds", "How long a turn waited for a backend's slot.", "service", buckets=STAGE_S)
POOL_RUNNING = Gauge("headrace_pool_running", "Slots in use, everywhere.")
POOL_WAITING = Gauge("headrace_pool_waiting", "Turns that wait for a slot, everywhere.")
POOL_LIMIT = Gauge("headrace_pool_limit", "Slots in force, everywhere.")
FAIRNESS = Gauge("headrace_tenant_fairness_jain", "Jain's index over what tenants got in the last minute: 1 is even.")

LEG_DURATION = Histogram("headrace_retrieval_leg_seconds", "One leg of a search: vectors, words or rows.", "leg", buckets=STAGE_S)
RETRIEVED = Histogram("headrace_retrieval_results", "Passages that a search gave.", buckets=COUNT)
RETRIEVED_NONE = Counter("headrace_retrieval_empty_total", "Searches that gave none.")
BEST_SCORE = Histogram("headrace_retrieval_score", "The score of the best passage.", buckets=SCORE)
NO_ANSWER = Counter("headrace_unanswered_total", "Turns that were told that there is no answer in the passages.")
EMBED_BATCH = Histogram("headrace_embed_batch_texts", "Texts that were encoded together.", buckets=COUNT)
EMBED_WAIT = Histogram("headrace_embed_wait_seconds", "How long the first text of a batch waited for its turn.", buckets=STAGE_S)
CACHE_LOOKUPS = Counter(
    "headrace_cache_lookups_total", "Looks into a cache: exact, semantic, embedding or shared_embedding.", "cache", "outcome"
)

ATTEMPTS = Counter("headrace_backend_attempts_total", "Calls of a backend, by how they ended.", "backend", "outcome")
FALLBACKS = Counter("headrace_fallbacks_total", "Answers that another call went on with, by what had gone wrong.", "reason")
HEDGES = Counter("headrace_hedges_total", "Second calls beside a slow first one.")
BREAKER = Gauge("headrace_backend_breaker_state", "Of a backend: 0 closed, 1 half open, 2 open.", "backend")
BACKEND_CALLS = Gauge("headrace_backend_calls", "Calls of a backend that are under way in this process.", "backend")
TOOL_CALLS = Counter("headrace_tool_calls_total", "Calls that models asked for, by what became of them.", "decision")

JOBS = Counter("headrace_jobs_total", "Attempts at jobs, by how they ended.", "kind", "outcome")
JOBS_WAITING = Gauge("headrace_jobs_waiting", "Jobs that are due and that nobody holds, everywhere; 1000 at most.")
JOB_AGE = Gauge("headrace_job_oldest_age_seconds", "How long the oldest of them has been due.")
JOB_DURATION = Histogram("headrace_job_duration_seconds", "One attempt at a job.", "kind", buckets=WORK_S)


class Few:
    """Names as values of a label: the first so many different ones, then `other`."""

    def __init__(self, most: int = MOST_NAMES):
        self._most = most
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        """The value for a name."""
        if name not in self._known:
            if len(self._known) >= self._most:
                return "other"
            self._known.add(name)
        return name


MODELS, BACKENDS = Few(), Few()
"""The names of models and of backends, both of which the operator gives."""


def export(makes: Makes | None, stage: str = "") -> None:
    """Have this process measure from now on, as the stage of that name, whose event loop must run; None ends it."""
    for metric in METRICS:
        metric.carried(makes)
    if makes and stage:
        _beats.append(asyncio.get_running_loop().create_task(_beat(stage)))


def hand() -> None:
    """Hand over what this process has counted."""
    for metric in METRICS:
        if isinstance(metric, Counter):
            metric.hand()


_beats: list[asyncio.Task[None]] = []


async def _beat(stage: str) -> None:
    now = asyncio.get_running_loop().time
    while True:
        due = now() + BEAT_S
        await asyncio.sleep(BEAT_S)
        try:
            LOOP_LAG.see(max(0.0, now() - due), stage)
            hand()
        except Exception:  # whatever it is, the next beat may succeed
            _logger.exception("can not hand over what is counted")
