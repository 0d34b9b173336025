"""Writes docs/metrics.md from the table of metrics: `python -m tests.telemetry`. Holds what a test needs to see values and spans, too."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.core import spans
from deployments.core.spans import Telemetry
from deployments.core.telemetry import METRICS, Histogram, Metric, export, hand
from tests.house import listening

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"

_INTRODUCTION = """# Metrics

Every metric of headrace, from `deployments/core/telemetry.py`; a test keeps this page and the code the same (`python -m tests.telemetry`
writes it). They come out of the Prometheus endpoint that Ray has on every node, with `ray_` before each name and Ray's own labels beside
ours; on a cluster Prometheus finds the endpoints in the file that Ray's head keeps at
`/tmp/ray/prom_metrics_service_discovery.json`; beside `make serve`, whose Ray has no dashboard and keeps none, `make observe` finds them.
Ray Serve's metrics (`ray_serve_*`) stand beside them.

No label holds a tenant, a user, a key, an id or a text. Names of models and backends are the operator's, and at most 64 of each; others
are `other`. What a tenant used is in `headrace usage`.

`headrace_stage_duration_seconds` is what a stage takes as the turn sees it, `headrace_stage_work_seconds` the same as the stage itself
does; the difference of their means is what the framework adds.
"""


def page() -> str:
    """The whole page."""
    rows = [f"| `{one.name}` | {one.kind} | {_labels(one)} | {one.says}{_buckets(one)} |" for one in METRICS]
    return "\n".join([_INTRODUCTION, "| Metric | Kind | Labels | What it says |", "|---|---|---|---|", *rows, ""])


def _labels(metric: Metric) -> str:
    return ", ".join(f"`{label}`" for label in metric.labels) or "–"


def _buckets(metric: Metric) -> str:
    return f" Buckets {metric.buckets[0]:g} to {metric.buckets[-1]:g}." if isinstance(metric, Histogram) else ""


@dataclass
class Carrier:
    """Carries metrics nowhere, and keeps what it is given: values by metric and labels."""

    _values: dict[str, dict[tuple[str, ...], list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    @property
    def values(self) -> dict[str, dict[tuple[str, ...], list[float]]]:
        """What has come, and what is on the way."""
        hand()
        return self._values

    def _make(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None, boundaries: Any = None) -> "Series":
        return Series(self._values[name], tag_keys or ())

    Counter = Gauge = Histogram = _make

    def total(self, name: str, *labels: str) -> float:
        """The sum of all values of a metric, or of those with these labels."""
        series = self.values[name]
        return sum(series[labels]) if labels else sum(sum(values) for values in series.values())


@dataclass
class Series:
    """One metric of a carrier."""

    values: dict[tuple[str, ...], list[float]]
    labels: tuple[str, ...]

    def _note(self, value: float, tags: dict[str, str]) -> None:
        assert tuple(tags) == self.labels
        self.values[tuple(tags.values())].append(value)

    inc = set = observe = _note


@pytest.fixture
def carrier() -> Iterator[Carrier]:
    """What this process measures during a test."""
    carrier = Carrier()
    export(carrier)
    yield carrier
    export(None)


@dataclass
class Collector:
    """Takes spans by OTLP over HTTP."""

    spans: list[Any] = field(default_factory=list[Any])

    async def take(self, request: Request) -> Response:
        told = ExportTraceServiceRequest.FromString(await request.body())
        self.spans += [one for resource in told.resource_spans for scope in resource.scope_spans for one in scope.spans]
        return Response(media_type="application/x-protobuf")

    def named(self, name: str) -> Any:
        return next(one for one in self.spans if one.name == name)

    def names(self) -> Sequence[str]:
        return [one.name for one in self.spans]


def attributes(one: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in one.attributes}


@contextlib.asynccontextmanager
async def collecting(**fields: Any) -> AsyncIterator[Collector]:
    """Make spans within; they are all there behind it."""
    collector = Collector()
    async with listening(Starlette(routes=[Route("/v1/traces", collector.take, methods=["POST"])])) as url:
        spans.start(Telemetry(otlp_url=f"{url}/v1/traces", sampled=1, **fields), "test")
        try:
            yield collector
        finally:
            await asyncio.to_thread(spans.stop)


if __name__ == "__main__":
    PAGE.write_text(page())
