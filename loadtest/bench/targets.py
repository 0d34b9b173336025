"""What is measured: a target runs for a while, and offers one or more models at an OpenAI base URL."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Case:
    """One row of the table: what it is called, and the model name to ask for."""

    label: str
    model: str


@dataclass(frozen=True)
class Endpoint:
    """Where a running target answers; `pid` is the root of its processes, None when they are not to be measured."""

    url: str
    key: str
    pid: int | None
    admin: str | None = None
    """The key of an administrator, where it has one."""
    inner: str | None = None
    """Where it answers without the proxy in front of it."""


class Target(Protocol):
    """Something that can be started and measured."""

    @property
    def name(self) -> str:
        """What the command line calls it."""
        ...

    @property
    def cases(self) -> tuple[Case, ...]:
        """Its rows."""
        ...

    def running(self, upstream: str) -> AbstractAsyncContextManager[Endpoint]:
        """Run it against an upstream's base URL; at the end nothing of it is left."""
        ...


@dataclass(frozen=True)
class Direct:
    """The upstream itself: what every other row is compared with."""

    name: str = "simulator"
    cases: tuple[Case, ...] = (Case("simulator", "sim"),)

    @asynccontextmanager
    async def running(self, upstream: str) -> AsyncIterator[Endpoint]:
        """There is nothing to start."""
        yield Endpoint(upstream, "none", None)


@dataclass(frozen=True)
class Running:
    """A stack that somebody else has started."""

    name: str
    cases: tuple[Case, ...]
    endpoint: Endpoint

    @asynccontextmanager
    async def running(self, upstream: str) -> AsyncIterator[Endpoint]:
        """There is nothing to start; its upstream is its own affair."""
        yield self.endpoint
