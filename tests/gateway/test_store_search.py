"""POST /v1/vector_stores/{id}/search over HTTP."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deployments.core.config import Settings
from deployments.core.filters import holds
from deployments.core.types import Chunk, Source
from deployments.gateway.filters import parse
from tests.fakes import Desk, FakeEmbeds, database

PAGES = {
    "wheel.md": ("Water turns the wheel.", {"kind": "guide", "stars": 4, "draft": False}),
    "race.md": ("The race brings water to the wheel.", {"kind": "guide", "stars": 2, "draft": True}),
    "ticket.jsonl": ("The wheel is stuck; no water comes.", {"kind": 'it\'s "broken"; --', "stars": 5}),
}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with database(tmp_path) as store:
        yield Desk(store, Settings(data_dir=tmp_path))


async def filled(desk: Desk, key: str, chunk: dict[str, Any] | None = None) -> str:
    """A vector store of that key's tenant, with every page in the index."""
    principal = await desk.keys.verify(key)
    mine = desk.store.of(principal)
    store_id = (await mine.add_store("docs")).id
    for name, (text, attributes) in PAGES.items():
        file = await mine.add_file(name, "assistants", text.encode())
        chunks = [Chunk(0, text, (), 0, len(text), 8, chunk or {})]
        source = Source(file.id, name, name, attributes)
        await desk.retrieves.replace(principal, store_id, source, chunks, await FakeEmbeds().embed([text]))
    return store_id


async def test_the_openai_client_searches(desk: Desk) -> None:
    key = await desk.key("acme")
    client, store_id = desk.openai(key), await filled(desk, key)
    page = await client.vector_stores.search(store_id, query="what turns the wheel?", max_num_results=2)
    assert page.data[0].filename == "wheel.md"
    assert len(page.data) == 2
    assert page.data[0].content[0].text == "Water turns the wheel."
    assert page.data[0].attributes == PAGES["wheel.md"][1]
    assert [found.score for found in page.data] == sorted((found.score for found in page.data), reverse=True)
    assert page.object == "vector_store.search_results.page"
    assert page.model_extra == {"search_query": ["what turns the wheel?"], "has_more": False, "next_page": None}


async def test_several_queries_are_embedded_at_once_and_give_each_passage_once(desk: Desk) -> None:
    key = await desk.key("acme")
    store_id = await filled(desk, key)
    page = await desk.openai(key).vector_stores.search(store_id, query=["what turns the wheel?", "stuck wheel", "what turns the wheel?"])
    assert sorted(found.filename for found in page.data) == sorted(PAGES)
    assert desk.embeds.calls == [["what turns the wheel?", "stuck wheel"]]


async def test_a_threshold_cuts_and_the_limit_bounds(desk: Desk) -> None:
    key = await desk.key("acme")
    client, store_id = desk.openai(key), await filled(desk, key)
    every = (await client.vector_stores.search(store_id, query="water wheel")).data
    for ranker in ("none", "auto", "default-2024-11-15"):
        options: Any = {"ranker": ranker, "score_threshold": every[1].score}
        kept = (await client.vector_stores.search(store_id, query="water wheel", ranking_options=options, rewrite_query=False)).data
        assert [found.file_id for found in kept] == [found.file_id for found in every[:2]]
    assert len((await client.vector_stores.search(store_id, query="water wheel", max_num_results=1)).data) == 1


@pytest.mark.parametrize(
    ("filters", "names"),
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:60],
    argvalues=[
        ({"type": "eq", "key": "kind", "value": "guide"}, {"wheel.md", "race.md"}),
        ({"type": "eq", "key": "kind", "value": 'it\'s "broken"; --'}, {"ticket.jsonl"}),
        ({"type": "gte", "key": "stars", "value": 4}, {"wheel.md", "ticket.jsonl"}),
        ({"type": "ne", "key": "draft", "value": True}, {"wheel.md", "ticket.jsonl"}),
        ({"type": "in", "key": "stars", "value": [*range(10, 100_000), 5]}, {"ticket.jsonl"}),
        ({"type": "nin", "key": "missing", "value": ["x"]}, set(PAGES)),
        ({"type": "eq", "key": "file_id' OR '1'='1", "value": "x"}, set()),
        (
            {"type": "and", "filters": [{"type": "eq", "key": "kind", "value": "guide"}, {"type": "lt", "key": "stars", "value": 3}]},
            {"race.md"},
        ),
    ],
)
async def test_filters_narrow_what_is_found(desk: Desk, filters: Any, names: set[str]) -> None:
    key = await desk.key("acme")
    store_id = await filled(desk, key)
    async with desk.http(key) as http:
        answer = await http.post(f"/v1/vector_stores/{store_id}/search", json={"query": "water wheel", "filters": filters})
    assert {found["filename"] for found in answer.json()["data"]} == names


