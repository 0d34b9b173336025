"""What tenants own, and the work that waits for a worker."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.core.errors import NotFound
from deployments.core.ids import new_id
from deployments.core.jobs import INGEST, Job, LeaseLost
from deployments.core.store import Store, TenantStore
from deployments.core.types import Chunk
from tests.fakes import Clock

TEXT = "First part. Second part."
CHUNKS = [Chunk(0, TEXT[:11], ("Title",), 0, 11, 3), Chunk(1, TEXT[12:], ("Title", "More"), 12, 24, 3)]
VECTORS = np.eye(2, 4, dtype=np.float32)


async def queued(mine: TenantStore, count: int = 1) -> tuple[str, list[str]]:
    """A vector store with files that wait."""
    store_id = (await mine.add_store("docs")).id
    files = [(await mine.add_file(f"{n}.md", "assistants", b"# Title")).id for n in range(count)]
    for file_id in files:
        await mine.add_member(store_id, file_id, {})
    return store_id, files


async def lease(store: Store, seconds: float) -> Job | None:
    return await store.jobs.lease({INGEST: seconds})


def held(job: Job | None) -> tuple[str, int] | None:
    return job and (job.subject, job.attempt)


async def refused(call: Awaitable[object]) -> str:
    with pytest.raises(NotFound) as error:
        await call
    return error.value.message


async def test_a_file_comes_back_as_it_was_sent(acme: TenantStore) -> None:
    file = await acme.add_file("a/b.md", "assistants", b"\x00\xff# Title")
    assert await acme.file(file.id) == file
    assert await acme.content(file.id) == b"\x00\xff# Title"
    assert (file.bytes, file.filename) == (9, "a/b.md")
    assert "has not been ingested" in await refused(acme.text(file.id))


Doors = Callable[[TenantStore, str, str], Awaitable[object]]
DOORS: dict[str, Doors] = {
    "file": lambda s, _, file: s.file(file),
    "content": lambda s, _, file: s.content(file),
    "text": lambda s, _, file: s.text(file),
    "passages": lambda s, _, file: s.passages(file),
    "delete_file": lambda s, _, file: s.delete_file(file),
    "store": lambda s, store, _: s.store(store),
    "members": lambda s, store, _: s.members(store),
    "member": lambda s, store, file: s.member(store, file),
    "add_member": lambda s, store, file: s.add_member(store, file, {}),
    "remove_member": lambda s, store, file: s.remove_member(store, file),
    "complete": lambda s, store, file: s.complete(store, file, "t", TEXT, CHUNKS, VECTORS),
    "fail": lambda s, store, file: s.fail(store, file, "server_error", "m"),
}


@pytest.mark.parametrize("door", DOORS)
async def test_another_tenants_id_is_answered_like_one_that_never_was(acme: TenantStore, other: TenantStore, door: str) -> None:
    store_id, [file_id] = await queued(acme)
    await acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS)
    foreign = await refused(DOORS[door](other, store_id, file_id))
    unknown_store, unknown_file = new_id("vs_"), new_id("file-")
    unknown = await refused(DOORS[door](other, unknown_store, unknown_file))
    assert foreign.replace(store_id, "?").replace(file_id, "?") == unknown.replace(unknown_store, "?").replace(unknown_file, "?")
    assert await acme.text(file_id) == TEXT
    assert (await acme.member(store_id, file_id)).status == "completed"


async def test_a_tenant_can_not_mix_its_own_with_what_is_not(acme: TenantStore, other: TenantStore) -> None:
    store_id, [file_id] = await queued(acme)
    my_store, [my_file] = await queued(other)
    await refused(other.add_member(my_store, file_id, {}))
    await refused(other.add_member(store_id, my_file, {}))
    await refused(other.member(my_store, file_id))


@pytest.mark.parametrize("door", DOORS)
async def test_what_can_be_no_id_is_not_found(acme: TenantStore, door: str) -> None:
    for name in ("", "\x00", "file-\x00", "'; DROP TABLE files; --", "é", "x" * 65, "../..", "file-1 OR 1=1"):
        await refused(DOORS[door](acme, name, name))


async def test_lists_hold_only_what_the_tenant_owns(acme: TenantStore, other: TenantStore) -> None:
    store_id, _ = await queued(acme, 3)
    assert await other.stores() == []
    assert await other.default_store() is None
    assert [found.id for found in await acme.stores()] == [store_id]


async def test_the_first_store_is_the_default(acme: TenantStore, clock: Clock) -> None:
    first = await acme.add_store("first", metadata={"team": "docs"})
    clock.forward(1)
    await acme.add_store("second")
    assert await acme.default_store() == first.id
    assert (await acme.store(first.id)).metadata == {"team": "docs"}


@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_neither_miss_nor_repeat_while_files_are_removed(acme: TenantStore, newest_first: bool) -> None:
    store_id, files = await queued(acme, 7)
    seen: list[str] = []
    while page := await acme.members(store_id, after=seen[-1] if seen else "", limit=2, newest_first=newest_first):
        seen += [member.file_id for member in page]
        await acme.remove_member(store_id, seen[-1])
    assert seen == sorted(files, reverse=newest_first)


async def test_members_are_found_by_status(acme: TenantStore) -> None:
    store_id, files = await queued(acme, 2)
    await acme.fail(store_id, files[0], "invalid_file", "no text")
    assert [m.file_id for m in await acme.members(store_id, status="failed")] == [files[0]]
    assert [m.file_id for m in await acme.members(store_id, status="in_progress")] == [files[1]]


async def test_what_an_ingestion_made_replaces_what_was_there(acme: TenantStore) -> None:
    store_id, [file_id] = await queued(acme)
    await acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS)
    await acme.complete(store_id, file_id, "Title", TEXT, CHUNKS[:1], VECTORS[:1])
    await acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS)
    assert await acme.passages(file_id) == CHUNKS
    assert (await acme.file(file_id)).title == "Title"
    assert (await acme.store(store_id)).counts == {"completed": 1}
    assert (await acme.member(store_id, file_id)).usage_bytes == 2 * 4 * 4 + 11 + 12


async def test_a_file_in_two_stores_shows_the_passages_of_the_last(acme: TenantStore, clock: Clock) -> None:
    store_id, [file_id] = await queued(acme)
    await acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS)
    clock.forward(5)
    second = (await acme.add_store("second")).id
    await acme.add_member(second, file_id, {})
    assert await acme.passages(file_id) == CHUNKS
    await acme.complete(second, file_id, "Title", TEXT, CHUNKS[:1], VECTORS[:1])
    assert await acme.passages(file_id) == CHUNKS[:1]


async def test_a_deleted_file_is_gone_everywhere(acme: TenantStore) -> None:
    store_id, [file_id] = await queued(acme)
    await acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS)
    assert await acme.delete_file(file_id) == [store_id]
    assert await acme.members(store_id) == []
    await refused(acme.passages(file_id))
    await refused(acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS))


async def test_a_removed_file_stays_as_a_file(acme: TenantStore) -> None:
    store_id, [file_id] = await queued(acme)
    await acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS)
    await acme.remove_member(store_id, file_id)
    await refused(acme.member(store_id, file_id))
    assert await acme.text(file_id) == TEXT
    assert await acme.passages(file_id) == []


async def test_adding_a_file_again_starts_its_ingestion_again(acme: TenantStore, store: Store) -> None:
    store_id, [file_id] = await queued(acme)
    await acme.fail(store_id, file_id, "invalid_file", "no text")
    member = await acme.add_member(store_id, file_id, {"path": "x"})
    assert (member.status, member.error_code, member.attributes) == ("in_progress", None, {"path": "x"})
    assert held(await lease(store, 10)) == (f"{store_id}/{file_id}", 1)


async def test_work_is_leased_once_and_again_when_its_lease_has_ended(acme: TenantStore, store: Store, clock: Clock) -> None:
    store_id, [file_id] = await queued(acme)
    assert await store.jobs.backlog() == 1
    assert held(await lease(store, 10)) == (f"{store_id}/{file_id}", 1)
    assert await lease(store, 10) is None
    clock.forward(10)
    assert held(await lease(store, 10)) == (f"{store_id}/{file_id}", 2)


async def test_a_lease_is_extended_and_given_back(acme: TenantStore, store: Store, clock: Clock) -> None:
    await queued(acme)
    work = await lease(store, 10)
    assert work
    clock.forward(9)
    assert await store.jobs.extend(work, 10)
    clock.forward(9)
    assert await lease(store, 10) is None
    await store.jobs.release(work, 5)
    assert await lease(store, 10) is None
    clock.forward(5)
    again = await lease(store, 10)
    assert again
    assert again.attempt == 2
    assert not await store.jobs.extend(work, 10)


async def test_a_lease_ends_with_the_file(acme: TenantStore, store: Store) -> None:
    await queued(acme)
    work = await lease(store, 10)
    assert work
    await acme.delete_file(work.subject.split("/")[1])
    assert not await store.jobs.extend(work, 10)
    assert await store.jobs.backlog() == 0


async def test_workers_at_once_never_hold_the_same_work(acme: TenantStore, store: Store) -> None:
    await queued(acme, 30)
    leased = await asyncio.gather(*(lease(store, 60) for _ in range(40)))
    subjects = [work.subject for work in leased if work]
    assert len(subjects) == len(set(subjects)) == 30


async def test_a_file_may_be_deleted_added_and_completed_at_once(acme: TenantStore, store: Store) -> None:
    for _ in range(10):
        store_id, [file_id] = await queued(acme)
        job = await lease(store, 60)
        ended = await asyncio.gather(
            acme.complete(store_id, file_id, "Title", TEXT, CHUNKS, VECTORS, job),
            acme.add_member(store_id, file_id, {}),
            acme.remove_member(store_id, file_id),
            acme.add_member(store_id, file_id, {}),
            acme.delete_file(file_id),
            return_exceptions=True,
        )
        assert [error for error in ended if isinstance(error, BaseException) and not isinstance(error, NotFound | LeaseLost)] == []
        assert await acme.members(store_id) == []
        assert await store.jobs.backlog() == 0


async def test_a_file_that_is_added_many_times_at_once_is_ingested_once(acme: TenantStore, store: Store) -> None:
    store_id = (await acme.add_store("docs")).id
    file_id = (await acme.add_file("a.md", "assistants", b"x")).id
    await asyncio.gather(*(acme.add_member(store_id, file_id, {}) for _ in range(5)))
    assert held(await lease(store, 60)) == (f"{store_id}/{file_id}", 1)
    assert await lease(store, 60) is None


async def test_large_content_and_text_come_back_whole(acme: TenantStore) -> None:
    store_id, _ = await queued(acme)
    content = bytes(range(256)) * (6 << 10)
    file_id = (await acme.add_file("a.md", "assistants", content)).id
    await acme.add_member(store_id, file_id, {})
    text = "Wheels turn. " * 120_000
    await acme.complete(store_id, file_id, "Title", text, CHUNKS, VECTORS)
    assert await acme.content(file_id) == content
    assert await acme.text(file_id) == text


WORKER = """
import asyncio, sys
from deployments.core.store import Store
from deployments.core.vault import Vault
async def main(url):
    store = Store(url, Vault(bytes(32)), clock=lambda: 4e9)
    while job := await store.jobs.lease({"ingest": 600}):
        print(job.subject.split("/")[1])
    await store.close()
