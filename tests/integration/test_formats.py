"""A file of every format: found, answered from, and cited to the letter."""

import asyncio
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from openai.types.responses import FileSearchToolParam

from deployments.core.config import Settings
from deployments.core.store import open_store
from deployments.core.types import Chunk
from pipeline.setup import DEMO
from tests.integration.conftest import Stack, end, start
from tests.papers import docx, lines, paragraph, pdf

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

FILES = {
    "weir.md": b"# The weir\n\nThe weir at Holm was built of granite by the miller Anders Rask.\n",
    "stones.txt": b"The millstones of Holm were cut from French quartz at La Ferte.\n\nA pair of them weighs three tons.\n",
    "sails.rst": b"The sails\n=========\n\nThe sails of the windmill are furled when the wind is above nine Beaufort.\n",
    "bread.html": b"<html><body><h1>Bread</h1><p>The bakery sells its rye bread on Thursdays only.</p></body></html>",
    "race.pdf": pdf(lines((24, "The headrace"), (11, "The headrace of the mill is forty metres long and lined with clay."))),
    "barn.docx": docx(paragraph("The barn", "Kop1") + paragraph("The barn was struck by lightning in the summer of 1911.")),
    "parts.csv": b"part,supplier,price\nanvil,Hult & Sons,129.50\ngearwheel,Nyman,74.00\nlantern,Berg,12.00\n",
    "orders.json": json.dumps([{"customer": "Miss Lindqvist", "flour": "spelt"}, {"customer": "Mr Holt", "flour": "oats"}]).encode(),
    "visits.jsonl": b'{"visitor": "Bishop Ekman", "purpose": "blessing of the bells"}\n{"visitor": "Doctor Falk", "purpose": "advice"}\n',
    "gear.py": b'def ratio(teeth):\n    """The governor keeps the shaft at eleven revolutions a minute."""\n    return teeth / 11\n',
}
ASKED = {
    "weir.md": ("Who built the weir at Holm?", "Rask"),
    "stones.txt": ("What were the millstones of Holm cut from?", "quartz"),
    "sails.rst": ("When are the sails of the windmill furled?", "Beaufort"),
    "bread.html": ("When does the bakery sell its rye bread?", "Thursdays"),
    "race.pdf": ("How long is the headrace of the mill?", "forty"),
    "barn.docx": ("When was the barn struck by lightning?", "1911"),
    "parts.csv": ("What is the price of an anvil?", "129.5"),
    "orders.json": ("Which flour did Miss Lindqvist order?", "spelt"),
    "visits.jsonl": ("For what purpose did Bishop Ekman come as a visitor?", "blessing"),
    "gear.py": ("At how many revolutions a minute does the governor keep the shaft?", "eleven"),
}
PLAIN = (".md", ".txt", ".rst", ".py")
"""Of these the text is the file itself."""
TICKETS = [
    ("banking.csv", "Which category is: Is there a way to know when my card will arrive?", "card_arrival"),
    ("insurance.tsv", "Which label is: Could you explain why my auto policy renewal bill has increased?", "Billing Inquiries"),
]


@pytest.fixture
def embedded(folder: Path) -> Iterator[Stack]:
    """A stack with the embedded model."""
    stack = start(folder, None)
    yield stack
    assert end(stack) == []


def filled(client: OpenAI, name: str, files: dict[str, bytes]) -> tuple[str, dict[str, str]]:
    """A vector store with those files, and their names by their ids."""
    store_id = client.vector_stores.create(name=name).id
    ids = {client.files.create(file=(name, content), purpose="assistants").id: name for name, content in files.items()}
    batch = client.vector_stores.file_batches.create_and_poll(store_id, file_ids=list(ids))
    assert batch.file_counts.completed == len(files)
    return store_id, ids


def passages(stack: Stack, ids: dict[str, str]) -> dict[str, tuple[str, list[Chunk]]]:
    """The text of each file and its passages, as SQL holds them."""

    async def read() -> dict[str, tuple[str, list[Chunk]]]:
        store = open_store(Settings(data_dir=stack.data_dir))
        mine = store.of_tenant(DEMO)
        try:
            return {name: (await mine.text(file_id), await mine.passages(file_id)) for file_id, name in ids.items()}
        finally:
            await store.close()

    return asyncio.run(read())


def client_of(stack: Stack) -> OpenAI:
    return OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0, timeout=300)


def test_a_file_of_every_format_is_found_by_what_it_says_and_spans_point_into_it(stack: Stack) -> None:
    with client_of(stack) as client:
        store_id, ids = filled(client, "formats", FILES)
        for name, (question, fact) in ASKED.items():
            first = client.vector_stores.search(store_id, query=question).data[0]
            assert first.filename == name
            assert fact in first.content[0].text
        for name, (text, cut) in passages(stack, ids).items():
            assert [text[one.start : one.end] for one in cut] == [one.text for one in cut]
            assert ASKED[name][1] in "".join(one.text for one in cut)
            if name.endswith(PLAIN):
                assert FILES[name].decode().startswith(text)


def answered(client: OpenAI, store_id: str, question: str) -> tuple[str, list[str]]:
    """The answer, and the files it cites."""
    search: FileSearchToolParam = {"type": "file_search", "vector_store_ids": [store_id]}
    response = client.responses.create(model="headrace", input=question, tools=[search])
    cited = [
        note.filename
        for item in response.output
        if item.type == "message"
        for part in item.content
        if part.type == "output_text"
        for note in part.annotations
        if note.type == "file_citation"
    ]
    return response.output_text, cited


@pytest.mark.full
def test_a_file_of_every_format_is_answered_from(embedded: Stack) -> None:
    with client_of(embedded) as client:
        store_id, _ = filled(client, "formats", FILES)
        wrong = list[str]()
        for name, (question, fact) in ASKED.items():
            text, cited = answered(client, store_id, question)
            print(f"{name}: {text!r}, cited {cited}")  # noqa: T201
            if fact not in text or cited[:1] != [name]:
                wrong.append(name)
    assert wrong == []


@pytest.mark.full
def test_tickets_are_answered_from(data: Path, embedded: Stack) -> None:
    sets = {"banking.csv": data / "tickets_banking77" / "train.csv", "insurance.tsv": data / "tickets_insurance" / "train.tsv"}
    with client_of(embedded) as client:
        store_id, ids = filled(client, "tickets", {name: path.read_bytes() for name, path in sets.items()})
        for name, (text, cut) in passages(embedded, ids).items():
            with sets[name].open() as file:
                rows = list(csv.reader(file, delimiter="\t" if name.endswith("tsv") else ","))[1:]
            assert len(cut) == len(rows)
            assert [text[one.start : one.end] for one in cut] == [one.text for one in cut]
            assert all(label in one.attributes.values() for one, (_, label) in zip(cut, rows, strict=True))
        for name, question, label in TICKETS:
            text, cited = answered(client, store_id, question)
            print(f"{name}: {text!r}, cited {cited}")  # noqa: T201
            assert label in text
            assert cited[:1] == [name]
