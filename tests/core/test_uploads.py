"""Files that come in parts."""

import asyncio
import hashlib

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import undefer

from deployments.core.errors import HeadraceError, InvalidRequest, NotFound, RateLimited, TooLarge
from deployments.core.jobs import EXPIRE
from deployments.core.store import Store, TenantStore
from deployments.core.tables import FileRow, UploadPartRow
from deployments.core.uploads import Upload
from tests.fakes import Clock

LIFE_S = 3600


async def begun(mine: TenantStore, size: int, most_open: int = 4, keep_s: int | None = None) -> Upload:
    return await mine.uploads.add("a.md", "assistants", size, LIFE_S, most_open, keep_s)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


async def held(store: Store) -> list[bytes]:
    """What is kept of all parts, as it lies in the database."""
    async with store.session() as session:
        rows = await session.scalars(select(UploadPartRow).options(undefer(UploadPartRow.content)))
        return [row.content for row in rows]


async def test_parts_become_a_file_in_the_order_they_are_named(acme: TenantStore, store: Store) -> None:
    upload = await begun(acme, 10)
    first, second = await acme.uploads.put(upload.id, b"wheel"), await acme.uploads.put(upload.id, b"water")
    assert all(b"w" not in sealed[:1] and b"wheel" not in sealed and b"water" not in sealed for sealed in await held(store))
    done = await acme.uploads.complete(upload.id, [second.id, first.id], md5(b"waterwheel").upper())
    assert done.status == "completed"
    assert done.file_id
    assert await acme.content(done.file_id) == b"waterwheel"
    assert (await acme.file(done.file_id)).sha256 == hashlib.sha256(b"waterwheel").hexdigest()
    assert await held(store) == []


async def test_completing_again_gives_the_same_file(acme: TenantStore, store: Store) -> None:
    upload = await begun(acme, 1)
    part = await acme.uploads.put(upload.id, b"x")
    done = await asyncio.gather(*(acme.uploads.complete(upload.id, [part.id]) for _ in range(3)), return_exceptions=True)
    files = {one.file_id for one in done if isinstance(one, Upload)}
    assert files == {(await acme.uploads.complete(upload.id, [part.id])).file_id}
    assert [one for one in done if not isinstance(one, Upload | HeadraceError)] == []
    async with store.session() as session:
        assert await session.scalar(select(func.count()).select_from(FileRow)) == 1


@pytest.mark.parametrize(
    ("parts", "md5", "param"),
    [
        (["one", "two", "one"], None, "part_ids[2]"),
        (["one", "part_none"], None, "part_ids[1]"),
        (["one"], None, "part_ids"),
        (["one", "two"], "0" * 32, "md5"),
    ],
)
async def test_what_does_not_fit_together_is_refused_and_can_be_done_better(
    acme: TenantStore, parts: list[str], md5: str | None, param: str
) -> None:
    upload = await begun(acme, 6)
    ids = {name: (await acme.uploads.put(upload.id, name.encode())).id for name in ("one", "two")}
    with pytest.raises(InvalidRequest) as error:
        await acme.uploads.complete(upload.id, [ids.get(name, name) for name in parts], md5)
    assert error.value.param == param
    assert (await acme.uploads.complete(upload.id, [ids["one"], ids["two"]])).status == "completed"


async def test_parts_are_never_more_than_was_said_however_they_come(acme: TenantStore, store: Store) -> None:
    upload = await begun(acme, 100)
    sent = await asyncio.gather(*(acme.uploads.put(upload.id, b"x" * 30) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(one, TooLarge) for one in sent) == 5
    assert len(await held(store)) == 3


async def test_only_so_many_are_open_at_once(acme: TenantStore, other: TenantStore, clock: Clock) -> None:
    opened = [await begun(acme, 1, most_open=2) for _ in range(2)]
    with pytest.raises(RateLimited):
        await begun(acme, 1, most_open=2)
    await begun(other, 1, most_open=2)
    await acme.uploads.cancel(opened[0].id)
    await begun(acme, 1, most_open=2)
    clock.forward(LIFE_S)
    await begun(acme, 1, most_open=2)


async def test_nothing_is_left_of_a_cancelled_upload(acme: TenantStore, store: Store) -> None:
    upload = await begun(acme, 5)
    part = await acme.uploads.put(upload.id, b"wheel")
    assert (await acme.uploads.cancel(upload.id)).status == "cancelled"
    assert await held(store) == []
    assert (await acme.uploads.cancel(upload.id)).status == "cancelled"
    for call in (acme.uploads.put(upload.id, b"x"), acme.uploads.complete(upload.id, [part.id])):
        with pytest.raises(InvalidRequest, match="cancelled"):
            await call


async def test_an_upload_is_expired_when_its_time_is_over_and_a_job_drops_its_parts(acme: TenantStore, store: Store, clock: Clock) -> None:
    upload = await begun(acme, 5)
    await acme.uploads.put(upload.id, b"wheel")
    assert await store.jobs.lease({EXPIRE: 60}) is None
    clock.forward(LIFE_S)
    assert (await acme.uploads.get(upload.id)).status == "expired"
    with pytest.raises(InvalidRequest, match="expired"):
        await acme.uploads.put(upload.id, b"x")
    job = await store.jobs.lease({EXPIRE: 60})
    assert job
    assert job.subject == f"upload/{upload.id}"
    await acme.uploads.expire(upload.id)
    assert await held(store) == []
    assert (await acme.uploads.get(upload.id)).status == "expired"


async def test_an_upload_of_another_tenant_is_not_there(acme: TenantStore, other: TenantStore) -> None:
    upload, mine = await begun(acme, 1), await begun(other, 1)
    part = await acme.uploads.put(upload.id, b"x")
    for call in (
        other.uploads.get(upload.id),
        other.uploads.put(upload.id, b"x"),
        other.uploads.complete(upload.id, [part.id]),
        other.uploads.cancel(upload.id),
        other.uploads.expire(upload.id),
    ):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(InvalidRequest, match="no part of this upload"):
        await other.uploads.complete(mine.id, [part.id])


async def test_a_large_upload_comes_back_whole(acme: TenantStore) -> None:
    piece = bytes(range(256)) * (4 << 10)
    upload = await begun(acme, 3 * len(piece))
    parts = [await acme.uploads.put(upload.id, piece) for _ in range(3)]
    done = await acme.uploads.complete(upload.id, [part.id for part in parts], md5(piece * 3))
    assert done.file_id
    assert await acme.content(done.file_id) == piece * 3
