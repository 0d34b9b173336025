"""How often Python's garbage collector looks in a process that writes streams."""

import gc

_ALLOCATIONS = 10_000
"""Between two looks. Python's 700 are reached every few requests, and cost a gateway replica a tenth of its CPU."""


def relax() -> None:
    """Let the collector look less often; what is there when a replica stands is left out by Serve anyway."""
    gc.set_threshold(_ALLOCATIONS)
