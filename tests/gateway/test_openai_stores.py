"""Files, uploads, vector stores and batches as OpenAI's own client uses them, with a worker that ingests."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from deployments.core.config import Gateway, Settings, Worker
from deployments.core.jobs import EXPIRE, INGEST
from deployments.worker.work import Runner
from pipeline.expire import Expire
from pipeline.jobs import Ingest
from tests.fakes import Desk, database, means, until

WHEEL = b"# The wheel\n\nWater turns the wheel.\n"
RACE = b"# The race\n\nThe race brings water to the wheel.\n"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path, time.time) as store:
        settings = Settings(data_dir=tmp_path, gateway=Gateway(max_upload_bytes=1 << 20), worker=Worker(poll_s=0.02))
        desk = Desk(store, settings)
        handlers = {INGEST: Ingest(settings, desk.embeds, desk.retrieves), EXPIRE: Expire(settings, desk.retrieves)}
        working = asyncio.create_task(Runner(means(store), settings.worker, handlers).run())
        yield desk
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


@pytest.fixture
async def acme(desk: Desk) -> AsyncOpenAI:
    return desk.openai(await desk.key("acme"))


async def search(client: AsyncOpenAI, store_id: str, query: str = "what turns the wheel?", **more: Any) -> list[str]:
    return [found.filename async for found in client.vector_stores.search(store_id, query=query, **more)]


async def test_a_file_is_uploaded_polled_searched_and_deleted(acme: AsyncOpenAI) -> None:
    store = await acme.vector_stores.create(name="docs", metadata={"team": "mill"}, description="The mill's papers")
    attributes: Any = {"kind": "guide", "year": 1820}
    member = await acme.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("wheel.md", WHEEL), attributes=attributes)
    assert (member.status, member.last_error, member.attributes) == ("completed", None, attributes)
    assert await search(acme, store.id) == ["wheel.md"]
    assert await search(acme, store.id, filters={"type": "lt", "key": "year", "value": 1800}) == []
    pieces = [piece.text async for piece in acme.vector_stores.files.content(member.id, vector_store_id=store.id)]
    assert "Water turns the wheel." in "".join(piece or "" for piece in pieces)
    await acme.files.delete(member.id)
    assert await search(acme, store.id) == []


async def test_a_batch_is_uploaded_and_polled_and_each_file_has_its_outcome(acme: AsyncOpenAI) -> None:
    store = await acme.vector_stores.create(name="docs")
    files = [("wheel.md", WHEEL), ("empty.md", b""), ("zip.md", b"PK\x03\x04\0\0\0"), ("race.md", RACE), ("wheel.md", WHEEL)]
    batch = await acme.vector_stores.file_batches.upload_and_poll(store.id, files=files)
    assert (batch.status, batch.file_counts.completed, batch.file_counts.failed, batch.file_counts.total) == ("completed", 3, 2, 5)
    listed = acme.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, filter="failed", limit=1)
    errors = [file.last_error async for file in listed]
    assert [error.code in ("invalid_file", "unsupported_file") and bool(error.message) for error in errors if error] == [True, True]
    assert set(await search(acme, store.id)) == {"wheel.md", "race.md"}
    counts = (await acme.vector_stores.retrieve(store.id)).file_counts
    assert (counts.completed, counts.failed, counts.in_progress) == (3, 2, 0)


async def test_anothers_file_fails_in_a_batch_and_the_rest_goes_on(desk: Desk, acme: AsyncOpenAI) -> None:
    other = desk.openai(await desk.key("other"))
    theirs = (await other.files.create(file=("secret.md", b"# Secret\n\nwheel"), purpose="assistants")).id
    mine = (await acme.files.create(file=("wheel.md", WHEEL), purpose="assistants")).id
    store = await acme.vector_stores.create()
    wanted: Any = [{"file_id": mine, "attributes": {"kind": "guide"}}, {"file_id": theirs}, {"file_id": "file-none"}]
    batch = await acme.vector_stores.file_batches.create_and_poll(store.id, files=wanted)
    assert (batch.file_counts.completed, batch.file_counts.failed) == (1, 2)
    listed = {file.id: file async for file in acme.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)}
    assert listed[mine].attributes == {"kind": "guide"}
    told = [error.message.replace(name, "?") for name in (theirs, "file-none") if (error := listed[name].last_error)]
    assert told == ["no file with the id '?'"] * 2
    assert await search(acme, store.id) == ["wheel.md"]


async def test_an_upload_in_parts_becomes_a_file(acme: AsyncOpenAI, tmp_path: Path) -> None:
    content = b"".join(b"Line %d of the mill's book.\n" % number for number in range(2000))
    (tmp_path / "book.txt").write_bytes(content)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    path = tmp_path / "book.txt"
    upload = await acme.uploads.upload_file_chunked(file=path, mime_type="text/plain", purpose="assistants", part_size=20_000, md5=digest)
    assert (upload.status, upload.bytes) == ("completed", len(content))
    assert upload.file
    assert upload.file.filename == "book.txt"
    assert (await acme.files.content(upload.file.id)).content == content
    again = await acme.uploads.create(bytes=5, filename="a.md", mime_type="text/markdown", purpose="assistants")
    await acme.uploads.parts.create(again.id, data=b"wheel")
    assert (await acme.uploads.cancel(again.id)).status == "cancelled"
    with pytest.raises(BadRequestError, match="cancelled"):
        await acme.uploads.parts.create(again.id, data=b"wheel")


async def test_attributes_are_changed_and_searches_go_by_them_at_once(acme: AsyncOpenAI) -> None:
    store = await acme.vector_stores.create()
    member = await acme.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("wheel.md", WHEEL), attributes={"kind": "draft"}
    )
    drafts: Any = {"type": "eq", "key": "kind", "value": "draft"}
    assert await search(acme, store.id, filters=drafts) == ["wheel.md"]
    changed = await acme.vector_stores.files.update(member.id, vector_store_id=store.id, attributes={"kind": "guide"})
    assert (changed.status, changed.attributes) == ("completed", {"kind": "guide"})
    assert await search(acme, store.id, filters=drafts) == []
    assert await search(acme, store.id, filters={"type": "eq", "key": "kind", "value": "guide"}) == ["wheel.md"]
    assert (await acme.vector_stores.files.update(member.id, vector_store_id=store.id, attributes=None)).attributes == {}


async def test_attributes_changed_while_a_file_is_ingested_win(desk: Desk, acme: AsyncOpenAI) -> None:
    store = await acme.vector_stores.create()
    files = [(await acme.files.create(file=("wheel.md", WHEEL), purpose="assistants")).id for _ in range(5)]
    for file_id in files:
        await acme.vector_stores.files.create(store.id, file_id=file_id, attributes={"kind": "draft"})
        await acme.vector_stores.files.update(file_id, vector_store_id=store.id, attributes={"kind": "guide"})
        await acme.vector_stores.files.poll(file_id, vector_store_id=store.id, poll_interval_ms=10)
    await until(desk.store.jobs.backlog, equals=0)
    assert [rows[0][0].attributes for rows in desk.retrieves.files.values()] == [{"kind": "guide"}] * 5


async def test_a_store_is_renamed_and_deleted_with_its_index_but_not_its_files(desk: Desk, acme: AsyncOpenAI) -> None:
    store, kept = await acme.vector_stores.create(name="docs", metadata={"a": "b"}), await acme.vector_stores.create(name="kept")
    renamed = await acme.vector_stores.update(store.id, name="papers")
    assert (renamed.name, renamed.metadata) == ("papers", {"a": "b"})
    assert (await acme.vector_stores.update(store.id, metadata={"c": "d"})).metadata == {"c": "d"}
    member = await acme.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("wheel.md", WHEEL))
    await acme.vector_stores.files.create_and_poll(member.id, vector_store_id=kept.id)
    assert (await acme.vector_stores.delete(store.id)).deleted
    for call in (acme.vector_stores.retrieve(store.id), search(acme, store.id), acme.vector_stores.delete(store.id)):
        with pytest.raises(NotFoundError):
            await call
    assert [store_id for _, store_id, _ in desk.retrieves.files] == [kept.id]
    assert await search(acme, kept.id) == ["wheel.md"]
    assert (await acme.files.content(member.id)).content == WHEEL
    assert [one.id async for one in acme.vector_stores.list()] == [kept.id]


async def test_a_store_deleted_while_it_is_filled_leaves_nothing_in_the_index(desk: Desk, acme: AsyncOpenAI) -> None:
    for _ in range(3):
        store = await acme.vector_stores.create()
        uploading = acme.vector_stores.file_batches.upload_and_poll(store.id, files=[(f"{n}.md", WHEEL) for n in range(6)])
        filling = asyncio.create_task(uploading)
        await until(lambda task=filling: bool(desk.retrieves.files) or task.done())
        await acme.vector_stores.delete(store.id)
        await asyncio.gather(filling, return_exceptions=True)
    await until(desk.store.jobs.backlog, equals=0)
    await until(lambda: desk.retrieves.files, equals={})


async def test_a_cancelled_batch_stops_and_says_so(desk: Desk, acme: AsyncOpenAI) -> None:
    files = [(await acme.files.create(file=(f"{n}.md", WHEEL), purpose="assistants")).id for n in range(20)]
    store = await acme.vector_stores.create()
    batch = await acme.vector_stores.file_batches.create(store.id, file_ids=files)
    batch = await acme.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    assert batch.file_counts.in_progress == 0
    assert batch.file_counts.completed + batch.file_counts.cancelled == 20
    assert batch.status == "cancelled"
    done = {file.id async for file in acme.vector_stores.files.list(store.id, filter="completed")}
    await until(lambda: {file_id for _, _, file_id in desk.retrieves.files}, equals=done)


async def test_a_passage_is_as_long_as_was_asked_for(acme: AsyncOpenAI) -> None:
    text = b"# Mill\n\n" + b"The race brings water to the wheel. " * 100
    store = await acme.vector_stores.create()
    pieces = []
    for tokens in (100, 250):
        strategy: Any = {"type": "static", "static": {"max_chunk_size_tokens": tokens, "chunk_overlap_tokens": 0}}
        member = await acme.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("m.md", text), chunking_strategy=strategy)
        assert member.chunking_strategy
        assert member.chunking_strategy.model_dump() == strategy
        pieces.append(len([one async for one in acme.vector_stores.files.content(member.id, vector_store_id=store.id)]))
    assert pieces[0] > pieces[1] > 1


async def test_files_are_listed_by_purpose_and_page(acme: AsyncOpenAI) -> None:
    made = [(await acme.files.create(file=(f"{n}.md", WHEEL), purpose="assistants")).id for n in range(3)]
    made.append((await acme.files.create(file=("b.jsonl", b"{}"), purpose="batch")).id)
    assert [file.id async for file in acme.files.list(limit=2)] == made[::-1]
    assert [file.id async for file in acme.files.list(limit=2, order="asc")] == made
    assert [file.id async for file in acme.files.list(purpose="batch")] == made[3:]
    assert (await acme.files.list(limit=2)).has_more


async def test_a_file_goes_when_its_time_is_over(desk: Desk, acme: AsyncOpenAI) -> None:
    expires: Any = {"anchor": "created_at", "seconds": 3600}
    file = await acme.files.create(file=("wheel.md", WHEEL), purpose="assistants", expires_after=expires)
    assert file.expires_at == file.created_at + 3600
    store = await acme.vector_stores.create()
    await acme.vector_stores.files.create_and_poll(file.id, vector_store_id=store.id)
    assert await search(acme, store.id) == ["wheel.md"]
    desk.store.clock = lambda: time.time() + 3600
    await until(lambda: desk.retrieves.files, equals={})

    async def left() -> list[str]:
        return [file.id async for file in acme.files.list()]

    await until(left, equals=[])
    assert (await acme.vector_stores.retrieve(store.id)).file_counts.total == 0
