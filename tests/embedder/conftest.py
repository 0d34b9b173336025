"""The embedding model, loaded once a session."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deployments.core.config import Settings
from deployments.embedder.model import Encodes, load, prepare


@cache
def _exported() -> tuple[str, bytes]:
    """Its file's name and contents, made once."""
    with TemporaryDirectory() as folder:
        file = prepare(Settings(data_dir=Path(folder)))
        return file.name, file.read_bytes()


def furnish(folder: Path) -> None:
    """Put the exported model where a service with this data folder looks for it; exporting takes ten seconds of a core each time."""
    name, content = _exported()
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "models" / name).write_bytes(content)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("state")
    furnish(folder)
    return Settings(data_dir=folder)


@pytest.fixture(scope="session")
def encoder(settings: Settings) -> Encodes:
    return load(settings)
