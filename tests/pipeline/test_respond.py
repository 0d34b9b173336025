"""Background responses, as a worker answers them."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from deployments.core.canaries import Canaries, Variation
from deployments.core.choices import Choice
from deployments.core.config import Settings
from deployments.core.errors import HeadraceError
from deployments.core.follow import Hub
from deployments.core.jobs import RESPOND, Job, LeaseLost
from deployments.core.outbox import Outbox
from deployments.core.responses import StoredResponse
from deployments.core.run import Run
from deployments.core.store import Store
from deployments.core.types import Turn
from deployments.gateway.responses import ResponseRequest
from deployments.worker.work import Means
from pipeline.respond import Respond
from tests.fakes import OpenGate, database, tenant
from tests.house import Script


class Overtaken(Script):
    """A flow whose worker stands still for so long that another takes the job, and which then fails."""

    async def answer(self, turn: Turn, run: Run) -> None:
        run.writer.open()
        await run.writer.drain()
        async with run.store.write() as session:
            await run.store.jobs.enqueue(session, turn.principal.tenant, RESPOND, turn.id)
        await run.keep((*run.writer.written, run.writer.failed(HeadraceError("too late"))))


@pytest.fixture
async def means(valkey: Redis, tmp_path: Path) -> AsyncIterator[Means]:
    async with database(tmp_path, time.time) as store:
        hub = Hub(valkey, Settings().log)
        outbox = Outbox(valkey, Settings().log, local=hub)
        hub.start()
        yield Means(store, hub, outbox, OpenGate(store, Settings()))
        await hub.close()
        await outbox.close()


async def asked(store: Store, *choices: Choice) -> None:
    """A background response that waits for a worker."""
    caller = await tenant(store, "acme")
    request = ResponseRequest.model_validate({"model": "headrace", "input": "Hi", "background": True})
    plan = request.plan(caller, Settings(), time.time(), None)
    body = msgspec.json.encode(plan.snapshot)
    made = StoredResponse(plan.turn.id, "queued", True, plan.turn.created, None, None, plan.asked, body)
    await store.of(caller).responses.add(made, plan.inputs, msgspec.msgpack.encode(msgspec.structs.replace(plan.turn, choices=choices)))


async def take(store: Store) -> Job:
    job = await store.jobs.lease({RESPOND: 5})
    assert job
    return job


async def test_a_worker_that_was_overtaken_leaves_the_outcome_to_the_other(means: Means) -> None:
    await asked(means.store)
    late = await take(means.store)
    with pytest.raises(LeaseLost):
        await Respond(Settings(), Overtaken()).run(means, late)
    responses = means.store.of(late.principal).responses
    assert (await responses.get(late.subject)).status == "in_progress"
    await Respond(Settings(), Script()).run(means, await take(means.store))
    stored = await responses.get(late.subject)
    assert stored.status == "completed"
    assert b"Hello world." in stored.body
    assert await means.store.jobs.backlog() == 0


async def test_what_a_canary_picked_that_has_ended_meanwhile_is_dropped(means: Means) -> None:
    canaries = Canaries(means.store, "test")
    begun = [await canaries.start(Variation(kind="retrieval", subject=name, value="6")) for name in ("limit", "context_tokens")]
    runs, ended = (Choice("retrieval", one.subject, "6", one.id, "variant", 0.1, "s") for one in begun)
    await asked(means.store, runs, ended, Choice("prompt", "grounded", "2"))
    await canaries.stop(begun[1].id)
    flow = Script()
    await Respond(Settings(), flow).run(means, await take(means.store))
    assert flow.turns[0].choices == (runs, Choice("prompt", "grounded", "2"))
