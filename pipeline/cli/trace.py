"""`headrace trace`: one turn from end to end, where it was kept (`telemetry.kept`)."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from deployments.core.timings import Stage
from deployments.core.traces import Trace, Traces
from deployments.core.types import Message
from pipeline.cli.client import line
from pipeline.cli.registry import DEFAULT, Config, Json, settings_of, show, within

ACTOR = "cli"
_BAR = 40

Name = Annotated[str | None, typer.Argument(metavar="ID", help="A response (resp_…, chatcmpl-…); without one, the newest are listed.")]
Tenant = Annotated[str | None, typer.Option(help="List those of this tenant.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="List so many.")]


def trace(name: Name = None, tenant: Tenant = None, limit: Limit = 20, config: Config = DEFAULT, as_json: Json = False) -> None:
    """Show a turn that was kept: its stages, what was asked, given to the model, and answered. The audit record notes it."""
    telemetry = settings_of(config).telemetry
    if name is None:
        rows = within(config, lambda registry: Traces(registry.store, telemetry).list(limit, tenant))
        show([{"id": one, "tenant": whose, "created_at": at} for one, whose, at in rows], ("id", "tenant", "created_at"), as_json)
        if not rows and not as_json:
            typer.echo(f"telemetry.kept is {telemetry.kept:g}: it is the share of turns that are kept", err=True)
        return
    found = within(config, lambda registry: Traces(registry.store, telemetry).get(name, ACTOR))
    if as_json:
        show([found], (), as_json=True)
        return
    console = Console(highlight=False)
    for text in told(found):
        console.print(Text(text), soft_wrap=True)


def told(found: Trace) -> Iterator[str]:
    """A trace, line by line, with nothing in it that moves a cursor."""
    first = "never" if found.first_ms is None else f"{found.first_ms:g} ms"
    yield line(f"{found.id}  {found.tenant}  {found.model}  {found.outcome}, first word after {first}, {found.ms:g} ms in all")
    if found.route:
        yield line(f"route: {found.route.reason}")
    if found.usage:
        yield f"tokens: {found.usage.prompt_tokens} read, {found.usage.completion_tokens} written"
    yield ""
    yield from waterfall(found.stages, found.ms)
    yield from _said("asked", found.asked)
    yield from _said("given to the model", found.read)
    yield from ("", "answer:", *(line(one) for one in found.answer.splitlines()))
    if found.sources:
        yield line("sources: " + ", ".join(found.sources))


def waterfall(stages: Sequence[Stage], ms: float) -> Iterator[str]:
    """A line for each stage: when, how long, and a bar."""
    scale = _BAR / max(ms, *(one.at_ms + one.ms for one in stages), 1) if stages else 0.0
    for one in stages:
        before, length = int(one.at_ms * scale), max(1, round(one.ms * scale))
        bar = (" " * before + "█" * length)[: _BAR + 1]
        yield f"{one.stage:<12} {one.at_ms:>9.1f} {one.ms:>9.1f} ms  {bar}{'' if one.outcome == 'ok' else f'  {one.outcome}'}"


def _said(title: str, messages: Sequence[Message]) -> Iterator[str]:
    if messages:
        yield from ("", f"{title}:")
        for message in messages:
            yield from (line(f"  {message.role}: {text}") for text in message.content.splitlines() or [""])
