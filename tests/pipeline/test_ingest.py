"""`headrace ingest` against a real port."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.cli.ingest import find, root_tag
from tests.fakes import Served

Ingest = Callable[..., Result]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "data"
    folder.mkdir()
    with Served(folder).running() as served:
        yield served


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "tutorial").mkdir(parents=True)
    (folder / "index.md").write_text("# Home\n\nWelcome to the mill.")
    (folder / "tutorial" / "wheel.md").write_text("# The wheel\n\nWater turns the wheel.")
    (folder / "notes.rst").write_text("Notes\n=====\n\nThe race is full.")
    return folder


@pytest.fixture
def ingest(served: Served) -> Ingest:
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["ingest", *map(str, arguments), "--url", served.url, "--key", served.key])

    return run


def held(served: Served) -> list[str]:
    """The names of the files in the index."""
    return sorted(rows[0][0].filename for rows in served.desk.retrieves.files.values())


def counts(result: Result) -> dict[str, int]:
    rows = [line.split() for line in result.output.splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def test_a_folder_is_ingested_with_relative_names(served: Served, docs: Path, ingest: Ingest) -> None:
    result = ingest(docs)
    assert result.exit_code == 0, result.output
    assert held(served) == ["index.md", "notes.rst", "tutorial/wheel.md"]
    assert counts(result) == {"added": 3, "replaced": 0, "unchanged": 0, "removed": 0, "skipped": 0, "failed": 0}


def test_a_second_run_does_nothing(docs: Path, ingest: Ingest) -> None:
    ingest(docs)
    assert counts(ingest(docs))["unchanged"] == 3


def test_only_what_changed_is_replaced(served: Served, docs: Path, ingest: Ingest) -> None:
    ingest(docs)
    before = set(served.desk.retrieves.files)
    (docs / "index.md").write_text("# Home\n\nThe mill has moved.")
    result = ingest(docs)
    assert (counts(result)["replaced"], counts(result)["unchanged"]) == (1, 2)
    assert len(before - set(served.desk.retrieves.files)) == 1
    texts = [chunk.text for rows in served.desk.retrieves.files.values() for _, chunk, _ in rows]
    assert any("has moved" in text for text in texts)
    assert not any("Welcome" in text for text in texts)


def test_what_was_deleted_stays_until_it_is_pruned(served: Served, docs: Path, ingest: Ingest) -> None:
    ingest(docs)
    (docs / "index.md").unlink()
    assert counts(ingest(docs))["removed"] == 0
    assert "index.md" in held(served)
    assert counts(ingest(docs, "--prune"))["removed"] == 1
    assert "index.md" not in held(served)


def test_pruning_one_folder_leaves_another_alone(served: Served, docs: Path, tmp_path: Path, ingest: Ingest) -> None:
    other = tmp_path / "other" / "docs"
    other.mkdir(parents=True)
    (other / "index.md").write_text("# Elsewhere\n\nAnother mill.")
    ingest(docs, other)
    assert held(served).count("index.md") == 2
    (docs / "index.md").unlink()
    ingest(docs, "--prune")
    assert held(served).count("index.md") == 1


def test_a_file_that_can_not_be_read_is_reported_and_the_exit_code_says_so(docs: Path, ingest: Ingest) -> None:
    (docs / "latin.md").write_bytes("# Caf\xe9\n\ntext".encode("latin-1"))
    result = ingest(docs)
    assert result.exit_code == 1
    assert counts(result)["added"] == 3
    assert "latin.md: not valid UTF-8" in result.output


def test_what_is_skipped_is_listed_with_its_reason(docs: Path, tmp_path: Path, ingest: Ingest) -> None:
    (docs / "photo.png").write_bytes(b"\x89PNG")
    (docs / "empty.md").write_text(" \n")
    (docs / "binary.txt").write_bytes(b"a\x00b")
    (docs / ".git").mkdir()
    (docs / ".git" / "config.txt").write_text("hidden")
    (tmp_path / "secret.md").write_text("# Secret\n\nelsewhere")
    (docs / "link.md").symlink_to(tmp_path / "secret.md")
    result = ingest(docs)
    assert result.exit_code == 0
    for line in ("photo.png: .png suffix is not supported", "empty.md: empty", "binary.txt: binary", "link.md: a link out of its folder"):
        assert line in result.output
    assert counts(result)["skipped"] == 5


def test_a_hostile_name_can_not_command_the_terminal(docs: Path, ingest: Ingest) -> None:
    (docs / "\x1b]0;owned\x07\u202egnp.png").write_bytes(b"x")
    result = ingest(docs)
    assert "png suffix is not supported" in result.output
    assert not set("\x1b\x07\u202e") & set(result.output)


def test_a_store_is_chosen_by_name(docs: Path, ingest: Ingest) -> None:
    assert ingest(docs, "--store", "default").exit_code == 0
    result = ingest(docs, "--store", "none such")
    assert result.exit_code == 1
    assert "there is no vector store 'none such'" in result.stderr


def test_a_wrong_key_or_a_dead_server_is_said_plainly(served: Served, docs: Path) -> None:
    wrong = CliRunner().invoke(app, ["ingest", str(docs), "--url", served.url, "--key", "hr_wrong"])
    assert wrong.exit_code == 1
    assert "the API key is not valid" in wrong.stderr
    assert "Traceback" not in wrong.output


def test_a_single_file_is_named_without_its_folder(docs: Path) -> None:
    [document] = find([docs / "tutorial" / "wheel.md"], 1 << 20).documents
    assert (document.path, document.root) == ("wheel.md", root_tag(docs / "tutorial"))


def test_a_path_named_twice_is_one_document(docs: Path) -> None:
    assert len(find([docs, docs, docs / "index.md"], 1 << 20).documents) == 3


def test_a_large_file_is_skipped(docs: Path) -> None:
    (docs / "large.txt").write_text("x" * 2000)
    assert find([docs], 1000).skipped == [("large.txt", "larger than 1000 bytes")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_skipped(docs: Path) -> None:
    (docs / "index.md").chmod(0)
    assert ("index.md", "Permission denied") in find([docs], 1000).skipped


def test_a_bulk_run_with_a_config_that_is_none_says_so(tmp_path: Path):
    (tmp_path / "headrace.yaml").write_text("data_dir: here\n")
    wrong = CliRunner().invoke(app, ["ingest", str(tmp_path), "--bulk", "--config", str(tmp_path / "headrace.yaml")])
    assert wrong.exit_code == 1
    assert "is not a Serve config file" in wrong.output
    assert "Traceback" not in wrong.output
