"""Looks again at who opened a connection, for as long as it is open."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Generator, Hashable
from dataclasses import dataclass, field

from deployments.core.errors import Forbidden, HeadraceError, Unauthenticated
from deployments.core.types import Principal

EVERY_S = 0.5
"""With a key trusted for a second at most, a connection outlives its key by a second and a half."""

_logger = logging.getLogger("headrace.gateway")


@dataclass(frozen=True)
class Proof:
    """What proved a caller, and how to prove it again; connections of one name are proved together."""

    name: Hashable
    again: Callable[[], Awaitable[Principal]]


End = Callable[[HeadraceError], None]
"""Ends a connection now, as its caller may not be here any more; it is told why."""


@dataclass
class Watch:
    """The open connections, sockets and answers over HTTP alike, by what proved their callers."""

    every_s: float = EVERY_S
    _watched: dict[Hashable, tuple[Proof, set[End]]] = field(default_factory=dict[Hashable, tuple[Proof, set[End]]])

    @contextlib.contextmanager
    def over(self, proof: Proof, end: End) -> Generator[None]:
        """Watch a connection for as long as the context lasts."""
        self._watched.setdefault(proof.name, (proof, set()))[1].add(end)
        try:
            yield
        finally:
            ends = self._watched[proof.name][1]
            ends.discard(end)
            if not ends:
                del self._watched[proof.name]

    async def run(self) -> None:
        """Look at all of them, again and again, until cancelled."""
        while True:
            await asyncio.sleep(self.every_s)
            for proof, ends in list(self._watched.values()):
                if error := await self._against(proof):
                    for end in list(ends):
                        end(error)

    @staticmethod
    async def _against(proof: Proof) -> HeadraceError | None:
        """Why a caller may not stay; while SQL can not be asked, it may."""
        try:
            await proof.again()
        except (Unauthenticated, Forbidden) as error:
            return error
        except Exception as error:  # one that can not be looked at now must not end the watch over the others
            _logger.warning("a connection can not be proved again now: %s", type(error).__name__)
        await asyncio.sleep(0)
        return None
