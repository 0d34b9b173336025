"""From what two searches found to the passages somebody reads, top to bottom; pure."""

from collections.abc import Iterable, Mapping, Sequence

from deployments.core.types import Passage, Query
from deployments.retriever.diversity import diverse
from deployments.retriever.fusion import fuse
from deployments.retriever.recency import aged
from deployments.retriever.relevance import relevance
from deployments.retriever.search import Hit, Key, Scored

FILE_SHARE = 2
"""One file takes a half of the places at most, while there are others.

Of 25 questions about a documentation nine had prompts from one page without it, none has with it, and .83 instead of .82 of the pages
that answer are in the four passages of a prompt. It costs mtrag_un, where files hold several answers, .024 of recall in four passages.
"""


def rank(query: Query, nearest: Sequence[Hit], matching: Sequence[Hit], min_similarity: float) -> Scored:
    """The relevant hits of both searches, best first; none where nothing is relevant.

    `nearest` and `matching` are best first. A passage is relevant when its cosine, corrected by the words of the question it holds,
    reaches `min_similarity`; a query for `everything` takes any.
    """
    fused = fuse(nearest, matching)
    if query.everything:
        return fused
    relevant = relevance(query.text, [hit for hit, _ in fused])
    return [(hit, score) for hit, score in fused if relevant[hit.key] >= min_similarity]


def reordered(scored: Scored, scores: Mapping[Key, float]) -> Scored:
    """The hits that a reranker has judged by its scores, best first, and behind them the others by the scores they had."""
    judged = [(hit, scores[hit.key]) for hit, _ in scored if hit.key in scores]
    least = min(scores.values(), default=1.0)
    return sorted(judged, key=lambda item: -item[1]) + [(hit, score * least) for hit, score in scored if hit.key not in scores]


def select(query: Query, scored: Scored, now: float) -> tuple[Passage, ...]:
    """The passages of the result by their scores, best first: new before old, each text once, no file alone, within limit and budget.

    A query for `everything` finds a text in every file that holds it.
    """
    if query.half_life_s is not None:
        scored = aged(scored, now, query.half_life_s)
    chosen = _fitting(query, diverse(scored, max(query.limit // FILE_SHARE, 1), copies=query.everything))
    return tuple(sorted(chosen, key=lambda passage: -passage.score))


def _fitting(query: Query, scored: Iterable[tuple[Hit, float]]) -> Iterable[Passage]:
    places, left = query.limit, query.budget_tokens
    for hit, score in scored:
        if not places:
            return
        if hit.chunk.tokens <= left:
            places, left = places - 1, left - hit.chunk.tokens
            yield Passage(hit.file_id, hit.filename, hit.title, hit.chunk, score, hit.similarity, hit.attributes, hit.created_at)
