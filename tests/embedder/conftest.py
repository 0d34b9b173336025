"""The embedding model, loaded once a session."""

from pathlib import Path

import pytest

from deployments.core.config import Settings
from deployments.embedder.model import Encodes, load


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data_dir=Path(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="session")
def encoder(settings: Settings) -> Encodes:
    return load(settings)
