"""How the stages stand, as whoever runs them tells."""

from typing import Protocol

import msgspec


class Stage(msgspec.Struct, frozen=True):
    """One stage: what Serve says of it, how many replicas it should have, and how many run."""

    stage: str
    status: str
    target: int
    running: int


class Board(Protocol):
    """What knows the stages."""

    async def stages(self) -> list[Stage] | None:
        """Every stage; None where it can not know."""
        ...
