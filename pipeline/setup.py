"""What must be there before the application starts, and what is good to have after."""

from collections.abc import Callable

from deployments.core.config import Settings


def prepare(settings: Settings) -> None:
    """Nothing yet."""


def starter(settings: Settings, progress: Callable[[int, int, str], None]) -> None:
    """Nothing yet."""
