"""The journal of a run: one JSON object a request, from which all percentiles and gates are computed."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import orjson


@dataclass(frozen=True, slots=True)
class Row:
    """One request as its user saw it; times of day in Unix seconds, durations in milliseconds."""

    scenario: str
    user: str
    tenant: int
    """Which of the keys was used."""
    turn: int
    t_scheduled: float
    t_start: float
    ttft_ms: float | None
    itl_ms: list[float]
    e2e_ms: float
    tokens: int
    status: int
    """0 when there was no connection."""
    error_code: str | None
    request_id: str | None
    retry_after: bool
    missing: int
    """Words of the simulator's numbered text that never came, or came out of order."""
    repeated: int
    stage: int = 0
    """Of the scenario; -1 while the peak was measured."""
    kind: str = "chat"
    transport: str = "sse"
    silent: bool = False
    """It ended without its last event and without an error that says so."""
    resumes: int = 0
    resume_ms: float | None = None
    """From the cut to the first event over the next connection, the last time."""
    lost_events: int = 0
    """Numbers missing in the sequence of its events, over all connections."""
    repeated_events: int = 0


@dataclass(frozen=True, slots=True)
class Journal:
    """A file of rows; each is appended with one write, so several processes may share it."""

    path: Path

    def clear(self) -> None:
        """Begin anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")

    def append(self, row: Row) -> None:
        """Add one row."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, orjson.dumps(asdict(row)) + b"\n")
        finally:
            os.close(file)

    def rows(self) -> Iterator[Row]:
        """Yield all rows, in the order the requests ended."""
        known = [each.name for each in fields(Row)]
        with self.path.open("rb") as file:
            for line in file:
                values = orjson.loads(line)
                yield Row(**{name: values[name] for name in known})
