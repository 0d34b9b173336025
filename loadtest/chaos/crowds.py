"""Clients that misbehave beside the load: leave early, read slowly, send slowly, sit idle, flood, or come back all at once."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx2
import orjson
from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode

from loadtest.chaos.answer import Answer, Fate
from loadtest.chaos.load import BROKEN, client, socket
from loadtest.chaos.proxy import Proxy, Trouble
from loadtest.chaos.scene import Scene, beside, worst
from loadtest.chaos.stack import FLOOD, FLOOD_WORDS, LONG, LONG_WORDS, PACE, SLOTS, SLOW, Stack
from loadtest.figures import percentile

HEALTHY = 0.2
"""How much later the others' first tokens may come beside idle sockets and slow senders."""

CLOSED_S = 10.0
"""A request that is not sent to its end is closed after so long."""

LATE = "server_overloaded"
"""The code of a refusal that comes after the stream has begun."""

LEAVERS_PER_S = 20
BATCH = 50
"""WebSockets that are opened at once."""


async def leave(scene: Scene) -> None:
    """Clients close their connection in mid-answer; how long the backend went on."""
    closed = await _left(scene, words=20, after_s=5.0)
    await asyncio.sleep(1)
    stats = [await scene.stack.stats(each) for each in (scene.stack.bad, scene.stack.good)]
    ends = {each["marker"]: each["ended"] for stat in stats for each in stat["ended"] if each["reason"] == "cancelled"}
    running = {each["marker"] for stat in stats for each in stat["live"]}
    late = [ends[marker] - when for marker, when in closed.items() if marker in ends]
    scene.measure("cancelled at the backend", len(late))
    scene.measure("cancel p99 (s)", percentile(late, 99) if late else float("inf"), 0.1)
    scene.measure("orphans of a burst", len(running & closed.keys()), 0)


async def leave_early(scene: Scene) -> None:
    """Clients leave before the backend has said anything."""
    closed = await _left(scene, words=0, after_s=0.3, model=SLOW)
    scene.strike()
    await asyncio.sleep(1)
    stats = [await scene.stack.stats(each) for each in (scene.stack.bad, scene.stack.good)]
    running = {each["marker"] for stat in stats for each in stat["live"]}
    scene.measure("orphans of a burst", len(running & closed.keys()), 0)


async def _left(scene: Scene, words: int, after_s: float, model: str = "headrace-direct") -> dict[str, float]:
    """Ask a model, and leave behind so many words or so many seconds; when each client closed, by the marker of its question."""
    closed: dict[str, float] = {}

    async def one(number: int) -> None:
        await asyncio.sleep(number / LEAVERS_PER_S)
        marker = f"leaver-{time.monotonic():.6f}-{number}"
        content = f"How does a mill work? [[marker:{marker}]]"
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": content}]}
        with suppress(*BROKEN, TimeoutError):
            async with (
                asyncio.timeout(after_s),
                scene.stack.http.stream("POST", f"{scene.stack.endpoint.url}/chat/completions", json=body) as reply,
            ):
                seen = 0
                async for line in reply.aiter_lines():
                    seen += '"content":"' in line
                    if words and seen >= words:
                        closed[marker] = time.monotonic()
                        return
        closed[marker] = time.monotonic()

    await asyncio.gather(*(one(number) for number in range(scene.size)))
    return closed


async def read_slowly(scene: Scene) -> None:
    """Clients read a byte a second of long answers; what the gateway keeps for them, and how the others fare."""
    gateway = scene.stack.process("gateway")
    rss = gateway.memory_info().rss
    scene.strike()
    async with slow_readers(scene.stack, scene.size, FLOOD, 2):
        before, after = await beside(scene, 20)
        grown = (gateway.memory_info().rss - rss) / 1024 / max(scene.size, 1)
    scene.measure("gateway's memory a reader (KiB)", grown, 256)
    scene.measure("others' TTFT p99, times", after / before, 1.1)


