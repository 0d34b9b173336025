"""The starter corpus: what a new installation can answer questions about at once."""

from collections.abc import Callable

from deployments.core.config import Settings


def starter(settings: Settings, progress: Callable[[int, int, str], None]) -> None:
    """Nothing yet."""
