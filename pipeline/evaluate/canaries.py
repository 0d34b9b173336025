"""`python -m pipeline.evaluate.canaries` measures how soon a worse variant is seen, and how often one is ended that is not."""

from collections.abc import Sequence
from random import Random

import numpy as np
from rich.console import Console

from deployments.core.choices import Arm
from deployments.core.evidence import Evidence, worse

WITHIN = 200
"""Turns of the variant within which a worse one shall be seen."""
_RUNS, _SAME = 200, 300
_TURNS = 5000


def simulate(
    seed: int,
    weight: float,
    turns: int,
    *,
    slower: float = 1.0,
    spread: float = 0.25,
    fails: float = 0.0,
    variant_fails: float | None = None,
    burst: int = 0,
) -> int | None:
    """The turns of the variant after which a canary is rolled back; None where none of the `turns` of both sides tells.

    Times to the first token are lognormal, `spread` is their sigma; the variant's are `slower` times as long. `fails` is the share of turns
    that fail, on both sides unless the variant has its own. Of 4 `burst` turns the last `burst` come at once, each of which waits for those
    before.
    """
    draw, evidence = np.random.default_rng(seed), Evidence(Random(seed))
    varied = draw.random(turns) < weight
    times = np.exp(draw.normal(0, spread, turns)) * np.where(varied, slower, 1.0)
    if burst:
        times += 0.5 * np.maximum(0, np.arange(turns) % (4 * burst) - 3 * burst)
    failed = draw.random(turns) < np.where(varied, fails if variant_fails is None else variant_fails, fails)
    seen = 0
    for is_variant, time_s, fell in zip(varied.tolist(), times.tolist(), failed.tolist(), strict=True):
        arm: Arm = "variant" if is_variant else "control"
        seen += is_variant
        evidence.turn(arm)
        if fell:
            evidence.event("errors", arm, weight)
        else:
            evidence.measure("ttft", arm, time_s, weight)
        if (is_variant or fell) and worse(evidence.tally):
            return seen
    return None


def ended(runs: Sequence[int | None], within: int = WITHIN) -> int:
    """How many of some runs were rolled back within so many turns of the variant."""
    return sum(one is not None and one <= within for one in runs)


def main() -> None:
    """Print a line for each setting."""
    console = Console(highlight=False, soft_wrap=True)
    for weight in (0.05, 0.1, 0.2, 0.5):
        turns = int(1.5 * WITHIN / weight)
        for spread in (0.25, 0.5, 0.75, 1.0):
            found = [simulate(seed, weight, turns, slower=1.3, spread=spread) for seed in range(_RUNS)]
            console.print(f"weight {weight}: 30 % slower, sigma {spread}: {_told(found)}")
        for fails in (0.0, 0.002, 0.005):
            found = [simulate(seed, weight, turns, fails=fails, variant_fails=0.05) for seed in range(_RUNS)]
            console.print(f"weight {weight}: 5 % fail, of the control {fails:.1%}: {_told(found)}")
        for fails in (0.005, 0.05):
            same = [simulate(seed, weight, _TURNS, fails=fails) for seed in range(_SAME)]
            console.print(f"weight {weight}: no difference, {fails:.1%} fail: {ended(same, _TURNS)} of {_SAME} ended")
        bursts = [simulate(seed, weight, _TURNS, burst=40) for seed in range(_SAME)]
        console.print(f"weight {weight}: no difference, bursts of 40: {ended(bursts, _TURNS)} of {_SAME} ended")


def _told(runs: Sequence[int | None]) -> str:
    times = sorted(one for one in runs if one is not None and one <= WITHIN)
    middle = times[len(times) // 2] if times else "-"
    return f"{len(times)} of {len(runs)} within {WITHIN} turns of the variant, the middle one after {middle}"


if __name__ == "__main__":
    main()
