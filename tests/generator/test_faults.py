"""Every way in which a backend fails, under load: readers see whole answers, and backends few calls more than were made."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

import pytest

from deployments.core import config
from deployments.core.errors import BackendFailed, DeadlineExceeded, HeadraceError
from deployments.core.sections import Resilience, Upstream
from deployments.core.types import Generation, LogRef, Message, Sampling
from deployments.generator.backends import Backend
from deployments.generator.chain import Chain
from deployments.generator.sse import Seam
from tests.loadtest.conftest import Simulator

WORDS = [f"w{number}" for number in range(20)]
PATIENCE_S, STALL_S = 1.0, 0.6
AT_ONCE = 10
IMPATIENT = Resilience(open_s=1)
PATIENT = Resilience(failures=1000, window=1000, spare_retries=1000, most_retries=1000)
"""A backend is asked however often it fails."""
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n'
BEGUN = OK + b"".join(EVENT % word for word in (b"w0", b" w1", b" w2"))


def refusal(status: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} No", "content-type: application/json", "content-length: 2", "connection: close", *headers, "", "{}"]
    return "\r\n".join(lines).encode()


FAULTS = {
    "hang": (b"", True),
    "hang after the head": (OK, True),
    "stall": (BEGUN, True),
    "cut": (BEGUN, False),
    "cut before the first byte": (b"", False),
    "429 for seconds": (refusal(429, "retry-after: 2"), False),
    "429 for milliseconds": (refusal(429, "retry-after-ms: 1500"), False),
    "429 until a date": (refusal(429, f"retry-after: {format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True)}"), False),
    "429 for ever": (refusal(429, "retry-after: 1000000000"), False),
    "500": (refusal(500), False),
    "502": (refusal(502), False),
    "503": (refusal(503), False),
    "529": (refusal(529), False),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", False),
    "not JSON": (BEGUN + b"data: {oops\n\n", False),
    "not UTF-8": (BEGUN + b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\n', False),
    "two objects in one event": (BEGUN + b"data: {}{}\n\n", False),
    "an event without an end": (BEGUN + b"data: " + b"x" * (1 << 20) + b"y" * 999, True),
    "an error within the answer": (BEGUN + b'data: {"error":{"message":"boom"}}\n\n', False),
}


class Crooked:
    """A server that answers every request with the same bytes, or some for each; then it closes the connection, or keeps silent."""

    def __init__(self, answer: bytes | Callable[[], bytes], holds: bool):
        self._answer, self._holds = answer, holds
        self.requests = 0
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Crooked"]:
        """Serve on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(length)
            writer.write(self._answer() if callable(self._answer) else self._answer)
            await writer.drain()
            if self._holds:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class Asked:
    """A chain of a bad backend and a good one, and how it fared."""

    def __init__(self, bad: str, good: str, resilience: Resilience = IMPATIENT):
        fallbacks = (Upstream(name="good", base_url=good, model="sim"),)
        self.settings = config.Generator(
            base_url=bad,
            model="sim",
            connect_timeout_s=PATIENCE_S,
            first_token_timeout_s=PATIENCE_S,
            inter_token_timeout_s=STALL_S,
            fallbacks=fallbacks,
            resilience=resilience,
        )
        self.chain = Chain(lambda one: Backend(one.base_url, "key", one.model, self.settings), self.settings, Random(0))
        self.wrong: list[str] = []
        self.switching_s: list[float] = []
        self.seams = 0

    async def ask(self, count: int) -> None:
        """So many questions, some at a time."""
        self.chain.warm()
        numbers = iter(range(count))
        await asyncio.gather(*(self._some(numbers) for _ in range(AT_ONCE)))
        await self.chain.close()

    async def _some(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            log = LogRef(f"r{number}", "t", (), record=False)
            text, seams, began, last = "", list[Seam](), time.monotonic(), 0.0
            try:
                async for piece in self.chain.stream(Generation(log, (Message("user", "Hi"),), Sampling(), (), (), 30)):
                    if piece.seam:
                        seams.append(piece.seam)
                        self.switching_s.append(time.monotonic() - last)
                    if piece.text and not text:
                        self.switching_s += [time.monotonic() - began]
                    text, last = text + piece.text, time.monotonic()
            except HeadraceError as error:
                self.wrong.append(f"{number}: {error}")
            self.seams += len(seams)
            if text.split() != WORDS or len(seams) > 1:
                self.wrong.append(f"{number}: {text!r}, {len(seams)} seams")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.full)])
