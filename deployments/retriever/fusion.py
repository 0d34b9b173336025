"""What two searches found, in one order; pure."""

from collections.abc import Sequence

from deployments.retriever.search import Hit, Scored

VECTOR_SHARE = 0.7
"""What the cosine counts in a score; the rest is for the words. Chosen by `python -m pipeline.evaluate DATA --tune`."""


def fuse(nearest: Sequence[Hit], matching: Sequence[Hit], share: float = VECTOR_SHARE) -> Scored:
    """A convex combination of cosine and BM25, best first; ties keep the order of `nearest`, then of `matching`.

    BM25 is divided by that of the best match, as it has no scale of its own (Bruch, Gai and Ingber, TOIS 2023). On the half of SciFact's
    claims that chose the share, nDCG@10 is .757 with it, .746 with the best weights and constant of reciprocal rank fusion.
    """
    best = max((hit.bm25 for hit in matching), default=0.0) or 1.0
    hits = {hit.key: hit for hit in (*nearest, *matching)}
    scored = [(hit, share * max(hit.similarity, 0.0) + (1 - share) * hit.bm25 / best) for hit in hits.values()]
    return sorted(scored, key=lambda item: -item[1])
