"""How soon what is uploaded is found, and that what is deleted is not, while others search."""

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from deployments.retriever.parse import parse
from tests.integration.conftest import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

FRESH_S = 5
"""How soon a document has to be found."""
QUESTIONS = ("Where does the water go?", "How is a dependency declared?", "What does the wheel turn?", "Who works in the mill at night?")


class Corpus:
    """A vector store as its owner changes it, with the time that each change took to be seen."""

    def __init__(self, client: AsyncOpenAI, store_id: str):
        self._client, self.store_id = client, store_id
        self.pages: dict[str, tuple[str, str]] = {}
        """The id and the text of each page, as it is read: markup says nothing."""
        self.took_s: list[float] = []

    async def put(self, path: str, text: str) -> None:
        """Add a page, or replace it, and look until its new lines are found; then the lines it has lost must not be."""
        before_id, before = self.pages.get(path, ("", ""))
        content, text = text.encode(), parse(text.encode(), path).text
        began = time.monotonic()
        uploaded = await self._client.files.create(file=(Path(path).name, content), purpose="assistants")
        await self._client.vector_stores.files.create(self.store_id, file_id=uploaded.id, attributes={"path": path})
        self.pages[path] = uploaded.id, text
        added = lines_of(text, but=before)
        while not await (self._found(path, added[0]) if added else self._completed(uploaded.id)):
            assert time.monotonic() - began < 60, f"{path} is not found: {added[:1]}"
            await asyncio.sleep(0.05)
        self.took_s.append(time.monotonic() - began)
        if before_id:
            await self._client.files.delete(before_id)
            await self._gone(path, lines_of(before, but=text))

    async def remove(self, path: str) -> None:
        """Delete a page, which must not be found any more."""
        file_id, text = self.pages.pop(path)
        await self._client.files.delete(file_id)
        await self._gone(path, lines_of(text, but=""))

    async def _gone(self, path: str, lines: Sequence[str]) -> None:
        if lines:
            assert not await self._found(path, lines[0]), f"{path} still says: {lines[0]}"

    async def _completed(self, file_id: str) -> bool:
        """Whether a page is ingested; of one whose markup alone has changed no search can tell."""
        return (await self._client.vector_stores.files.retrieve(file_id, vector_store_id=self.store_id)).status == "completed"

    async def _found(self, path: str, line: str) -> bool:
        results = await self._client.vector_stores.search(
            self.store_id, query=line, filters={"type": "eq", "key": "path", "value": path}, max_num_results=50
        )
        return any(line in plain(part.text) for result in results.data for part in result.content)


def plain(text: str) -> str:
    return " ".join(text.split())


def lines_of(text: str, but: str) -> list[str]:
    """The beginnings of lines that the other text has not, longest line first."""
    other = plain(but)
    lines = sorted((plain(line) for line in text.splitlines()), key=len, reverse=True)
    return [line for whole in lines if len(line := whole[:80]) > 20 and line not in other]


@asynccontextmanager
async def corpus(stack: Stack) -> AsyncIterator[tuple[AsyncOpenAI, Corpus]]:
    async with AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as client:
        store = await client.vector_stores.create(name="fresh")
        yield client, Corpus(client, store.id)
        await client.vector_stores.delete(store.id)


@asynccontextmanager
async def searched(client: AsyncOpenAI, store_id: str, per_s: float) -> AsyncIterator[Counter[str]]:
    """So many searches a second, whether or not earlier ones have ended; how each ended, by its status."""
    ended, running = Counter[str](), set[asyncio.Task[None]]()

    async def ask(number: int) -> None:
        try:
            await client.vector_stores.search(store_id, query=f"{QUESTIONS[number % len(QUESTIONS)]} {number % 50}")
            ended["ok"] += 1
        except Exception as error:
            ended[type(error).__name__] += 1

    async def go() -> None:
        began, number = time.monotonic(), 0
        while True:
            task = asyncio.create_task(ask(number))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))

    going = asyncio.create_task(go())
    yield ended
    going.cancel()
    await asyncio.gather(*running)


def told(what: str, corpus: Corpus) -> None:
    slowest = sorted(corpus.took_s)
    p95 = slowest[int(0.95 * (len(slowest) - 1))]
    print(f"\n{what}, N={len(slowest)}: found after p50 {statistics.median(slowest):.2f} s, p95 {p95:.2f} s, at most {slowest[-1]:.2f} s")  # noqa: T201


@pytest.mark.parametrize(("uploads", "per_s"), [(6, 5), pytest.param(60, 50, marks=pytest.mark.full)])
async def test_an_upload_is_found_within_seconds_while_others_search(stack: Stack, uploads: int, per_s: float) -> None:
    async with corpus(stack) as (client, pages):
        await pages.put("first.md", "# The first\n\nThe first of all pages tells of the weir above the mill.\n")
        pages.took_s.clear()
        began = time.monotonic()
        async with searched(client, pages.store_id, per_s) as ended:
            for number in range(uploads):
                turns = "\n\n".join(f"The wheel number {number} turns stone {stone} by {number * stone} ells a day." for stone in range(40))
                await pages.put(f"page{number % 20}.md", f"# Page {number}\n\n{turns}\n")
        rate = ended["ok"] / (time.monotonic() - began)
        told(f"pages uploaded while {rate:.1f} searches a second were answered", pages)
        assert set(ended) == {"ok"}
        assert rate >= 0.8 * per_s
        assert sorted(pages.took_s)[int(0.95 * uploads)] <= FRESH_S


@pytest.mark.full
async def test_real_changes_of_a_documentation_are_found_within_seconds_and_what_they_took_away_is_gone(data: Path, stack: Stack) -> None:
    folder = data / "events_fastapi_docs"
    commits = [json.loads(line) for line in (folder / "doc_changes.jsonl").read_text().splitlines()]
    async with corpus(stack) as (_, pages):
        for path in {change["path"] for commit in commits for change in commit["changes"]}:
            if (folder / "base" / path).exists():
                await pages.put(path, (folder / "base" / path).read_text())
        pages.took_s.clear()
        for commit in commits:
            for change in commit["changes"]:
                await (pages.remove(change["path"]) if change["op"] == "D" else pages.put(change["path"], change["text"]))
        told(f"pages of {len(commits)} changes", pages)
        assert max(pages.took_s) <= FRESH_S
