"""Many files put into a store at once, and stores that are changed and deleted."""

import asyncio
import sys
import time

import numpy as np
import pytest
from sqlalchemy import func, insert, select

from deployments.core.errors import HeadraceError, NotFound
from deployments.core.ids import new_id
from deployments.core.jobs import INGEST, LeaseLost
from deployments.core.members import Placing
from deployments.core.store import Store, TenantStore
from deployments.core.tables import BatchFileRow, BatchRow, FileRow, JobRow, MemberRow, PassageRow, StoreRow
from deployments.core.types import Chunk

TEXT = "First part. Second part."
CHUNKS = [Chunk(0, TEXT[:11], ("Title",), 0, 11, 3), Chunk(1, TEXT[12:], (), 12, 24, 3)]
VECTORS = np.eye(2, 4, dtype=np.float32)


async def made(mine: TenantStore, count: int) -> tuple[str, list[str]]:
    files = [(await mine.add_file(f"{n}.md", "assistants", b"# Title")).id for n in range(count)]
    return (await mine.add_store("docs")).id, files


async def rows(store: Store, *tables: type) -> list[int]:
    async with store.session() as session:
        return [await session.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


async def test_a_file_that_is_not_there_fails_and_the_others_go_on(acme: TenantStore, other: TenantStore, store: Store) -> None:
    store_id, files = await made(acme, 2)
    foreign, never = (await other.add_file("b.md", "assistants", b"x")).id, new_id("file-")
    wanted = [files[0], foreign, files[1], never]
    batch = await acme.batches.add(store_id, dict.fromkeys(wanted, Placing({"kind": "doc"}, 120)))
    assert (batch.status, batch.counts) == ("in_progress", {"in_progress": 2, "failed": 2})
    for _ in files:
        job = await store.jobs.lease({INGEST: 60})
        assert job
        await acme.complete(store_id, job.subject.partition("/")[2], "Title", TEXT, CHUNKS, VECTORS, job)
    assert await store.jobs.lease({INGEST: 60}) is None
    batch = await acme.batches.get(store_id, batch.id)
    assert (batch.status, batch.counts) == ("completed", {"completed": 2, "failed": 2})
    listed = {one.file_id: one for one in await acme.batches.files(store_id, batch.id)}
    assert set(listed) == set(wanted)
    assert (listed[files[0]].attributes, listed[files[0]].chunk_tokens) == ({"kind": "doc"}, 120)
    assert (listed[foreign].status, listed[foreign].error_code) == ("failed", "invalid_file")
    told = [(listed[one].error_message or "").replace(one, "?") for one in (foreign, never)]
    assert told == ["no file with the id '?'"] * 2
    assert {one.file_id for one in await acme.members(store_id)} == set(files)


async def test_a_batch_of_what_is_not_there_has_failed(acme: TenantStore) -> None:
    store_id, _ = await made(acme, 0)
    assert (await acme.batches.add(store_id, {new_id("file-"): Placing()})).status == "failed"


async def test_pages_of_a_batch_hold_every_file_once_and_only_those_of_a_status(acme: TenantStore) -> None:
    store_id, files = await made(acme, 5)
    batch = await acme.batches.add(store_id, dict.fromkeys(files, Placing()))
    await acme.fail(store_id, files[1], "invalid_file", "no text")
    await acme.remove_member(store_id, files[2])
    seen: list[str] = []
    while page := await acme.batches.files(store_id, batch.id, after=seen[-1] if seen else "", limit=2, newest_first=True):
        seen += [one.file_id for one in page]
    assert seen == sorted(files, reverse=True)
    assert [one.file_id for one in await acme.batches.files(store_id, batch.id, status="failed")] == [files[1]]
    assert [one.file_id for one in await acme.batches.files(store_id, batch.id, status="cancelled")] == [files[2]]
    assert (await acme.batches.get(store_id, batch.id)).counts == {"in_progress": 3, "failed": 1, "cancelled": 1}


async def test_cancelling_calls_off_what_is_not_done_and_names_what_the_index_may_hold(acme: TenantStore, store: Store) -> None:
    store_id, files = await made(acme, 4)
    await acme.add_member(store_id, files[3], {})
    job = await store.jobs.lease({INGEST: 60})
    assert job
    await acme.complete(store_id, files[3], "Title", TEXT, CHUNKS, VECTORS, job)
    batch = await acme.batches.add(store_id, dict.fromkeys(files, Placing()))
    done, running = await store.jobs.lease({INGEST: 60}), await store.jobs.lease({INGEST: 60})
    assert done
    assert running
    await acme.complete(store_id, finished := done.subject.partition("/")[2], "Title", TEXT, CHUNKS, VECTORS, done)
    begun = {running.subject.partition("/")[2], files[3]} - {finished}
    assert await acme.batches.cancel(store_id, batch.id) == sorted(begun)
    batch = await acme.batches.get(store_id, batch.id)
    assert (batch.status, batch.counts) == ("cancelled", {"completed": 1, "cancelled": 3})
    assert await store.jobs.lease({INGEST: 60}) is None
    with pytest.raises(LeaseLost):
        await acme.complete(store_id, running.subject.partition("/")[2], "Title", TEXT, CHUNKS, VECTORS, running)
    assert await rows(store, PassageRow) == [2]
    assert await acme.batches.cancel(store_id, batch.id) == []


async def test_two_thousand_files_are_put_there_in_one_go(acme: TenantStore, store: Store) -> None:
    store_id, files = (await acme.add_store("docs")).id, [new_id("file-") for _ in range(1980)]
    kept = {"purpose": "assistants", "sha256": "", "size": 1, "created_at": 1, "data_key": b"", "content": b"", "filename": "a.md"}
    async with store.write() as session:
        tenant = await session.scalar(select(StoreRow.tenant_id).where(StoreRow.id == store_id))
        await session.execute(insert(FileRow), [kept | {"id": one, "tenant_id": tenant} for one in files])
    wanted = dict.fromkeys([*files, *(new_id("file-") for _ in range(20))], Placing({"kind": "doc"}))
    began = time.perf_counter()
    batch = await acme.batches.add(store_id, wanted)
    took_s = time.perf_counter() - began
    sys.stdout.write(f"{store.engine.dialect.name}: a batch of 2000 files took {1000 * took_s:.0f} ms\n")
    assert took_s < 5
    assert batch.counts == {"in_progress": 1980, "failed": 20}
    assert await store.jobs.backlog(INGEST) == 1980


async def test_a_batch_of_another_tenant_or_store_is_not_there(acme: TenantStore, other: TenantStore) -> None:
    store_id, files = await made(acme, 1)
    second, theirs = (await acme.add_store("second")).id, (await other.add_store("theirs")).id
    batch = await acme.batches.add(store_id, {files[0]: Placing()})
    for mine, place in ((other, store_id), (other, theirs), (acme, second)):
        for call in (mine.batches.get, mine.batches.files, mine.batches.cancel):
            with pytest.raises(NotFound):
                await call(place, batch.id)
    with pytest.raises(NotFound):
        await other.batches.add(store_id, {files[0]: Placing()})
    assert (await acme.batches.get(store_id, batch.id)).counts == {"in_progress": 1}


async def test_nothing_is_left_of_a_deleted_store_but_its_files(acme: TenantStore, store: Store) -> None:
    store_id, files = await made(acme, 3)
    kept = (await acme.add_store("kept", wanted={files[0]: Placing()})).id
    await acme.batches.add(store_id, dict.fromkeys(files, Placing()))
    running = await store.jobs.lease({INGEST: 60})
    await acme.complete(store_id, files[1], "Title", TEXT, CHUNKS, VECTORS)
    await acme.delete_store(store_id)
    assert await rows(store, StoreRow, MemberRow, BatchRow, BatchFileRow, PassageRow, FileRow) == [1, 1, 0, 0, 0, 3]
    assert [one.file_id for one in await acme.members(kept)] == [files[0]]
    async with store.session() as session:
        left = await session.scalars(select(JobRow.subject).where(JobRow.status.in_(("queued", "running"))))
        assert list(left) == [f"{kept}/{files[0]}"]
    assert running is None or running.subject.startswith(kept) or not await store.jobs.extend(running, 60)
    with pytest.raises(NotFound):
        await acme.delete_store(store_id)


async def test_a_store_may_be_filled_completed_and_deleted_at_once(acme: TenantStore, store: Store) -> None:
    for _ in range(8):
        store_id, files = await made(acme, 3)
        await acme.add_member(store_id, files[0], {})
        job = await store.jobs.lease({INGEST: 60})
        ended = await asyncio.gather(
            acme.batches.add(store_id, dict.fromkeys(files, Placing())),
            acme.complete(store_id, files[0], "Title", TEXT, CHUNKS, VECTORS, job),
            acme.add_member(store_id, files[2], {}),
            acme.delete_store(store_id),
            acme.describe(store_id, files[0], {"a": 1}),
            return_exceptions=True,
        )
        assert [error for error in ended if isinstance(error, BaseException) and not isinstance(error, HeadraceError)] == []
        assert await rows(store, MemberRow, BatchRow, PassageRow) == [0, 0, 0]
        assert await store.jobs.backlog() == 0


async def test_a_store_with_a_file_that_is_not_there_is_not_made(acme: TenantStore, other: TenantStore) -> None:
    _, files = await made(acme, 1)
    before = len(await acme.stores())
    with pytest.raises(NotFound):
        await acme.add_store("docs", wanted={files[0]: Placing(), (await other.add_file("b", "assistants", b"x")).id: Placing()})
    assert len(await acme.stores()) == before


async def test_other_attributes_of_a_file_being_read_have_it_read_once_more(acme: TenantStore, store: Store) -> None:
    store_id, [file_id] = await made(acme, 1)
    await acme.add_member(store_id, file_id, {"a": 1})
    job = await store.jobs.lease({INGEST: 60})
    assert job
    before = await acme.corpus.version(store_id)
    assert (await acme.describe(store_id, file_id, {"a": 2})).attributes == {"a": 2}
    assert await acme.corpus.version(store_id) > before
    await acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS, job)
    again = await store.jobs.lease({INGEST: 60})
    assert again
    await acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS, again)
    await acme.describe(store_id, file_id, {})
    assert await store.jobs.lease({INGEST: 60}) is None


async def test_what_was_ingested_comes_back_with_its_vectors(acme: TenantStore) -> None:
    store_id, [file_id] = await made(acme, 1)
    second = (await acme.add_store("second", wanted={file_id: Placing()})).id
    await acme.add_member(store_id, file_id, {})
    await acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS)
    await acme.complete(second, file_id, "Title", TEXT, CHUNKS[:1], VECTORS[1:])
    for place, chunks, vectors in ((store_id, CHUNKS, VECTORS), (second, CHUNKS[:1], VECTORS[1:])):
        kept, those = await acme.filed(place, file_id)
        assert kept == chunks
        assert np.array_equal(those, vectors)
