import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from deployments.core.config import environment
from pipeline.instance import MARK, Instance, InUse, card_path, end, read, running


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    made = Instance(tmp_path / "data", "http://here")
    yield made
    made.close()


def spawn(mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment(**{MARK: mark}))


def test_one_instance_has_a_data_folder(instance: Instance):
    with pytest.raises(InUse, match=r"already runs on .* at http://here"):
        Instance(instance.data_dir, "http://there")


def test_everything_it_writes_is_private(instance: Instance):
    for path in (instance.data_dir, instance.data_dir / "run", instance.data_dir / "instance.json", instance.subfolder("x")):
        assert path.stat().st_mode & 0o077 == 0


def test_its_folder_is_short_however_deep_the_data_lies(tmp_path: Path):
    deep = Instance(tmp_path / ("deep" * 40) / "data", "")
    assert len(str(deep.folder)) < 20
    deep.close()


def test_closing_kills_what_is_marked_and_frees_the_folder(tmp_path: Path):
    instance = Instance(tmp_path, "")
    left = spawn(instance.card.mark)
    assert instance.close()
    left.wait(5)
    assert not psutil.pid_exists(left.pid)
    assert not running(tmp_path)
    assert not instance.folder.is_symlink()


def test_closing_bears_a_short_path_that_is_gone(tmp_path: Path):
    instance = Instance(tmp_path, "")
    instance.folder.unlink()
    instance.close()
    assert not running(tmp_path)
    assert read(tmp_path) is None


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_closing_leaves_what_took_the_place_of_its_short_path(tmp_path: Path, make: Callable[[Path], None]):
    instance = Instance(tmp_path, "")
    short = instance.folder
    short.unlink()
    make(short)
    try:
        instance.close()
        assert short.exists()
        assert not running(tmp_path)
    finally:
        short.rmdir() if short.is_dir() else short.unlink()


def test_the_next_one_bears_what_took_the_place_of_a_dead_ones_short_path(tmp_path: Path):
    first = Instance(tmp_path, "")
    card, short = first.card, first.folder
    first.close()
    card_path(tmp_path).write_text(json.dumps(asdict(card)))
    short.mkdir()
    try:
        Instance(tmp_path, "").close()
        assert short.is_dir()
    finally:
        short.rmdir()


def test_what_is_spared_lives(instance: Instance):
    kept = spawn(instance.card.mark)
    assert instance.sweep({kept.pid}) == []
    assert psutil.pid_exists(kept.pid)
    kept.kill()
    kept.wait()


def test_the_next_one_ends_what_a_dead_one_left(tmp_path: Path):
    program = (
        f"from pathlib import Path; from pipeline.instance import Instance; import os; Instance(Path({str(tmp_path)!r}), ''); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    card = read(tmp_path)
    assert card is not None
    orphan = spawn(card.mark)
    following = Instance(tmp_path, "")
    assert following.stragglers
    orphan.wait(5)
    assert not psutil.pid_exists(orphan.pid)
    following.close()


def test_there_is_nothing_to_end_where_nothing_runs(tmp_path: Path):
    assert end(tmp_path) is None
