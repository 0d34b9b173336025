"""`headrace stores` and `headrace files` against a real port."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from tests.fakes import Served

Run = Callable[..., Result]
Told = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "data"
    folder.mkdir()
    with Served(folder).running() as served:
        yield served


@pytest.fixture
def run(served: Served) -> Run:
    return lambda *words: CliRunner().invoke(app, [*map(str, words), "--url", served.url, "--key", served.key])


@pytest.fixture
def told(run: Run) -> Told:
    def ask(*words: object) -> list[dict[str, Any]]:
        done = run(*words, "--json")
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


def completed(told: Told, store: str) -> list[dict[str, Any]]:
    """The files of a store once none of them is in progress."""
    for _ in range(500):
        if not told("stores", "files", store, "--status", "in_progress"):
            return told("stores", "files", store)
    raise AssertionError


def test_a_store_is_made_filled_searched_described_and_deleted(run: Run, told: Told, tmp_path: Path) -> None:
    (tmp_path / "wheel.md").write_text("# The wheel\n\nWater turns the wheel.")
    (tmp_path / "empty.md").write_text("")
    [made] = told("stores", "add", "mill", "--metadata", "team=docs")
    ids = [told("files", "add", tmp_path / name)[0]["id"] for name in ("wheel.md", "empty.md")]
    filled = told("stores", "fill", "mill", *ids, "file-none", "--attribute", "year=1820", "--attribute", "kind=guide")
    assert {one["id"]: one["status"] for one in filled}["file-none"] == "failed"
    held = {one["id"]: one for one in completed(told, "mill")}
    assert [held[one]["status"] for one in ids] == ["completed", "failed"]
    assert held[ids[0]]["attributes"] == {"year": 1820, "kind": "guide"}
    assert held[ids[1]]["last_error"]["message"]
    where = json.dumps({"type": "gt", "key": "year", "value": 1800})
    [found] = told("stores", "search", "mill", "what turns the wheel?", "--where", where)
    assert (found["filename"], "Water turns the wheel." in found["text"]) == ("wheel.md", True)
    told("stores", "describe", "mill", ids[0], "--attribute", "year=1700")
    assert told("stores", "search", "mill", "what turns the wheel?", "--where", where) == []
    [renamed] = told("stores", "set", "mill", "--name", "watermill")
    assert (renamed["id"], renamed["metadata"]) == (made["id"], {"team": "docs"})
    assert run("stores", "delete", "watermill").exit_code == 0
    assert [one["name"] for one in told("stores", "list")] == ["default"]


def test_a_file_is_listed_downloaded_and_deleted(run: Run, told: Told, tmp_path: Path) -> None:
    path = tmp_path / "wheel.md"
    path.write_bytes(b"\xff# The wheel")
    [made] = told("files", "add", path)
    assert (told("files", "list"), told("files", "show", made["id"])) == ([made], [made])
    assert run("files", "get", made["id"], tmp_path / "copy.md").exit_code == 0
    assert (tmp_path / "copy.md").read_bytes() == path.read_bytes()
    assert run("files", "get", made["id"], path).exit_code != 0
    assert path.read_bytes() == b"\xff# The wheel"
    assert run("files", "delete", made["id"]).exit_code == 0
    assert told("files", "list") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stores", "show", "nowhere"), "there is no vector store 'nowhere'"),
        (("files", "show", "file-none"), "no file with the id"),
        (("stores", "search", "default", "wheel", "--where", "{"), "--where is no JSON"),
        (("stores", "search", "default", "wheel", "--where", '{"type":"like"}'), "filters.type"),
    ],
)
def test_what_is_refused_is_said_and_ends_the_command(run: Run, words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 1
    assert said in done.stderr


def test_a_table_is_shown_where_nobody_asked_for_json(run: Run) -> None:
    shown = " ".join(run("stores", "list").stdout.split())
    assert "status" in shown
    assert "default" in shown
    assert not shown.startswith("{")