async def test_a_backend_that_fails_is_not_seen_by_readers(upstream: Simulator, fault: str, count: int) -> None:
    before = upstream.stats()["total"]
    async with Crooked(*FAULTS[fault]).serving() as bad:
        asked = Asked(bad.url, upstream.url)
        await asked.ask(count)
        served = bad.requests + upstream.stats()["total"] - before
    slowest = sorted(asked.switching_s)
    print(f"\n{fault}: {served / count:.3f} calls for one, first words p50 {statistics.median(slowest):.3f} s, max {slowest[-1]:.3f} s")  # noqa: T201
    answer, holds = FAULTS[fault]
    limit_s = STALL_S if answer.startswith(BEGUN) else PATIENCE_S
    if holds and (late := [took - limit_s for took in slowest if took >= limit_s]):
        print(f"the other's words after the timeout: p50 {statistics.median(late):.3f} s, max {late[-1]:.3f} s, N={len(late)}")  # noqa: T201
    assert asked.wrong == []
    limits = asked.settings.resilience
    assert served <= count * (1 + limits.retry_share) + limits.spare_retries


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("count", [10, pytest.param(40, marks=pytest.mark.full)])
async def test_a_fault_that_is_met_every_time_is_survived_every_time(upstream: Simulator, fault: str, count: int) -> None:
    async with Crooked(*FAULTS[fault]).serving() as bad:
        asked = Asked(bad.url, upstream.url, PATIENT)
        await asked.ask(count)
    assert asked.wrong == []
    assert "429" in fault or bad.requests == count


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.full)])
async def test_an_answer_whose_backend_dies_at_a_random_token_is_the_same_with_one_seam(upstream: Simulator, count: int) -> None:
    chance, said = Random(4), list[int]()

    def dying() -> bytes:
        said.append(chance.randrange(1, len(WORDS)))
        return OK + b"".join(EVENT % word.encode() for word in " ".join(WORDS[: said[-1]]).replace(" ", "| ").split("|"))

    async with Crooked(dying, holds=False).serving() as bad:
        asked = Asked(bad.url, upstream.url, PATIENT)
        await asked.ask(count)
    assert (asked.wrong, asked.seams, bad.requests) == ([], count, count)
    assert len(set(said)) > 10


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://nowhere.invalid/v1"], ids=["refused", "no such host"])
async def test_a_backend_that_is_not_there_costs_no_retries(upstream: Simulator, url: str) -> None:
    before = upstream.stats()["total"]
    asked = Asked(url, upstream.url)
    await asked.ask(40)
    assert asked.wrong == []
    assert upstream.stats()["total"] - before == 40


@pytest.mark.parametrize("fault", ["500", "hang", "cut"])
async def test_where_all_backends_fail_the_error_is_told_and_retries_stay_few(fault: str) -> None:
    async with Crooked(*FAULTS[fault]).serving() as one, Crooked(*FAULTS[fault]).serving() as other:
        asked = Asked(one.url, other.url)
        await asked.ask(60)
    limits = asked.settings.resilience
    assert len({line.split(":")[0] for line in asked.wrong}) == 60
    assert one.requests + other.requests <= 60 * (1 + limits.retry_share) + limits.spare_retries


async def test_the_deadline_holds_over_all_attempts() -> None:
    async with Crooked(b"", holds=True).serving() as one, Crooked(b"", holds=True).serving() as other:
        asked = Asked(one.url, other.url)
        log, began = LogRef("r", "t", (), record=False), time.monotonic()
        with pytest.raises((DeadlineExceeded, BackendFailed)):
            async for _ in asked.chain.stream(Generation(log, (Message("user", "Hi"),), Sampling(), (), (), 1.5)):
                pass
        assert time.monotonic() - began < 1.5 + PATIENCE_S / 2
        await asked.chain.close()
