"""The training of the complexity score: its measures, and its folds."""

from itertools import pairwise

import numpy as np
import pytest

from deployments.router.score import Complexity
from pipeline.evaluate.routing import Examples, apgr, auc, ridge, train

GAINS = np.array([1.0, 0.0, 1.0, 0.0])


def test_an_order_that_finds_all_gains_first_recovers_the_most() -> None:
    assert apgr(np.array([4.0, 2.0, 3.0, 1.0]), GAINS) == pytest.approx(0.75)
    assert apgr(np.array([1.0, 3.0, 2.0, 4.0]), GAINS) == pytest.approx(0.25)


def test_an_auc_counts_pairs_in_the_right_order_and_ties_half() -> None:
    assert auc(np.array([2.0, 1.0, 2.0, 0.0]), GAINS) == 1
    assert auc(np.array([1.0, 1.0, 0.0, 0.5]), GAINS) == pytest.approx(1.5 / 4)


def test_what_is_said_of_a_fold_is_what_training_without_it_says() -> None:
    random = np.random.RandomState(1)
    rows, gains = random.standard_normal((30, 5)).astype(np.float32), random.standard_normal(30)
    folds = [np.arange(start, end) for start, end in pairwise((0, 7, 19, 30))]
    unseen = ridge(rows, gains, folds, penalty=0.5)[1]
    for fold in folds:
        rest = np.setdiff1d(np.arange(30), fold)
        slopes, _ = ridge(rows[rest], gains[rest], [], penalty=0.5)
        assert unseen[fold] == pytest.approx(rows[fold] @ slopes, abs=1e-5)


def examples(name: str, texts: list[str], gains: list[float]) -> Examples:
    return Examples(name, texts, np.array(gains), [np.arange(0, len(texts), 2), np.arange(1, len(texts), 2)])


def test_the_same_inputs_give_the_same_weights_and_they_score_what_was_trained() -> None:
    short, long = [f"what is {number}" for number in range(20)], [f"prove that {number} is prime and say why" for number in range(20)]
    texts, vectors = short + long, np.random.RandomState(2).standard_normal((80, 16)).astype(np.float32) / 4
    sets = [examples(name, texts, [0.0] * 20 + [1.0] * 20) for name in ("one", "other")]
    (weights, record), (again, _) = train(sets, vectors, "today"), train(sets, vectors, "today")
    assert all(np.array_equal(weights[name], again[name]) for name in weights)
    assert record["auc"] == 1
    complexity = Complexity(weights)
    assert max(complexity.score(text, vector) for text, vector in zip(short, vectors, strict=False)) < min(
        complexity.score(text, vector) for text, vector in zip(long, vectors[20:], strict=False)
    )
