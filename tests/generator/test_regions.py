"""Three regions of different nearness: the nearest is asked, its death moves all calls to the next, and its return moves them back."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from random import Random

import pytest

from deployments.core import config
from deployments.core.sections import Resilience, Upstream
from deployments.core.types import Generation, LogRef, Message, Sampling
from deployments.generator.backends import Backend
from deployments.generator.chain import Chain
from deployments.generator.sse import Piece

OPEN_S = 0.5
TTFT_MS = {"eu": 10, "us": 60, "ap": 120}
WORDS = [f"w{number}" for number in range(20)]


class Region:
    """A simulator that can be killed and started again at the same address."""

    def __init__(self, name: str):
        self._name, self.port = name, 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, at a free port the first time."""
        pace = ("--ttft-ms", str(TTFT_MS[self._name]), "--itl-ms", "5", "--tokens", "20", "--port", str(self.port))
        self._process = subprocess.Popen([sys.executable, "-m", "loadtest.simulator", *pace], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.port = json.loads(self._process.stdout.readline())["port"]

    def kill(self) -> None:
        """End it in the middle of whatever it says."""
        if self._process and self._process.stdout:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


@pytest.fixture
def regions() -> Iterator[dict[str, Region]]:
    """All of them, running."""
    named = {name: Region(name) for name in TTFT_MS}
    with ExitStack() as stack:
        for one in named.values():
            one.start()
            stack.callback(one.kill)
        yield named


class World:
    """A generator in `eu`, which asks questions and notes which region each attempt went to."""

    def __init__(self, regions: dict[str, Region]):
        url = "http://127.0.0.1:{}/v1".format
        far = tuple(Upstream(name=one, base_url=url(regions[one].port), model="sim", region=one, rank=0) for one in ("ap", "us"))
        resilience = Resilience(open_s=OPEN_S, spare_retries=100)
        self.settings = config.Generator(
            base_url=url(regions["eu"].port), model="sim", region="eu", near=("us", "ap"), fallbacks=far, resilience=resilience
        )
        self.tried: list[tuple[float, str]] = []
        self.chain = Chain(self._connect, self.settings, Random(0))

    def _connect(self, upstream: Upstream) -> Backend:
        world = self

        class Noting(Backend):
            async def stream(self, generation: Generation, said: str, last: float) -> AsyncGenerator[Piece]:
                world.tried.append((time.monotonic(), upstream.region))
                async for piece in super().stream(generation, said, last):
                    yield piece

        return Noting(upstream.base_url, "key", upstream.model, self.settings)

    async def ask(self) -> str:
        """The text of one answer."""
        log = LogRef("r", "t", (), record=False)
        pieces = [piece async for piece in self.chain.stream(Generation(log, (Message("user", "Hi"),), Sampling(), (), (), 30))]
        return "".join(piece.text for piece in pieces)

    def since(self, began: float) -> Counter[str]:
        """The attempts that began after that."""
        return Counter(region for at, region in self.tried if at > began)


async def test_the_nearest_region_answers_its_death_moves_calls_away_and_its_return_back(regions: dict[str, Region]) -> None:
    world = World(regions)
    texts: list[str] = []

    async def ask_for(seconds: float) -> None:
        """Four readers, one question after the other."""
        until = time.monotonic() + seconds

        async def read() -> None:
            while time.monotonic() < until:
                texts.append(await world.ask())

        await asyncio.gather(*(read() for _ in range(4)))

    began = time.monotonic()
    await ask_for(1)
    assert set(world.since(began)) == {"eu"}

    asking = asyncio.create_task(ask_for(4 * OPEN_S))
    await asyncio.sleep(0.05)  # within answers
    await asyncio.to_thread(regions["eu"].kill)
    died = time.monotonic()
    await asking
    within = Counter(region for at, region in world.tried if died < at < died + OPEN_S)
    assert within["eu"] <= 2 * world.settings.resilience.failures  # until its breaker opens
    after = world.since(died + OPEN_S)
    assert after["us"] > 10 * after["eu"]  # which is tried now and then
    assert after["ap"] == 0

    await asyncio.to_thread(regions["eu"].start)
    await ask_for(8 * OPEN_S)  # the longest that the breaker may have chosen by now
    returned = time.monotonic()
    await ask_for(1)
    assert set(world.since(returned)) == {"eu"}
    assert all(text.split() == WORDS for text in texts)
    assert len(texts) > 50
    await world.chain.close()
