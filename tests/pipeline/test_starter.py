"""The starter corpus, from what is installed here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.core.config import Settings
from deployments.retriever.parse import parse
from pipeline.starter import MAX_CHARS, brief, corpus, starter
from tests.fakes import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path).running() as served:
        (tmp_path / "demo.key").write_text(served.key)
        yield served


def settings(served: Served, folder: Path) -> Settings:
    return Settings(data_dir=folder, port=int(served.url.rpartition(":")[2]))


def test_a_hundred_documents_are_found_each_under_its_own_name() -> None:
    documents = list(corpus())
    names = [document.path for document in documents]
    assert len(documents) >= 60
    assert len(set(names)) == len(names)
    assert {"packages/fastapi.md", "packages/pydantic.md"} <= set(names)
    for document in documents:
        if document.path.startswith("packages/"):
            name = document.path.removeprefix("packages/").rpartition(".")[0]
            assert parse(document.load(), document.path).title == name


def test_the_corpus_is_bounded_and_the_same_every_time() -> None:
    documents = list(corpus())
    assert sum(len(document.load().decode()) for document in documents) <= MAX_CHARS
    assert [(one.path, one.sha256) for one in documents] == [(one.path, one.sha256) for one in corpus()]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Intro\n\n## Changelog\n\n* 1.0", "Intro"),
        ("Intro\n\nRelease History\n---------------\n\n1.0", "Intro"),
        ("Intro\n\nChanges are tracked.\n\nMore", "Intro\n\nChanges are tracked.\n\nMore"),
        ("one\n\ntwo\n\n" + "x" * 50, "one\n\ntwo"),
        ("x" * 50, ""),
        ("a\r\nb", "a\nb"),
    ],
)
def test_a_description_is_cut_before_its_changes_and_between_paragraphs(text: str, kept: str) -> None:
    assert brief(text, 49) == kept


def test_it_is_ingested_once_and_its_progress_is_told(served: Served, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    first = starter(settings(served, tmp_path), lambda *step: told.append(step))
    count = len(list(corpus()))
    assert first == f"{count} documents"
    assert len(served.desk.retrieves.files) == count
    assert told[-1] == (count, count, "documents")
    told.clear()
    calls = len(served.desk.embeds.calls)
    assert starter(settings(served, tmp_path), lambda *step: told.append(step)) == first
    assert (len(served.desk.embeds.calls), told) == (calls, [])


def test_a_server_that_is_away_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "demo.key").write_text("hr_x")
    said = starter(Settings(data_dir=tmp_path, port=9), lambda *step: None)
    assert said.startswith("not complete")
