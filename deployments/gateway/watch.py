"""Looks again at who opened a connection, for as long as it is open."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

from deployments.core.errors import Forbidden, Unauthenticated
from deployments.core.types import Principal

EVERY_S = 0.5
"""With a key trusted for a second at most, a connection outlives its key by a second and a half."""

_logger = logging.getLogger("headrace.gateway")


@dataclass(frozen=True)
class Proof:
    """What proved a caller, and how to prove it again; connections of one name are proved together."""

    name: Hashable
    again: Callable[[], Awaitable[Principal]]


class Ends(Protocol):
    """A connection that can be ended."""

    def end(self) -> None:
        """End it now, as its caller may not be here any more."""
        ...


@dataclass
class Watch:
    """The open connections, by what proved their callers."""

    _watched: dict[Hashable, tuple[Proof, set[Ends]]] = field(default_factory=dict[Hashable, tuple[Proof, set[Ends]]])

    def add(self, proof: Proof, connection: Ends) -> None:
        """Watch a connection."""
        self._watched.setdefault(proof.name, (proof, set()))[1].add(connection)

    def discard(self, proof: Proof, connection: Ends) -> None:
        """Watch it no more."""
        _, connections = self._watched.get(proof.name, (proof, set()))
        connections.discard(connection)
        if not connections:
            self._watched.pop(proof.name, None)

    async def run(self) -> None:
        """Look at all of them, again and again, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            for proof, connections in list(self._watched.values()):
                if not await self._stands(proof):
                    for connection in list(connections):
                        connection.end()

    @staticmethod
    async def _stands(proof: Proof) -> bool:
        """Whether a caller may stay; while SQL can not be asked, it may."""
        try:
            await proof.again()
        except (Unauthenticated, Forbidden):
            return False
        except Exception as error:  # one that can not be looked at now must not end the watch over the others
            _logger.warning("a connection can not be proved again now: %s", type(error).__name__)
        await asyncio.sleep(0)
        return True
