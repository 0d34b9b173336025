"""POST /v1/vector_stores/{id}/search: the passages that answer a query, without an answer."""

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from deployments.core.errors import InvalidRequest
from deployments.core.types import Passage, Query
from deployments.gateway.bodies import LongBodyRoute
from deployments.gateway.context import Parts, Reader
from deployments.gateway.filters import Filters, parse
from deployments.gateway.metered import EMBED, metered, tokens_of
from deployments.gateway.shapes import SearchResults, gives
from deployments.gateway.wire import Part, Words

router = APIRouter(route_class=LongBodyRoute)

MAX_QUERIES = 8
MAX_QUERY_CHARS = 8192
RESULTS, MAX_RESULTS = 10, 50

_BUDGET_TOKENS = 1 << 20
"""A search is bounded by the number of passages, not by their tokens."""

Asked = Annotated[Words, Field(min_length=1, max_length=MAX_QUERY_CHARS)]


class RankingOptions(Part):
    """How results are ranked and cut."""

    ranker: Literal["none", "auto", "default-2024-11-15"] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None


class SearchRequest(Part):
    """A search. A query stands alone, so there is nothing to rewrite it with: `search_query` tells what was looked for."""

    query: Asked | Annotated[list[Asked], Field(min_length=1, max_length=MAX_QUERIES, fail_fast=True)]
    filters: Filters | None = None
    max_num_results: Annotated[int, Field(ge=1, le=MAX_RESULTS)] | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = None

    def queries(self) -> list[str]:
        """What is looked for, each once; raises InvalidRequest."""
        queries = list(dict.fromkeys([self.query] if isinstance(self.query, str) else self.query))
        if not all(query.strip() for query in queries):
            raise InvalidRequest("query: there is nothing in it to look for", param="query", code="invalid_value")
        return queries


@router.post("/v1/vector_stores/{store_id}/search", responses=gives(SearchResults))
async def search(store_id: str, body: SearchRequest, response: Response, parts: Parts, caller: Reader) -> dict[str, Any]:
    """The best passages of a vector store; of several queries, each passage counts where it fits best."""
    queries, limit = body.queries(), body.max_num_results or RESULTS
    condition = None if body.filters is None else parse(body.filters, "filters")
    mine = parts.store.of(caller)
    await mine.require(store_id)
    half_life_s = await mine.corpus.half_life_s(store_id)
    async with metered(parts, caller, response, EMBED, tokens_of(queries)):
        vectors = await parts.stages.embeds.embed(queries, caller)
        asked = [
            Query(caller, store_id, query, vector, limit, _BUDGET_TOKENS, condition, half_life_s, everything=True)
            for query, vector in zip(queries, vectors, strict=True)
        ]
        found = await asyncio.gather(*(parts.stages.retrieves.search(query) for query in asked))
    least = (body.ranking_options and body.ranking_options.score_threshold) or 0.0
    data = [_shape(passage) for passage in best(found)[:limit] if passage.score >= least]
    return {"object": "vector_store.search_results.page", "search_query": queries, "data": data, "has_more": False, "next_page": None}


def best(found: Iterable[Iterable[Passage]]) -> list[Passage]:
    """The passages of several searches, best first, each once with its best score."""
    kept: dict[tuple[str, int], Passage] = {}
    for passage in (passage for passages in found for passage in passages):
        key = passage.file_id, passage.chunk.number
        if key not in kept or kept[key].score < passage.score:
            kept[key] = passage
    return sorted(kept.values(), key=lambda passage: -passage.score)


def _shape(passage: Passage) -> dict[str, Any]:
    return {
        "file_id": passage.file_id,
        "filename": passage.filename,
        "score": passage.score,
        "attributes": passage.attributes,
        "content": [{"type": "text", "text": passage.chunk.text}],
    }
