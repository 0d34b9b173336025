"""How good a ranking is: nDCG and recall, and the difference of two with its confidence; pure."""

from collections.abc import Callable, Mapping, Sequence, Set
from math import log2
from random import Random

import msgspec

Ranking = Sequence[str]
Measure = Callable[[Ranking, Set[str]], float]

SAMPLES = 1000
"""Resamples of the bootstrap."""


class Score(msgspec.Struct, frozen=True):
    """The means over the queries, and how many of them found nothing at all."""

    ndcg10: float
    recall10: float
    recall100: float
    queries: int
    empty: int


def ndcg(ranking: Ranking, relevant: Set[str], depth: int = 10) -> float:
    """Normalised discounted cumulative gain of a ranking, binary (Järvelin and Kekäläinen, TOIS 2002; log2 as in trec_eval)."""
    gain = sum(1 / log2(place + 2) for place, name in enumerate(ranking[:depth]) if name in relevant)
    return gain / sum(1 / log2(place + 2) for place in range(min(depth, len(relevant))))


def recall(ranking: Ranking, relevant: Set[str], depth: int) -> float:
    """The part of what is relevant that the first places hold."""
    return len(relevant & set(ranking[:depth])) / len(relevant)


def score(rankings: Mapping[str, Ranking], relevant: Mapping[str, Set[str]]) -> Score:
    """The means over the queries that have a ranking."""

    def mean(measure: Measure) -> float:
        return sum(measure(ranking, relevant[query]) for query, ranking in rankings.items()) / len(rankings)

    return Score(
        mean(ndcg),
        mean(lambda ranking, wanted: recall(ranking, wanted, 10)),
        mean(lambda ranking, wanted: recall(ranking, wanted, 100)),
        len(rankings),
        sum(not ranking for ranking in rankings.values()),
    )


def gain(better: Mapping[str, Ranking], worse: Mapping[str, Ranking], relevant: Mapping[str, Set[str]]) -> tuple[float, float, float]:
    """The mean difference in nDCG@10 over the same queries, and its 95 % interval by the paired bootstrap."""
    differences = [ndcg(better[query], relevant[query]) - ndcg(worse[query], relevant[query]) for query in better]
    random = Random(0)
    means = sorted(sum(random.choices(differences, k=len(differences))) / len(differences) for _ in range(SAMPLES))
    return sum(differences) / len(differences), means[int(0.025 * SAMPLES)], means[int(0.975 * SAMPLES)]
