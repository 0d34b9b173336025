"""The generator as a Serve deployment: each replica calls every backend, and may have one of its own."""

import asyncio
import time
from collections.abc import Callable
from random import Random

from redis.exceptions import RedisError

from deployments.core.collector import relax
from deployments.core.config import Settings
from deployments.core.follow import STOP_CHANNEL, receive
from deployments.core.ledger import Ledger
from deployments.core.models import PRIMARY, Upstream
from deployments.core.outbox import RETRY_S, Outbox
from deployments.core.ports import Relay
from deployments.core.service import begin
from deployments.core.store import open_store
from deployments.core.timings import working
from deployments.core.types import Generation, Outcome
from deployments.core.valkey import connect
from deployments.core.window import Window
from deployments.generator.backends import Backend
from deployments.generator.chain import Chain
from deployments.generator.llama import LlamaServer
from deployments.generator.relay import LOOK_BACK_S, Relays


class Generator:
    """Implements Generates on the far side of a handle."""

    def __init__(self, settings: Settings, filters: Callable[[Generation], Relay]):
        chosen = self._settings = settings.generator
        begin("generator", settings)
        relax()
        self._llama = None if chosen.base_url else LlamaServer(chosen)
        self._valkey = connect(settings.valkey)
        outbox = Outbox(connect(settings.valkey), settings.log)
        self._store = open_store(settings)
        self._ledger = Ledger(self._store)
        self._chain = Chain(self._connect, chosen, Random(), self._ledger.note)
        self._relays = Relays(self._chain, outbox, filters)
        self._waits = Window(LOOK_BACK_S)
        self._beside: list[asyncio.Task[None]] = []

    async def generate(self, generation: Generation, asked_at: float, trace: str = "") -> Outcome:
        """Write one answer into its log; the contract is that of `core.ports.Generates`.

        `asked_at` is in Unix seconds by the caller's clock, `trace` the caller's span.
        """
        self._waits.feed(time.monotonic(), max(time.time() - asked_at, 0))
        with working("generate", "headrace.relay", trace):
            return await self._relays.generate(generation)

    def _connect(self, upstream: Upstream) -> Backend:
        """A client of a backend; one without an address is the embedded one."""
        if self._llama and not upstream.base_url:
            return Backend(self._llama.base_url, self._llama.api_key, upstream.model, self._settings, embedded=True)
        key, grammar = self._settings.bearer(upstream), upstream.name == PRIMARY
        return Backend(upstream.base_url, key, upstream.model, self._settings, grammar=grammar)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve hears every second, and the policy decides by; slots in use it counts itself."""
        now_s = time.monotonic()
        return {"wait_s": self._waits.quantile(0.95, now_s), "ttft_s": self._relays.ttft_s.quantile(0.95, now_s)}

    async def ping(self) -> None:
        """Answer."""

    async def check_health(self) -> None:
        """Starts what runs beside the calls at the first check; raises when the embedded model server has ended."""
        if self._llama and not self._llama.alive:
            raise RuntimeError("the embedded model server has ended")
        if not self._beside:
            self._chain.warm()
            self._beside = [asyncio.create_task(one) for one in (self._listen(), self._ledger.run(), self._chain.pulse())]

    async def _listen(self) -> None:
        while True:
            try:
                await receive(self._valkey, STOP_CHANNEL, asyncio.Event(), lambda name: self._relays.stop(name.decode()))
            except (RedisError, OSError):
                await asyncio.sleep(RETRY_S)

    async def __del__(self) -> None:
        """Serve awaits this when the replica ends."""
        if self._llama:
            self._llama.close()
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self._ledger.flush()
        await self._store.close()