@asynccontextmanager
async def slow_readers(stack: Stack, count: int, model: str, per_s: float) -> AsyncIterator[None]:
    """So many clients that read a byte a second of a model's answers, of whom `per_s` more come each second."""

    async def one(http: httpx2.AsyncClient, url: str, number: int) -> None:
        await asyncio.sleep(number / per_s)
        body = {"model": model, "stream": True, "max_tokens": FLOOD_WORDS, "messages": [{"role": "user", "content": "Tell me all."}]}
        with suppress(*BROKEN):
            async with http.stream("POST", url, json=body, timeout=httpx2.Timeout(None)) as reply:
                async for _ in reply.aiter_raw():
                    pass

    async with Proxy(stack.port) as proxy, client(stack.endpoint.key) as http:
        proxy.down = Trouble(bytes_per_s=1)
        tasks = [asyncio.create_task(one(http, f"http://127.0.0.1:{proxy.port}/v1/chat/completions", each)) for each in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def send_slowly(scene: Scene) -> None:
    """Clients send half a header, or half a body; when they are closed, and how the others fare."""
    scene.strike()
    sending = asyncio.create_task(slow_senders(scene.stack, scene.size))
    before, after = await beside(scene, 12)
    scene.measure("longest open (s)", worst(await sending), CLOSED_S)
    scene.measure("others' TTFT p99, times", after / before, 1 + HEALTHY)


async def slow_senders(stack: Stack, count: int) -> list[float]:
    """So many requests that stop half-way, half of them in the header; how long each was kept open, in seconds."""
    header = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer "
    body = header + stack.endpoint.key.encode() + b'\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"model":'

    async def one(number: int) -> float:
        await asyncio.sleep(number * 0.002)
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        try:
            writer.write(body if number % 2 else header)
            async with asyncio.timeout(3 * CLOSED_S):
                while await reader.read(1024):
                    pass
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()
        return time.monotonic() - began

    return await asyncio.gather(*(one(number) for number in range(count)))


async def sit_idle(scene: Scene) -> None:
    """Idle WebSockets: what each costs, whether one is dropped, how the others fare."""
    gateway = scene.stack.process("gateway")
    rss, struck = gateway.memory_info().rss, time.monotonic()
    async with idle(scene.stack, scene.size) as sockets:
        scene.struck = struck
        before, after = await beside(scene, 20)
        grown = (gateway.memory_info().rss - rss) / 1024 / max(len(sockets), 1)
        dropped = sum(each.close_code is not None for each in sockets) + scene.size - len(sockets)
    scene.measure("dropped", dropped, 0)
    scene.measure("gateway's memory a socket (KiB)", grown, 25)
    scene.measure("others' TTFT p99, times", after / before, 1 + HEALTHY)


@asynccontextmanager
async def idle(stack: Stack, count: int) -> AsyncIterator[list[ClientConnection]]:
    """So many WebSockets on which nothing is said, opened some at a time."""
    async with AsyncExitStack() as held:
        sockets: list[ClientConnection] = []

        async def one() -> None:
            with suppress(*BROKEN, TimeoutError):
                sockets.append(await held.enter_async_context(socket(stack.endpoint.url, stack.endpoint.key, open_timeout=30)))

        for start in range(0, count, BATCH):
            await asyncio.gather(*(one() for _ in range(min(BATCH, count - start))))
        yield sockets


async def all_slow(scene: Scene) -> None:
    """Slow senders, idle WebSockets and slow readers at once: twenty parts of the first and second to one of the third."""
    async with idle(scene.stack, scene.size) as sockets, slow_readers(scene.stack, scene.size // 20, LONG, 4):
        scene.strike()
        sending = asyncio.create_task(slow_senders(scene.stack, scene.size))
        before, after = await beside(scene, 20)
        scene.measure("longest open (s)", worst(await sending), CLOSED_S)
        scene.measure("idle dropped", sum(each.close_code is not None for each in sockets) + scene.size - len(sockets), 0)
    scene.measure("others' TTFT p99, times", after / before, 1 + HEALTHY)


async def flood(scene: Scene) -> None:
    """WebSockets send a frame of 16 MiB, and many tiny frames."""
    gateway = scene.stack.process("gateway")
    rss, scene.struck = gateway.memory_info().rss, time.monotonic()
    large = Frame(Opcode.TEXT, b"x" * (16 << 20), True).serialize(mask=True)
    tiny = Frame(Opcode.TEXT, b"{}", True).serialize(mask=True) * 500
    codes = await asyncio.gather(_flooded(scene.stack, [large]), _flooded(scene.stack, [tiny] * (scene.size // 500)))
    scene.measure("not closed with 1008 or 1009", sum(code not in (1008, 1009, 1006) for code in codes), 0)
    scene.measure("gateway's memory (MB)", (gateway.memory_info().rss - rss) / 1e6, 50)


async def _flooded(stack: Stack, pieces: list[bytes]) -> int | None:
    async with socket(stack.endpoint.url, stack.endpoint.key, max_queue=None) as connection:
        for piece in pieces:
            if connection.transport.is_closing():
                break
            connection.transport.write(piece)
            await asyncio.sleep(0.001)
        async with asyncio.timeout(30):
            await connection.wait_closed()
        return connection.close_code


async def overload(scene: Scene) -> None:
    """Ten times as much as can be answered; the load itself is it."""
    since = time.monotonic()
    await asyncio.sleep(12)
    end = time.monotonic()
    whole = [each for each in scene.load.answers if each.fate is Fate.WHOLE and each.ended and since + 4 <= each.ended < end]
    best = SLOTS / ((PACE.ttft_ms + PACE.itl_ms * (LONG_WORDS - 1)) / 1000)
    scene.measure("goodput of the best", len(whole) / (end - since - 4) / best, 0.85, at_least=True)
    ended = [each for each in scene.begun(since, end) if each.settled or each.status != 200]
    scene.measure("neither whole nor refused", sum(each.fate is not Fate.WHOLE and not _refused(each) for each in ended), 0)
    scene.measure("admitted TTFT p99 (s)", scene.ttft(99, since, end))


def _refused(answer: Answer) -> bool:
    """Whether it was told when to come back: by a status, or by the only event of a stream that had waited."""
    return answer.fate is Fate.REFUSED or (answer.error == LATE and answer.retry_after and answer.first is None)


async def come_back(scene: Scene) -> None:
    """The gateway is killed under many WebSockets, whose clients connect again, each after a random pause that grows."""
    count, struck, back = scene.size, asyncio.Event(), list[float]()

    async def one() -> None:
        pause = 1.0
        async with socket(scene.stack.endpoint.url, scene.stack.endpoint.key, open_timeout=30) as connection:
            await connection.wait_closed()
        while True:
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(pause * 2, 8.0)
            with suppress(*BROKEN, TimeoutError):
                async with socket(scene.stack.endpoint.url, scene.stack.endpoint.key, open_timeout=30) as connection:
                    await connection.send(orjson.dumps({"type": "headrace:none"}).decode())
                    await connection.recv()
                    back.append(time.monotonic())
                    await struck.wait()
                    return

    tasks: list[asyncio.Task[None]] = []
    for _ in range(0, count, BATCH):
        tasks += [asyncio.create_task(one()) for _ in range(BATCH)]
        await asyncio.sleep(0.5)
    await asyncio.sleep(3)
    scene.stack.process("gateway").kill()
    scene.strike()
    while len(back) < len(tasks) and time.monotonic() < scene.struck + 60:
        await asyncio.sleep(0.1)
    struck.set()
    for task in tasks:
        task.cancel() if len(back) < len(tasks) else None
    await asyncio.gather(*tasks, return_exceptions=True)
    scene.measure("not back", len(tasks) - len(back), 0)
    scene.measure("last socket back (s)", worst(back) - scene.struck, 30)
