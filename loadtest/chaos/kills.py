"""Faults of the stack's own processes: killed, stopped for a while, out of file descriptors, deployed again."""

import asyncio
import itertools
import resource
import signal
import sys
import time
from collections.abc import Awaitable
from typing import Any, cast

import psutil
from redis.asyncio import Redis

from loadtest.bench.processes import Stuck
from loadtest.chaos.answer import Kind
from loadtest.chaos.scene import Inject, Scene
from loadtest.chaos.stack import Stack, until

REPLACED_S = 90.0
"""What was killed and has no successor by then has none."""

SLOW_S = 5.0
"""How long Valkey does not answer."""

_GCS = "--gcs-address="
"""Before the address of the cluster in the command line of its raylet."""

REFUSING_S = 3.0
"""How long Valkey refuses what it is asked."""

SPARE_FILES = 10
"""File descriptors left to a gateway that runs out of them."""


def kill(*parts: str) -> Inject:
    """`kill -9` of one process of a part; of several, of one part after the other in turn."""
    turn = itertools.cycle(parts)

    async def inject(scene: Scene) -> None:
        part = next(turn)
        old = {process.pid for process in scene.stack.processes(part)}
        scene.stack.process(part).kill()
        scene.strike()

        async def replaced() -> bool:
            return any(process.pid not in old for process in await asyncio.to_thread(scene.stack.processes, part))

        scene.measure("another process after (s)", await until(replaced, f"another process of {part}", REPLACED_S))

    return inject


async def stop_valkey(scene: Scene) -> None:
    """Valkey hangs for some seconds, and goes on."""
    victim = scene.stack.process("Valkey")
    since = time.monotonic()
    victim.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(SLOW_S)
    finally:
        victim.send_signal(signal.SIGCONT)
        scene.strike()
    await asyncio.sleep(1)
    before, beside = scene.ttft(99, 0.0, since), scene.ttft(99, since, scene.struck)
    scene.measure("added TTFT p99 (s)", beside - before, 0.1)


def refusing(*, on: tuple[str, ...], off: tuple[str, ...]) -> Inject:
    """Valkey refuses writes between two commands of its administrator."""

    async def inject(scene: Scene) -> None:
        async with _valkey(scene.stack) as valkey:
            since = time.monotonic()
            await _command(valkey, on)
            try:
                await asyncio.sleep(REFUSING_S)
            finally:
                await _command(valkey, off)
                scene.strike()
        await asyncio.sleep(1)
        before, beside = scene.ttft(99, 0.0, since), scene.ttft(99, since, scene.struck)
        scene.measure("added TTFT p99 (s)", beside - before, 0.1)

    return inject


def _valkey(stack: Stack) -> Redis:
    password = (stack.data / "valkey-admin.key").read_text()
    return Redis(unix_socket_path=str(stack.data / "run" / "valkey" / "valkey.sock"), username="admin", password=password)


async def _command(valkey: Redis, words: tuple[str, ...]) -> None:
    await cast(Awaitable[Any], valkey.execute_command(*words))


async def keys(stack: Stack) -> int:
    """How many keys Valkey holds."""
    async with _valkey(stack) as valkey:
        return await valkey.dbsize()


async def exhaust_files(scene: Scene) -> None:
    """The gateway may open hardly any more files while forty clients a second come; then it may again."""
    gateway = scene.stack.process("gateway")
    soft, hard = gateway.rlimit(psutil.RLIMIT_NOFILE)
    gateway.rlimit(resource.RLIMIT_NOFILE, (gateway.num_fds() + SPARE_FILES, hard))
    try:
        for _ in range(120):
            scene.load.ask(Kind.CHAT)
            await asyncio.sleep(0.025)
    finally:
        gateway.rlimit(resource.RLIMIT_NOFILE, (soft, hard))
        scene.strike()
    await asyncio.sleep(1)
    same = gateway.is_running() and gateway in scene.stack.processes("gateway")
    scene.measure("gateway crashed", 0 if same else 1, 0)


async def reload_edge(scene: Scene) -> None:
    """The edge takes its settings anew."""
    await run([sys.executable, "-m", "pipeline.cli", "reload"], psutil.Process(scene.stack.endpoint.pid).environ())
    scene.strike()


async def redeploy(scene: Scene) -> None:
    """Serve is given the application again, with another health-check period of every stage: a change that restarts nothing."""
    driver = scene.stack.process("driver")
    plan = scene.stack.data / "run" / "plan.json"
    named = [word for word in scene.stack.process("raylet").cmdline() if word.startswith(_GCS)]
    await run([sys.executable, "-m", "loadtest.chaos.redeploy", str(plan), named[0].removeprefix(_GCS)], driver.environ())
    scene.strike()


async def run(words: list[str], environment: dict[str, str]) -> None:
    """Run a command to its end; Stuck, with what it said, when it fails."""
    pipe, out = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(*words, env=environment, stdout=pipe, stderr=out)
    said, _ = await process.communicate()
    if process.returncode:
        raise Stuck(f"{' '.join(words[1:4])} failed: {said.decode(errors='replace')[-500:]}")
