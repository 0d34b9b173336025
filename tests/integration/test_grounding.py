"""Grounded answers of the embedded model: which pages they cite, over the whole product."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.integration.conftest import Stack, end, start

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

QUESTIONS = Path(__file__).parents[1] / "questions"
MILLS = {
    "headrace.md": "# Headrace\n\nA headrace is the channel that brings water from the weir to the wheel of a mill.\n",
    "tailrace.md": "# Tailrace\n\nA tailrace is the channel that leads the used water away from the wheel of a mill.\n",
    "bread.md": "# Bread\n\nSourdough bread rises for about four hours at room temperature before it is baked.\n",
}


@pytest.fixture
def embedded(folder: Path) -> Iterator[Stack]:
    """A stack with the embedded model."""
    stack = start(folder, None)
    yield stack
    assert end(stack) == []


def test_an_answer_is_cited_from_the_page_that_holds_it(embedded: Stack, tmp_path: Path) -> None:
    for name, text in MILLS.items():
        (tmp_path / name).write_text(text)
    report = embedded.headrace("ingest", str(tmp_path))
    assert report.returncode == 0, report.stdout + report.stderr
    asked = ["What leads the used water away from the wheel?", "How long does sourdough bread rise?", "Who won the world cup in 1998?"]
    found = cited(embedded, asked)
    assert [pages[:1] for pages in found] == [["tailrace.md"], ["bread.md"], []]
    told = embedded.headrace("ask", "What is a headrace?")
    assert "brings water from the weir" in told.stdout
    assert "/files/" in told.stdout


@pytest.mark.full
def test_questions_about_real_pages_are_answered_from_the_right_ones(data: Path, embedded: Stack) -> None:
    known = [json.loads(line) for line in (QUESTIONS / "fastapi_docs.jsonl").read_text().splitlines()]
    foreign = [json.loads(line)["question"] for line in (QUESTIONS / "off_topic.jsonl").read_text().splitlines()]
    ingest(embedded, data / "docs_fastapi" / "docs")
    found = cited(embedded, [entry["question"] for entry in known])
    first = sum(pages[:1] != [] and pages[0] in entry["pages"] for entry, pages in zip(known, found, strict=True))
    anywhere = sum(bool(set(pages) & set(entry["pages"])) for entry, pages in zip(known, found, strict=True))
    most = max(len(set(pages)) for pages in found)
    off_topic = sum(map(bool, cited(embedded, foreign)))
    right = {page for entry in known for page in entry["pages"]}
    remove(embedded, right)
    left = sum(bool(set(pages) & right) for pages in cited(embedded, [entry["question"] for entry in known]))
    print(f"\ncited pages, N={len(known)}: first right {first}, any right {anywhere}, at most {most} pages in an answer")  # noqa: T201
    print(f"off topic, N={len(foreign)}: {off_topic} cited; right pages removed: {left} still cited")  # noqa: T201
    assert (first >= 18, anywhere >= 23, most <= 3, off_topic, left) == (True, True, True, 0, 0)


def ingest(stack: Stack, folder: Path) -> None:
    report = stack.headrace("ingest", str(folder), within_s=1200)
    assert report.returncode == 0, report.stdout + report.stderr


def cited(stack: Stack, questions: Sequence[str]) -> list[list[str]]:
    """The names of the files that the answer to each question cites, in order."""
    return asyncio.run(_cited(stack, questions))


async def _cited(stack: Stack, questions: Sequence[str]) -> list[list[str]]:
    slots = asyncio.Semaphore(2)
    names = {entry["id"]: entry["filename"] for entry in listed(stack)}

    async def one(question: str) -> list[str]:
        async with slots:
            answer = await client.chat.completions.create(model="headrace", messages=[{"role": "user", "content": question}])
        annotations = answer.choices[0].message.annotations or []
        return [names[annotation.url_citation.url.split("/files/")[1].split("#")[0]] for annotation in annotations]

    async with AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0) as client:
        return list(await asyncio.gather(*(one(question) for question in questions)))


def listed(stack: Stack) -> list[dict[str, Any]]:
    """Every file of the demo tenant's store."""
    with OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key) as client:
        store = next(iter(client.vector_stores.list())).id
        ids = [file.id for file in client.vector_stores.files.list(store, limit=100)]
        return [{"id": file.id, "filename": file.filename} for file in map(client.files.retrieve, ids)]


def remove(stack: Stack, pages: set[str]) -> None:
    with OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key) as client:
        for file in listed(stack):
            if file["filename"] in pages:
                client.files.delete(file["id"])
