"""The loop of a worker, with handlers that misbehave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from deployments.core import config
from deployments.core.errors import Overloaded
from deployments.core.jobs import INGEST, Job, Jobs
from deployments.core.store import Store, TenantStore
from deployments.core.tables import JobRow
from deployments.worker.work import Means, Reason, Rejected, Runner
from tests.fakes import Clock, database, means, tenant, until

SETTINGS = config.Worker(poll_s=0.01, lease_s=60, max_attempts=3)

Act = Callable[[Store, Job], Awaitable[None]]


def file_of(job: Job) -> str:
    return job.subject.split("/")[1]


class Script:
    """A handler that does as a test says, then completes."""

    def __init__(self, act: Act | None = None, at_once: int = 1):
        self._act = act
        self.at_once = at_once
        self.lease_s = SETTINGS.lease_s
        self.runs: list[Job] = []
        self.undone: list[str] = []

    async def run(self, means: Means, job: Job) -> None:
        self.runs.append(job)
        if self._act:
            await self._act(means.store, job)
        nothing = np.zeros((0, 4), np.float32)
        await means.store.of(job.principal).complete(*job.subject.split("/"), "t", "", [], nothing, job)

    async def give_up(self, means: Means, job: Job, code: Reason, message: str) -> None:
        self.undone.append(file_of(job))
        await means.store.of(job.principal).fail(*job.subject.split("/"), code, message, job)

    async def lost(self, means: Means, job: Job) -> None:
        self.undone.append(file_of(job))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with database(tmp_path, clock) as store:
        yield store


@pytest.fixture
async def acme(store: Store) -> TenantStore:
    return store.of(await tenant(store, "acme"))


async def queued(mine: TenantStore, count: int = 1) -> tuple[str, list[str]]:
    store_id = (await mine.add_store("docs")).id
    files = [(await mine.add_file(f"{n}.md", "assistants", b"x")).id for n in range(count)]
    for file_id in files:
        await mine.add_member(store_id, file_id, {})
    return store_id, files


@asynccontextmanager
async def running(store: Store, script: Script, settings: config.Worker = SETTINGS) -> AsyncIterator[Runner]:
    script.lease_s = settings.lease_s
    runner = Runner(means(store), settings, {INGEST: script})
    task = asyncio.create_task(runner.run())
    yield runner
    runner.stop()
    async with asyncio.timeout(5):
        await task


async def lease(store: Store, seconds: float) -> Job | None:
    return await store.jobs.lease({INGEST: seconds})


async def status(mine: TenantStore, store_id: str, file_id: str) -> tuple[str, str | None]:
    member = await mine.member(store_id, file_id)
    return member.status, member.error_code


async def test_everything_that_waits_is_done_once_oldest_first(store: Store, acme: TenantStore) -> None:
    _, files = await queued(acme, 5)
    script = Script()
    async with running(store, script):
        await until(store.jobs.backlog, equals=0)
    assert [file_of(job) for job in script.runs] == sorted(files)


async def test_what_is_rejected_fails_at_once_with_its_reason(store: Store, acme: TenantStore) -> None:
    store_id, [file_id] = await queued(acme)

    async def reject(_: Store, __: Job) -> None:
        raise Rejected("unsupported_file", "no parser for .exe")

    script = Script(reject)
    async with running(store, script):
        await until(store.jobs.backlog, equals=0)
    member = await acme.member(store_id, file_id)
    assert (member.status, member.error_code, member.error_message) == ("failed", "unsupported_file", "no parser for .exe")
    assert (len(script.runs), script.undone) == (1, [file_id])


async def test_an_unexpected_error_is_tried_again_later_then_fails_without_a_word_about_the_inside(
    store: Store, acme: TenantStore, clock: Clock
) -> None:
    store_id, [file_id] = await queued(acme)

    async def crash(_: Store, __: Job) -> None:
        raise ValueError("secret detail")

    script = Script(crash)
    async with running(store, script):
        for attempts, pause in ((1, 2), (2, 4)):
            await until(lambda: len(script.runs), equals=attempts)
            await until(lambda: _leased_until(store, file_id), equals=int(clock()) + pause)
            clock.forward(pause)
        await until(store.jobs.backlog, equals=0)
    member = await acme.member(store_id, file_id)
    assert (member.status, member.error_code) == ("failed", "server_error")
    assert "secret" not in (member.error_message or "")
    assert ([work.attempt for work in script.runs], script.undone) == ([1, 2, 3], [file_id])


async def test_one_bad_file_holds_up_no_other(store: Store, acme: TenantStore) -> None:
    store_id, files = await queued(acme, 4)

    async def crash(_: Store, work: Job) -> None:
        if file_of(work) == sorted(files)[0]:
            raise ValueError("bad")

    async with running(store, Script(crash)):
        await until(store.jobs.backlog, equals=1)
    assert sorted([(await status(acme, store_id, file))[0] for file in files]) == ["completed"] * 3 + ["in_progress"]


async def test_a_stage_that_is_away_costs_no_attempt(store: Store, acme: TenantStore, clock: Clock) -> None:
    store_id, [file_id] = await queued(acme)
    away = 5

    async def overloaded(_: Store, __: Job) -> None:
        if len(script.runs) <= away:
            raise Overloaded("restarting", retry_after_s=2)

    script = Script(overloaded)
    async with running(store, script):
        for attempts in range(1, away + 1):
            await until(lambda: len(script.runs), equals=attempts)
            await until(lambda: _leased_until(store, file_id), equals=int(clock()) + 2)
            clock.forward(2)
        await until(store.jobs.backlog, equals=0)
    assert await status(acme, store_id, file_id) == ("completed", None)
    assert {work.attempt for work in script.runs} == {1}


async def test_work_whose_workers_died_fails_in_the_end(store: Store, acme: TenantStore, clock: Clock) -> None:
    store_id, [file_id] = await queued(acme)
    for _ in range(SETTINGS.max_attempts):
        assert await lease(store, 60)
        clock.forward(60)
    script = Script()
    async with running(store, script):
        await until(store.jobs.backlog, equals=0)
    assert await status(acme, store_id, file_id) == ("failed", "server_error")
    assert (script.runs, script.undone) == ([], [file_id])


async def test_a_file_deleted_meanwhile_leaves_nothing_behind(store: Store, acme: TenantStore) -> None:
    _, [file_id] = await queued(acme)

    async def delete(store: Store, work: Job) -> None:
        await store.of(work.principal).delete_file(file_of(work))

    script = Script(delete)
    async with running(store, script):
        await until(lambda: script.undone, equals=[file_id])
    assert await store.jobs.backlog() == 0


async def test_a_slow_handler_keeps_its_lease(store: Store, acme: TenantStore, clock: Clock) -> None:
    store_id, [file_id] = await queued(acme)

    async def slow(store: Store, work: Job) -> None:
        for _ in range(3):
            clock.forward(1)
            await until(lambda: _leased_until(store, file_of(work)), equals=int(clock()) + 2)
        assert await lease(store, 1) is None

    async with running(store, Script(slow), config.Worker(poll_s=0.01, lease_s=2, max_attempts=1)):
        await until(store.jobs.backlog, equals=0, within_s=20)
    assert await status(acme, store_id, file_id) == ("completed", None)


async def test_a_handler_that_lost_its_lease_is_ended(store: Store, acme: TenantStore) -> None:
    _, [file_id] = await queued(acme)
    ended = asyncio.Event()

    async def hang(store: Store, work: Job) -> None:
        await store.of(work.principal).delete_file(file_of(work))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    script = Script(hang)
    async with running(store, script, config.Worker(poll_s=0.01, lease_s=0.06)):
        await until(ended.is_set)
        await until(lambda: script.undone, equals=[file_id])


async def test_cancelled_work_is_given_back_uncounted(store: Store, acme: TenantStore) -> None:
    store_id, [file_id] = await queued(acme)

    async def hang(_: Store, __: Job) -> None:
        await asyncio.Event().wait()

    script = Script(hang)
    task = asyncio.create_task(Runner(means(store), SETTINGS, {INGEST: script}).run())
    await until(lambda: len(script.runs), equals=1)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    job = await lease(store, 60)
    assert job
    assert (job.subject, job.attempt) == (f"{store_id}/{file_id}", 1)


async def test_a_woken_worker_does_not_wait_for_its_poll(store: Store, acme: TenantStore) -> None:
    script = Script()
    async with running(store, script, config.Worker(poll_s=600)) as runner:
        await asyncio.sleep(0.05)
        await queued(acme)
        runner.wake()
        await until(store.jobs.backlog, equals=0)


async def test_a_database_that_is_away_does_not_end_the_loop(store: Store, acme: TenantStore) -> None:
    script = Script()

    class Flaky(Jobs):
        refusals = 3

        async def lease_all(self, kinds: Mapping[str, float], room: Mapping[str, int]) -> list[Job]:
            self.refusals -= 1
            if self.refusals >= 0:
                raise OSError("away")
            return await super().lease_all(kinds, room)

    store.jobs = Flaky(store)
    await queued(acme)
    async with running(store, script):
        await until(store.jobs.backlog, equals=0)
    assert store.jobs.refusals < 0


async def test_as_many_run_at_once_as_the_handler_says(store: Store, acme: TenantStore) -> None:
    await queued(acme, 7)
    now = most = 0
    full = asyncio.Event()

    async def slow(_: Store, __: Job) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            full.set()
        await full.wait()
        await asyncio.sleep(0.1)  # time for one too many to begin
        now -= 1

    async with running(store, Script(slow, at_once=3)):
        await until(store.jobs.backlog, equals=0)
    assert most == 3


async def test_a_job_that_was_begun_anew_is_lost_to_who_worked_on_it(store: Store, acme: TenantStore) -> None:
    store_id, [file_id] = await queued(acme)

    async def again(store: Store, job: Job) -> None:
        if len(script.runs) == 1:
            await store.of(job.principal).add_member(store_id, file_id, {"second": True})

    script = Script(again)
    async with running(store, script):
        await until(store.jobs.backlog, equals=0)
    assert [job.attempt for job in script.runs] == [1, 1]
    assert script.runs[0].fence < script.runs[1].fence


async def _leased_until(store: Store, file_id: str) -> int:
    async with store.session() as session:
        row = await session.scalar(select(JobRow).where(JobRow.subject.endswith(file_id)))
        return max(row.leased_until, row.run_at) // 1000 if row else 0


async def test_a_runner_tells_how_much_of_its_room_is_taken(store: Store, acme: TenantStore) -> None:
    await queued(acme, 3)
    go = asyncio.Event()

    async def wait(_: Store, __: Job) -> None:
        await go.wait()

    async with running(store, Script(wait, at_once=4)) as runner:
        await until(lambda: runner.busy, equals=0.75)
        go.set()
        await until(lambda: runner.busy, equals=0.0)
