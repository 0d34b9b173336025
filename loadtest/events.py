"""Reads the numbered events of the Responses API, over as many connections as one answer takes.

Nothing here touches a socket or a clock; the reader is fed, and the time is an argument.
"""

from dataclasses import dataclass

import orjson

from loadtest.streaming import Reading

OLD = "websocket_connection_limit_reached"
"""The code of the error before a socket is closed that has been open for as long as it may; answers go on over another one."""


@dataclass(slots=True)
class Following(Reading):
    """One response as its client saw it."""

    id: str | None = None
    number: int = -1
    """The last `sequence_number`: where another connection goes on."""
    lost: int = 0
    """Numbers that were passed over."""
    again: int = 0
    """Events that had been seen before."""
    resumable: bool = False
    """It outlives its connections: a body that ends before its last event is no failure."""
    heard: float | None = None
    """When the first event came over the present connection."""
    status: int = 200
    """What an error event says in place of an HTTP status."""
    retry_after: bool = False

    def read(self, data: bytes, now: float) -> int:
        """Take one event and return how many words it began."""
        if data == b"[DONE]":
            return 0
        self.heard = self.heard or now
        try:
            event = orjson.loads(data)
            if not self._count(event.get("sequence_number")):
                return 0
            match event["type"]:
                case "response.created":
                    self.id = event["response"]["id"]
                case "response.output_text.delta":
                    return self.say(event["delta"], now)
                case "response.completed":
                    self._over("stop", now)
                case "response.incomplete":
                    self._over(event["response"]["incomplete_details"]["reason"], now)
                case "response.failed":
                    self.fail(str(event["response"]["error"]["code"]), now)
                case "error" if event.get("code") == OLD:
                    pass  # it is closed next
                case "error":
                    self.status, self.retry_after = int(event.get("status", 500)), "retry_after_ms" in event.get("error", {})
                    self.fail(str(event.get("code") or "error"), now)
                case _:
                    pass
        except (ValueError, KeyError, AttributeError, TypeError):
            self.fail("malformed event", now)
        return 0

    def end(self, now: float, error: str | None = None) -> None:
        """Note that a connection is over; the answer is not, where another one may go on with it."""
        if not (self.resumable and self.id and not self.over):
            super(Following, self).end(now, error)  # the short form does not find its class in a dataclass with slots

    @property
    def over(self) -> bool:
        """The last event has come, or an error in its place."""
        return self.done or self.error is not None

    def _count(self, number: int | None) -> bool:
        """Take a number; False where its event has been seen."""
        if number is None:
            return True
        if number <= self.number:
            self.again += 1
            return False
        self.lost += number - self.number - 1
        self.number = number
        return True

    def _over(self, finish: str, now: float) -> None:
        if finish in ("stop", "max_output_tokens"):
            self.finish, self.done, self.ended = finish, True, now
        else:
            self.fail(finish, now)