asyncio.run(main(sys.argv[1]))
"""


async def test_processes_at_once_never_hold_the_same_work_nor_meet_a_lock(acme: TenantStore, store: Store) -> None:
    store_id, files = await queued(acme, 40)
    url = store.engine.url.render_as_string(hide_password=False)
    command = (sys.executable, "-c", WORKER, url)
    workers = [
        await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE) for _ in range(3)
    ]
    writing = asyncio.create_task(_rewrite(acme, store_id))
    ended = [await worker.communicate() for worker in workers]
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert [worker.returncode for worker in workers] == [0, 0, 0], ended
    done = b"".join(out for out, _ in ended).decode().split()
    assert sorted(done) == sorted(files)


async def _rewrite(mine: TenantStore, store_id: str) -> None:
    """Read, then write, over and over, as gateway replicas do."""
    while True:
        file = await mine.add_file("x.md", "assistants", b"x")
        await mine.delete_file(file.id)
        await mine.store(store_id)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=50))
def test_ids_are_sound_and_never_repeat(kinds: list[int]) -> None:
    ids = [new_id(("file-", "vs_", "key_", "resp_")[kind]) for kind in kinds]
    assert len(set(ids)) == len(ids)
    assert all(len(name) <= 64 and name.isascii() for name in ids)
