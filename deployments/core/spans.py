"""Spans of turns, with the names that OpenTelemetry has for generative AI; none where no exporter is configured.

A process joins what it is handed as `traceparent` (W3C Trace Context): the gateway that of the client's request, every other stage that
of its caller, and a backend ours. What is said is on no span, unless `telemetry.content` asks for it.
"""

import asyncio
import contextlib
import re
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from deployments.core.sections import Section

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

TRACEPARENT = "traceparent"
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LONGEST = 64 << 10
"""Characters of an attribute."""

Kind = Literal["internal", "server", "client", "consumer"]
Attributes = Mapping[str, str | float | tuple[str, ...]]
NONE: Attributes = {}


class Telemetry(Section):
    """What is told of turns to whoever runs the installation."""

    metrics: bool = Field(default=True, description="Whether metrics go to Ray's Prometheus endpoint.")
    otlp_url: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Where spans go, by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; none makes none.",
    )
    sampled: float = Field(default=0.1, ge=0, le=1, description="The share of turns that have spans, where their client does not say.")
    content: bool = Field(default=False, description="Whether prompts and answers go onto spans.")
    kept: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="The share of turns kept, sealed, for `headrace trace`: what was asked and said.",
    )
    kept_days: int = Field(default=7, ge=1, le=366, description="How long they are kept.")


class _Spans:
    """Where the spans of this process go."""

    provider: "TracerProvider | None" = None
    content = False


def start(settings: Telemetry, stage: str) -> None:
    """Make spans from now on, as that stage, if an exporter is configured; its packages are loaded only then."""
    if settings.otlp_url is None or _Spans.provider is not None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    resource = Resource({"service.namespace": "headrace", "service.name": f"headrace-{stage}"})
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(settings.sampled)), resource=resource, shutdown_on_exit=True)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.otlp_url, timeout=5), schedule_delay_millis=1000))
    _Spans.provider, _Spans.content = provider, settings.content


def stop() -> None:
    """Export what is left, and make no more; blocks for as long as the exporter takes."""
    provider, _Spans.provider = _Spans.provider, None
    if provider:
        provider.shutdown()


def sound(traceparent: str) -> str:
    """A `traceparent` as it came from outside; "" where it is none."""
    return traceparent if _TRACEPARENT.fullmatch(traceparent) else ""


def here() -> str:
    """The `traceparent` of the span that is open; "" where none is."""
    if _Spans.provider is None:
        return ""
    from opentelemetry.trace import get_current_span

    context = get_current_span().get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" if context.is_valid else ""


@contextlib.contextmanager
def span(name: str, attributes: Attributes = NONE, *, kind: Kind = "internal", parent: str = "", root: bool = False) -> Generator["Mark"]:
    """A span around what is done within, below the one that is open, or below `parent`; a `root` without a parent is below nothing.

    How it ended is told by `error.type`: the code of an error of ours, the class of any other, never its message.
    """
    if _Spans.provider is None:
        yield Mark(None)
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    above = TraceContextTextMapPropagator().extract({TRACEPARENT: parent}, Context()) if parent else Context() if root else None
    tracer = _Spans.provider.get_tracer("headrace")
    opened = tracer.start_as_current_span(name, above, SpanKind[kind.upper()], record_exception=False, set_status_on_exception=False)
    with opened as current:
        mark = Mark(current)
        mark.note(attributes)
        try:
            yield mark
        except (asyncio.CancelledError, GeneratorExit):
            mark.note({"error.type": "cancelled"})
            raise
        except BaseException as error:
            mark.note({"error.type": getattr(error, "wire_code", type(error).__name__)})
            current.set_status(Status(StatusCode.ERROR))
            raise


class Mark:
    """A span that is open; nothing where none is made."""

    def __init__(self, current: "Span | None"):
        self._span = current

    @property
    def wants_content(self) -> bool:
        """Whether what is said goes onto it."""
        return self._span is not None and _Spans.content and self._span.is_recording()

    def note(self, attributes: Attributes) -> None:
        """Set attributes; those that are "" are left out, and long ones are cut."""
        if self._span is not None:
            for name, value in attributes.items():
                if value != "":
                    self._span.set_attribute(name, value[:_LONGEST] if isinstance(value, str) else value)
