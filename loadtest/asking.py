"""Asks a running service over HTTP: one call sends one request and reads its answer to the end."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from locust.contrib.fasthttp import FastHttpSession

from loadtest.streaming import Events, Reading

ERROR_BYTES = 65536
"""That are read of an error."""


@dataclass(slots=True)
class Reply:
    """What came back for one request."""

    reading: Reading
    status: int = 0
    """0 when there was no connection."""
    request_id: str | None = None
    retry_after: bool = False
    body: Any = None
    """Of a request that is not streamed: its JSON."""


class Caller:
    """Sends requests with one key over one pool of connections."""

    def __init__(self, client: FastHttpSession, bearer: str) -> None:
        self._client = client
        self._headers = {"authorization": bearer}

    def plain(self, method: str, path: str, name: str, sent: float, body: Any = None, form: tuple[str, bytes] | None = None) -> Reply:
        """Ask for something that comes in one piece; `form` is a content type with the bytes, in place of JSON."""
        reply = Reply(Reading(sent))
        headers = self._headers | ({"content-type": form[0]} if form else {})
        options: dict[str, Any] = {"data": form[1]} if form else {"json": body}
        with self._client.request(method, path, name=name, headers=headers, catch_response=True, **options) as response:
            self._note(reply, response)
            if reply.status == 200:
                reply.body = orjson.loads(response.content or b"null")
                reply.reading.ended = time.monotonic()
                response.success()
            else:
                reply.reading.end(time.monotonic(), f"status {reply.status}")
                response.failure(f"status {reply.status}")
        return reply

    def stream(
        self,
        path: str,
        body: Mapping[str, object] | None,
        reading: Reading,
        headers: Mapping[str, str] | None = None,
        leave_after: int | None = None,
    ) -> Reply:
        """Read a streamed answer; with `leave_after`, only until so many words have come, and then cut the connection.

        Without a body it is asked for with GET. A stream that was left is no failure; its reading goes on over another connection.
        """
        reply, events = Reply(reading), Events()
        # The automatic row of a streamed request is the time to its headers; no gate looks at it.
        with self._client.request(
            "GET" if body is None else "POST",
            path,
            name=f"{path.split('/')[2]} (headers)",
            json=body,
            headers=self._headers | dict(headers or {}),
            stream=True,
            catch_response=True,
        ) as response:
            self._note(reply, response)
            if reply.status != 200:  # 0 is no connection; then there is no stream to read
                reply.reading.end(time.monotonic(), f"status {reply.status}{_code(response.stream) if reply.status else ''}")
                response.failure(f"status {reply.status}")
                return reply
            try:
                # readline returns each line as it comes; iter_lines() would gather 1,024 bytes first.
                while line := response.stream.readline(b"\n"):
                    for data in events.feed(line):
                        reading.read(data, time.monotonic())
                    if leave_after is not None and reading.tokens >= leave_after:
                        response.stream.release()
                        response.success()
                        return reply
            except Exception as error:  # leaving the block with it would report it in no row
                reading.end(time.monotonic(), type(error).__name__)
                response.failure(repr(error))
            else:
                reading.end(time.monotonic())
                response.success()
        return reply

    def _note(self, reply: Reply, response: Any) -> None:
        reply.status = response.status_code
        headers = {str(name).lower(): str(value) for name, value in (response.headers or {}).items()}
        reply.request_id = headers.get("x-request-id")
        reply.retry_after = reply.status != 200 and "retry-after-ms" in headers


def _code(stream: Any) -> str:
    """The code in the body of an error, behind a space; nothing where there is none."""
    try:
        error = orjson.loads(stream.read(ERROR_BYTES))["error"]
        return f" {error['code'] or error['type']}"
    except Exception:  # whatever the connection or the body is like, the status has been told
        return ""
