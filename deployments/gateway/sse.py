"""A response over HTTP: its events as a stream, or the whole of it as one body; sans-I/O."""

from collections.abc import Sequence

from deployments.core.errors import HeadraceError
from deployments.core.types import Delta, Failed, Opened
from deployments.gateway import envelope
from deployments.gateway.events import Event, ResponseEvents, error_event

DONE = b"data: [DONE]\n\n"


class ResponseStream:
    """Deltas to the bytes of an event stream that begins behind event number `after`."""

    def __init__(self, events: ResponseEvents, after: int = -1):
        self._events = events
        self._after = after

    def start(self) -> bytes:
        """The events before anything has been written."""
        return self._bytes(self._events.start())

    def encode(self, deltas: Sequence[Delta]) -> bytes:
        """The events of some deltas, and the end of the stream behind the last."""
        return self._bytes(self._events.feed(deltas)) + (DONE if self._events.ended else b"")

    def failed(self, error: HeadraceError) -> bytes:
        """The event of an error that the log does not hold; nothing follows it."""
        return b"event: error\ndata: " + error_event(error, number=self._events.next_number) + b"\n\n" + DONE

    def _bytes(self, events: Sequence[Event]) -> bytes:
        return b"".join([event.sse() for event in events if event.number > self._after])


class ResponseBody:
    """Deltas to the body of a whole response."""

    def __init__(self, events: ResponseEvents):
        self._events = events
        self._spoke = False
        events.start()

    def feed(self, deltas: Sequence[Delta]) -> bytes | None:
        """Take deltas; the body once the last one has come. Raises Broken where it failed before it said anything."""
        for delta in deltas:
            if isinstance(delta, Failed) and not self._spoke:
                raise envelope.Broken(delta)
            self._spoke = self._spoke or not isinstance(delta, Opened)
        self._events.feed(deltas)
        return self._events.body() if self._events.ended else None