async def test_the_fields_of_a_record_go_before_those_of_its_file(desk: Desk) -> None:
    key = await desk.key("acme")
    store_id = await filled(desk, key, chunk={"stars": 9})
    page = await desk.openai(key).vector_stores.search(store_id, query="wheel", filters={"type": "eq", "key": "stars", "value": 9})
    assert {found.attributes["stars"] for found in page.data if found.attributes} == {9}
    assert len(page.data) == 3


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "query"),
    ({"query": ""}, "query"),
    ({"query": " \n"}, "query"),
    ({"query": []}, "query"),
    ({"query": ["wheel", ""]}, "query[1]"),
    ({"query": ["x"] * 9}, "query"),
    ({"query": "x" * 8193}, "query"),
    ({"query": "\ud800"}, "query"),
    ({"query": "wheel", "max_num_results": 0}, "max_num_results"),
    ({"query": "wheel", "max_num_results": 51}, "max_num_results"),
    ({"query": "wheel", "ranking_options": {"ranker": "best"}}, "ranking_options.ranker"),
    ({"query": "wheel", "ranking_options": {"score_threshold": 1.5}}, "ranking_options.score_threshold"),
    ({"query": "wheel", "filters": []}, "filters"),
    ({"query": "wheel", "filters": {}}, "filters.type"),
    ({"query": "wheel", "filters": {"type": "eq", "key": "a", "value": "\0"}}, "filters.value"),
    ({"query": "wheel", "filters": {"type": "in", "key": "a", "value": [0] * 100_001}}, "filters.value"),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=lambda value: str(value)[:60])
async def test_a_search_that_is_wrong_names_the_field(desk: Desk, body: dict[str, Any], param: str) -> None:
    key = await desk.key("acme")
    store_id = await filled(desk, key)
    headers = {"content-type": "application/json"}
    response = await desk.http(key).post(f"/v1/vector_stores/{store_id}/search", content=json.dumps(body), headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_a_body_of_more_values_than_any_filter_has_is_not_read(desk: Desk) -> None:
    key = await desk.key("acme")
    body = json.dumps({"query": "wheel", "filters": {"type": "in", "key": "a", "value": [0] * 200_000}})
    response = await desk.http(key).post("/v1/vector_stores/vs_1/search", content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


async def test_an_unknown_store_and_anothers_are_not_found_and_nothing_is_embedded(desk: Desk) -> None:
    store_id = await filled(desk, await desk.key("acme"))
    async with desk.http(await desk.key("other")) as http:
        told = [await http.post(f"/v1/vector_stores/{name}/search", json={"query": "wheel"}) for name in (store_id, "vs_none")]
    assert [answer.status_code for answer in told] == [404, 404]
    assert told[0].text.replace(store_id, "vs_none") == told[1].text
    assert desk.embeds.calls == []


VALUES: list[Any] = ["guide", 'it\'s "broken"; --', 2, 4, 5.5, True, False, ""]


def tree(chance: random.Random, depth: int) -> dict[str, Any]:
    """A random filter."""
    if depth and chance.random() < 0.5:
        return {"type": chance.choice(["and", "or"]), "filters": [tree(chance, depth - 1) for _ in range(chance.randint(1, 3))]}
    op, key = chance.choice(["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]), chance.choice(["kind", "stars", "draft", "missing"])
    several, ordered = op in ("in", "nin"), [value for value in VALUES if not isinstance(value, bool)]
    return {"type": op, "key": key, "value": chance.choices(VALUES, k=3) if several else chance.choice(ordered)}


async def test_no_filter_shows_what_is_not_the_callers_or_does_not_hold(desk: Desk) -> None:
    chance, own = random.Random(5), {}
    for tenant in ("acme", "other"):
        key = await desk.key(tenant)
        own[key] = await filled(desk, key)
    files = {key: {file.id for file in await desk.store.of(await desk.keys.verify(key)).files()} for key in own}
    for _ in range(40):
        filters = tree(chance, 3)
        met = {name for name, (_, attributes) in PAGES.items() if holds(parse(filters, "filters"), attributes)}
        for key, store_id in own.items():
            async with desk.http(key) as http:
                sent = {"query": "water wheel", "filters": filters, "max_num_results": 50}
                data = (await http.post(f"/v1/vector_stores/{store_id}/search", json=sent)).json()["data"]
            assert {found["file_id"] for found in data} <= files[key]
            assert {found["filename"] for found in data} == met
