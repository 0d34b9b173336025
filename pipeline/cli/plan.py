"""`headrace plan`: replicas, cores, memory and slots for a load, from measured costs."""

import json
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from deployments.core.config import Settings
from pipeline.cli.registry import DEFAULT, Config, Json, refusal
from pipeline.manifest import Unreadable, load
from pipeline.planning.costs import SHIPPED, Costs, read
from pipeline.planning.plan import Check, Demand, Plan, checked, sized
from pipeline.planning.simulation import Simulation, Story, target_ongoing, world

Rate = Annotated[float | None, typer.Option("--requests-per-s", min=0.001, max=1e6, help="Requests a second.")]
Streams = Annotated[float | None, typer.Option(min=1, max=1e6, help="Answers being written at once; by default what the rate comes to.")]
Prompt = Annotated[int, typer.Option(min=1, max=10**6, help="Tokens of a request, without passages.")]
Output = Annotated[int, typer.Option(min=1, max=10**6, help="Tokens of an answer.")]
Retrieval = Annotated[bool, typer.Option(help="Whether answers are from passages.")]
Headroom = Annotated[float, typer.Option(min=0, max=10, help="More of everything than the load needs; 0.3 is 30 %.")]
Ttft = Annotated[float, typer.Option(min=0, max=1e6, help="The model backend's time to the first token.")]
Itl = Annotated[float, typer.Option(min=0.01, max=1e6, help="Its time between two tokens.")]
CostFile = Annotated[Path, typer.Option("--costs", help="What `python -m loadtest.costs` wrote on a machine of yours.")]
Simulate = Annotated[bool, typer.Option("--simulate", help="Also play a burst to that many streams against admission and autoscaling.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the simulation.")]

MOST_EVENTS = 2_000_000
"""Requests of one simulation; a larger one would take minutes."""


def plan(
    requests_per_s: Rate = None,
    streams: Streams = None,
    prompt_tokens: Prompt = 500,
    output_tokens: Output = 200,
    retrieval: Retrieval = True,
    headroom: Headroom = 0.3,
    ttft_ms: Ttft = 200,
    itl_ms: Itl = 20,
    costs: CostFile = SHIPPED,
    simulate: Simulate = False,
    seed: Seed = 1,
    config: Config = DEFAULT,
    as_json: Json = False,
) -> None:
    """How many replicas, cores, slots and how much memory a load needs; give --requests-per-s, --streams or both."""
    held_s = (ttft_ms + itl_ms * output_tokens) / 1000
    if requests_per_s is None and streams is None:
        raise refusal("give --requests-per-s or --streams")
    rate = requests_per_s if requests_per_s is not None else (streams or 0) / held_s
    open_ = streams if streams is not None else rate * held_s
    demand = Demand(rate, open_, prompt_tokens, output_tokens, retrieval, headroom)
    try:
        known, settings = read(costs), load(config).settings
    except (OSError, ValidationError, Unreadable) as error:
        raise refusal(str(error)) from None
    found = sized(demand, known, settings)
    checks = checked(known, float(known.record["cores"]))
    story = _played(demand, found, known, settings, seed) if simulate else None
    if as_json:
        typer.echo(json.dumps(_document(demand, found, checks, story, known), indent=1))
    else:
        _show(demand, found, checks, story, known)


def _played(demand: Demand, found: Plan, costs: Costs, settings: Settings, seed: int) -> Story:
    """The simulation under the settings in force, with as many replicas at most as the plan has."""
    replicas = {need.part: need.replicas for need in found.needs}
    stage, admission = settings.generator.scaling, settings.admission
    setting = replace(
        world(demand.streams, demand.output_tokens, demand.retrieval, replicas["gateway"], costs),
        slots_each=stage.max_ongoing,
        rule=target_ongoing(stage.target_ongoing),
        first=max(ceil(demand.streams / 3 / stage.target_ongoing), 1),
        least=max(stage.min_replicas, 1),
        most=max(replicas["generator"], stage.min_replicas, 1),
        upscale_delay_s=stage.upscale_delay_s,
        downscale_delay_s=stage.downscale_delay_s,
        max_waiting=admission.max_waiting,
        wait_s=admission.wait_s,
        seed=seed,
    )
    if sum(each.seconds * each.requests_per_s for each in setting.stages) > MOST_EVENTS:
        raise refusal(f"that is more than {MOST_EVENTS:,} requests to simulate; plan a part of it")
    return Simulation(setting).run()


def _document(demand: Demand, found: Plan, checks: list[Check], story: Story | None, costs: Costs) -> dict[str, Any]:
    played = None
    if story is not None:
        played = asdict(story) | {"ttft_s": story.percentiles(story.ttft_s), "waits_s": story.percentiles(story.waits_s)}
    measured = [asdict(check) | {"point": check.point.model_dump(), "error": check.error} for check in checks]
    return {"demand": asdict(demand), "plan": asdict(found), "checks": measured, "simulation": played, "costs": costs.record}


def _show(demand: Demand, found: Plan, checks: list[Check], story: Story | None, costs: Costs) -> None:
    console = Console(highlight=False)
    kind = "from passages" if demand.retrieval else "without passages"
    title = f"{demand.requests_per_s:.4g} requests/s, {demand.streams:.0f} streams, {demand.prompt_tokens:.0f} tokens in, "
    table = Table(title=f"{title}{demand.output_tokens:.0f} out, {kind}", title_justify="left")
    for heading in ("part", "replicas", "busy cores", "memory", "why"):
        table.add_column(heading, justify="left" if heading in ("part", "why") else "right")
    for need in found.needs:
        table.add_row(need.part, str(need.replicas), f"{need.cores:.2f}", _size(need.memory_bytes), need.reason)
    console.print(table)
    console.print(
        f"with {demand.headroom:.0%} of headroom: {found.cores} cores, {_size(found.memory_bytes)}, {found.slots} slots of model backends"
    )
    console.print(
        f"costs: {costs.record['command']}, {str(costs.record['started'])[:10]}, {costs.record['cores']} cores {costs.record['machine']}"
    )
    for check in checks:
        what = "from passages" if check.point.retrieval else "without passages"
        said = f"predicted {check.predicted_per_s:.1f}, measured {check.point.answers_per_s:.1f} answers/s ({check.error:+.0%})"
        console.print(f"checked: {costs.record['cores']} cores full, {check.point.output_tokens} tokens {what}: {said}")
    if story is not None:
        _tell(console, story)


def _tell(console: Console, story: Story) -> None:
    moves = " → ".join(f"{count} ({when:.0f} s)" for when, count in story.replicas)
    console.print(f"simulated: {story.asked} requests, {story.answered} answered, {story.refused} refused with 503")
    console.print(f"  at most {story.most_at_once} at once, {story.most_waiting} waiting")
    console.print(f"  replicas of the generator: {moves}")
    for name, values in (("TTFT", story.ttft_s), ("wait for a slot", story.waits_s)):
        found = ", ".join(f"p{percent} {value * 1000:.0f} ms" for percent, value in story.percentiles(values).items())
        console.print(f"  {name}: {found}")


def _size(size_bytes: float) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB"
