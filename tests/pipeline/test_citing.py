"""The measurement of citations, abridged passages and refusals: on a small made-up collection, and in full on the public one."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deployments.core.config import Settings
from deployments.core.types import Vectors
from deployments.embedder.model import load
from pipeline.evaluate import abridging, attribution, refusing
from pipeline.evaluate.embeddings import Embeddings
from pipeline.evaluate.references import References, holds
from tests.fakes import FakeEmbeds

TOPICS = {
    "mill": "A headrace brings water from the weir to the wheel. The tailrace leads the used water away from the wheel.",
    "bread": "Sourdough bread rises for about four hours at room temperature. The oven is heated to 230 degrees before baking.",
    "bees": "A colony of bees needs twenty kilograms of honey in winter. The keeper weighs the hive every second week.",
    "ropes": "Hemp ropes shrink when they are wet. Sailors coil every rope clockwise so that no kinks appear.",
}


def encode(texts: Sequence[str]) -> Vectors:
    return np.stack([FakeEmbeds.vector(text) for text in texts])


def made(folder: Path) -> References:
    """A task for each topic, whose answer is its passage, and one that nothing answers."""
    tasks = [
        {"_id": f"t-{name}", "conversation_id": name, "collection": "c", "history": [], "text": f"Tell me of {name}: {text.split('. ')[0]}"}
        | {"answerability": ["ANSWERABLE"], "targets": [text], "gold_ids": [f"{name}-0-9"]}
        for name, text in TOPICS.items()
    ]
    tasks += [
        tasks[0] | {"_id": f"n{n}", "conversation_id": f"n{n}", "text": "Who won?", "answerability": ["UNANSWERABLE"], "gold_ids": []}
        for n in range(4)
    ]
    pool = [{"_id": f"{name}-0-9", "title": "", "text": text, "collection": "c"} for name, text in TOPICS.items()]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    (folder / "pool_corpus.jsonl").write_text("\n".join(map(json.dumps, pool)))
    return References(folder, Embeddings(folder / "vectors", "fake", encode))


def test_a_verbatim_answer_is_attributed_without_fault(tmp_path: Path) -> None:
    references = made(tmp_path)
    tasks = [task for task in references.tasks if task.label == "ANSWERABLE"]
    answers = attribution.answers(references, tasks)
    assert [len(answer.right) for answer in answers] == [2] * 4
    rights = [answer.right for answer in answers]
    assert rights == [answer.labelled for answer in answers]
    result = attribution.score([attribution.filtered(answer) for answer in answers], rights)
    # Foreign sentences are said by passages that are not gold here: each counts as wrong.
    assert (result.recall, result.sentences, result.precision) == (1, 1, 0.5)
    nothing = attribution.score([set()] * 4, rights)
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)


def test_the_support_of_an_answer_is_found_in_what_is_left(tmp_path: Path) -> None:
    references = made(tmp_path)
    tasks = [task for task in references.tasks if task.label == "ANSWERABLE"]
    kept, total, left, _ = abridging.recall(references, tasks, 4)
    assert (kept, total) == (1, 8)
    assert left <= 0.5


def test_questions_with_an_answer_have_more_support(tmp_path: Path) -> None:
    references = made(tmp_path)
    found = refusing.scores(references, references.tasks)
    assert refusing.auc(found) == 1
    assert refusing.auc((found[1], found[0])) == 0
    assert refusing.auc((found[0], found[0])) == 0.5
    assert refusing.threshold(found) == min(found[0])
    low, high = refusing.interval(([0.1, 0.3, 0.5], [0.2, 0.4]))
    assert low < refusing.auc(([0.1, 0.3, 0.5], [0.2, 0.4])) < high


def test_halves_share_no_conversation_and_gold_is_always_found(tmp_path: Path) -> None:
    references = made(tmp_path)
    first, second = references.halves("ANSWERABLE", "UNANSWERABLE")
    assert len(first) == len(second) == 4
    assert not {task.conversation for task in first} & {task.conversation for task in second}
    bees = next(task for task in references.tasks if task.id == "t-bees")
    assert {passage.filename for passage in references.found(bees, 1, gold=True)} == bees.gold
    assert [passage.file_id for passage in references.found(bees, 1)] == ["bees"]
    assert [holds(passage, "A colony of bees needs honey in winter.") for passage in references.found(bees, 4, gold=True)].count(True) == 1


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_goals_are_met_on_the_half_that_was_not_tuned_on(data: Path, tmp_path: Path) -> None:
    encoder = load(Settings(data_dir=tmp_path))
    references = References(data / "mtrag_un", Embeddings(tmp_path / "vectors", "embedded", encoder.encode))
    unseen = references.halves("ANSWERABLE")[1]
    answers = attribution.answers(references, unseen)
    cited = attribution.score([attribution.filtered(answer) for answer in answers], [answer.right for answer in answers])
    assert (cited.precision >= 0.85, cited.recall >= 0.75) == (True, True)
    kept, _, left, _ = abridging.recall(references, unseen, 20)
    assert (kept >= 0.95, left <= 0.5) == (True, True)
    assert refusing.auc(refusing.scores(references, references.halves("ANSWERABLE", "UNANSWERABLE")[1])) >= 0.8
