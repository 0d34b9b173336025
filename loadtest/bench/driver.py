"""The load generator, a process of its own: `python -m loadtest.bench.driver JOB` with a job in JSON.

It says `{"event": "open"}` and `{"event": "close"}` at the edges of the measured window, and last its result.
"""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count

import orjson
import uvloop

from loadtest.bench.client import Address, Connection, Sink, connect
from loadtest.questions import question
from loadtest.streaming import Events, Reading, order

DRAIN_S = 60.0
"""Requests still open this long after the window are failures."""

PENALTY_S = 0.05
"""A pause after a failure: a server that refuses at once must not turn the load into a flood."""


@dataclass(frozen=True, slots=True)
class Job:
    """One phase of load: so many clients, each sending its next request when the last one is answered."""

    url: str
    key: str
    model: str
    stream: bool
    clients: int
    seconds: float
    ramp_s: float = 1.0
    settle_s: float = 1.0
    max_tokens: int | None = None
    words: int | None = None
    """The length every answer must have."""
    more_words: int = 0
    """Of every question, behind the question itself."""


@dataclass(slots=True)
class Result:
    """What the clients saw in the window; the lists hold one value a request sent in it."""

    window_s: float = 0.0
    tokens: int = 0
    answered: int = 0
    sent: int = 0
    ttft_ms: list[float] = field(default_factory=list[float])
    total_ms: list[float] = field(default_factory=list[float])
    gaps_ms: list[float] = field(default_factory=list[float])
    """The longest gap between two deltas of each stream."""
    failures: dict[str, int] = field(default_factory=dict[str, int])
    cpu_share: float = 0.0
    """Of one core, this process alone."""


class Driver:
    """Runs one job."""

    def __init__(self, job: Job, say: Callable[[dict[str, object]], None]) -> None:
        self._job = job
        self._say = say
        self._address = Address.of(job.url, job.key)
        self._numbers = count(time.time_ns() // 10**6)  # no phase repeats another's questions
        self._window: tuple[float, float] | None = None
        self._tokens = 0
        self._measuring = False
        self._stopping = False
        self._failures: Counter[str] = Counter()
        self._readings: list[Reading] = []

    async def run(self) -> Result:
        """Ramp up, settle, measure, drain."""
        job = self._job
        clients = [asyncio.create_task(self._client(job.ramp_s * i / job.clients)) for i in range(job.clients)]
        await asyncio.sleep(job.ramp_s + job.settle_s)
        self._say({"event": "open"})
        opened, used = time.monotonic(), time.process_time()
        self._measuring = True
        await asyncio.sleep(job.seconds)
        self._measuring = False
        closed, spent = time.monotonic(), time.process_time() - used
        self._say({"event": "close"})
        self._stopping = True
        _, late = await asyncio.wait(clients, timeout=DRAIN_S)
        for each in late:
            each.cancel()
            self._failures["never ended"] += 1
        for each in clients:
            if each not in late:
                each.result()
        return self._result(opened, closed, spent)

    async def _client(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        connection: Connection | None = None
        while not self._stopping:
            try:
                if connection is None or not connection.open:
                    connection = await connect(self._address)
            except OSError:
                self._failures["cannot connect"] += 1
                await asyncio.sleep(PENALTY_S)
                continue
            reading = await (self._stream(connection) if self._job.stream else self._whole(connection))
            self._judge(reading)
            if reading.error is not None:
                connection.close()
                await asyncio.sleep(PENALTY_S)
        if connection is not None:
            connection.close()

    def _request(self) -> bytes:
        text = question(next(self._numbers)) + " and so on" * (self._job.more_words // 3)
        message = {"role": "user", "content": text}
        fields: dict[str, object] = {"model": self._job.model, "messages": [message]}
        if self._job.stream:
            fields["stream"] = True
        if self._job.max_tokens is not None:
            fields["max_tokens"] = self._job.max_tokens
        return self._address.request(fields)

    async def _stream(self, connection: Connection) -> Reading:
        events, request = Events(), self._request()
        reading = Reading(sent=time.monotonic())
        start: list[bytes] = []

        def take(body: bytes, now: float) -> None:
            if not reading.tokens:
                start.append(body)
            begun = sum(reading.read(data, now) for data in events.feed(body))
            if self._measuring:
                self._tokens += begun

        error = await _exchange(connection, request, take, start)
        reading.end(time.monotonic(), error)
        return reading

    async def _whole(self, connection: Connection) -> Reading:
        request = self._request()
        reading = Reading(sent=time.monotonic())
        body: list[bytes] = []
        error = await _exchange(connection, request, lambda data, _: body.append(data), body)
        if error is None:
            choice = orjson.loads(b"".join(body))["choices"][0]
            as_event = {"choices": [{"delta": choice["message"], "finish_reason": choice["finish_reason"]}]}
            reading.read(orjson.dumps(as_event), time.monotonic())
            reading.done = True
        reading.end(time.monotonic(), error)
        return reading

    def _judge(self, reading: Reading) -> None:
        self._readings.append(reading)
        if reading.error is not None:
            self._failures[reading.error] += 1
            return
        found, expected = order(reading.text, self._job.words), self._job.words
        if expected is None:
            return
        if found is None:
            self._failures["text is not the simulator's"] += 1
        elif found.flaws:
            self._failures[f"flawed text: {found}"] += 1

    def _result(self, opened: float, closed: float, spent: float) -> Result:
        sent = [each for each in self._readings if opened <= each.sent < closed]
        good = [each for each in sent if each.error is None]
        answered = [each for each in self._readings if each.error is None and opened <= (each.ended or 0) < closed]
        tokens = self._tokens if self._job.stream else sum(each.tokens for each in answered)
        return Result(
            window_s=closed - opened,
            tokens=tokens,
            answered=len(answered),
            sent=len(sent),
            ttft_ms=[1000 * each.ttft for each in good if each.ttft is not None],
            total_ms=[1000 * each.e2e for each in good if each.e2e is not None],
            gaps_ms=[1000 * max(each.gaps) for each in good if each.gaps],
            failures=dict(self._failures),
            cpu_share=spent / (closed - opened),
        )


async def _exchange(connection: Connection, request: bytes, sink: Sink, body: list[bytes]) -> str | None:
    """Return what went wrong, if anything; `body` holds the begin of the reply by then."""
    try:
        status = await connection.exchange(request, sink)
    except OSError as error:
        return type(error).__name__
    return None if status == 200 else f"status {status}: {b''.join(body)[:200].decode(errors='replace')}"


def _say(message: dict[str, object]) -> None:
    left = memoryview(orjson.dumps(message) + b"\n")
    while left:  # an unbuffered stdout writes what fits into the pipe, and says so
        left = left[os.write(sys.stdout.fileno(), left) :]


def main() -> None:
    """Run the job given as JSON."""
    job = Job(**orjson.loads(sys.argv[1]))
    os.set_blocking(sys.stdout.fileno(), True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(Driver(job, _say).run())
    _say({"event": "result", **asdict(result)})


if __name__ == "__main__":
    main()
