"""Deltas to the events of the Responses API; sans-I/O.

The events are a function of the response as it was asked for and of its log alone, so that every transport, every replica and every
replay sends the same bytes under the same numbers. Ids of items derive from the response's own.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from deployments.core.errors import HeadraceError
from deployments.core.responses import Item, StoredResponse
from deployments.core.tools import Awaits, Ran
from deployments.core.types import (
    Called,
    Cancelled,
    Citation,
    Cited,
    Delta,
    Failed,
    Finished,
    Hit,
    Last,
    Logprob,
    Opened,
    Reason,
    Searched,
    Searching,
    Switched,
    Text,
    Usage,
)
from deployments.gateway import envelope
from deployments.gateway.tool_events import broken, call_events, call_item, request_item
from deployments.gateway.wire import MAX_EVENT_CHARS

MAX_EVENT_LOGPROBS = 16
"""Probabilities of one event, each with up to 20 alternatives of some 100 bytes; for the same readers as MAX_EVENT_CHARS."""

MAX_RESULTS_BYTES = 40_000
"""Text of all results of a search together."""

ERROR_CODES = ("server_error", "rate_limit_exceeded", "invalid_prompt", "vector_store_timeout")
"""What `response.error.code` may be."""

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_Sliced = TypeVar("_Sliced", str, list[dict[str, Any]])
_encode = msgspec.json.encode


class Event(msgspec.Struct, frozen=True):
    """One event, encoded: `data` is its JSON."""

    number: int
    type: str
    data: bytes

    def sse(self) -> bytes:
        """As a server-sent event."""
        return b"event: %b\ndata: %b\n\n" % (self.type.encode(), self.data)

    def frame(self, lane: str | None) -> bytes:
        """As a WebSocket frame, with the lane it belongs to."""
        return self.data if lane is None else b"%b,%b}" % (self.data[:-1], _encode({"stream_id": lane})[1:-1])


def error_event(error: HeadraceError, lane: str | None = None, number: int | None = None) -> bytes:
    """The event of an error that no response object tells of: flat for conformance, nested for clients, which raise it."""
    again = {} if error.retry_after_s is None else {"retry_after_ms": envelope.milliseconds(error.retry_after_s)}
    inner = envelope.body(error)["error"] | again
    flat = {"type": "error", "status": error.status, "code": inner["code"], "message": inner["message"], "param": inner["param"]}
    place = ({} if number is None else {"sequence_number": number}) | ({} if lane is None else {"stream_id": lane})
    return _encode(flat | {"error": inner} | place)


def encoder(stored: StoredResponse) -> "ResponseEvents":
    """The encoder of a stored response, as it was when it was asked for."""
    snapshot = msgspec.json.decode(stored.asked)
    return ResponseEvents(snapshot["response"], snapshot["results"], seams=snapshot["seams"])


def last_of(stored: StoredResponse, seq: int) -> Last:
    """The last delta, number `seq`, of a response that has ended."""
    body = msgspec.json.decode(stored.body)
    if stored.status == "cancelled":
        return Cancelled(seq, stored.created_at)
    if stored.status == "failed":
        return Failed(seq, 500, HeadraceError.type, body["error"]["code"], body["error"]["message"])
    used = body["usage"] or {"input_tokens": 0, "output_tokens": 0}
    reasons: dict[str, Reason] = {"max_output_tokens": "length", "content_filter": "content_filter"}
    reason = reasons[body["incomplete_details"]["reason"]] if body["incomplete_details"] else "stop"
    return Finished(seq, reason, Usage(used["input_tokens"], used["output_tokens"]), body["completed_at"] or 0)


class ResponseEvents:
    """Encodes one response, event by event, and holds what has become of it."""

    def __init__(self, snapshot: dict[str, Any], include_results: bool = False, *, speaks: bool = True, seams: bool = False):
        self.ended = False
        self._response = dict(snapshot)
        self._results = include_results
        self._speaks = speaks
        self._seams = seams
        self._hex = str(snapshot["id"]).removeprefix("resp_")
        self._searched = any(tool["type"] == "file_search" for tool in snapshot["tools"])
        self._number = 0
        self._out: list[Event] = []
        self._items: list[dict[str, Any]] = []
        self._message: _Message | None = None
        self._calls: dict[int, dict[str, Any]] = {}
        self._hits: dict[str, str] = {}
        self._said_chars = 0
        self._asks = False

    @property
    def status(self) -> str:
        """Where the response stands."""
        return str(self._response["status"])

    @property
    def next_number(self) -> int:
        """The number of the next event."""
        return self._number

    def start(self) -> list[Event]:
        """The events before anything has been written."""
        self._lifecycle("response.created")
        if self._response["background"]:
            self._lifecycle("response.queued")
        return self._drain()

    def feed(self, deltas: Sequence[Delta]) -> list[Event]:
        """The events of some deltas; none once the response has ended."""
        for delta in deltas:
            if not self.ended:
                self._take(delta)
        return self._drain()

    def response(self) -> dict[str, Any]:
        """The Response object as it stands, with what has been written so far."""
        return self._response | {"output": [*self._items] if self.ended else [self._shown(item) for item in self._items]}

    def body(self) -> bytes:
        """The same, encoded."""
        return _encode(self.response())

    def outputs(self) -> list[Item]:
        """The items of the output."""
        return [Item(item["id"], _encode(self._shown(item))) for item in self._items]

    def _take(self, delta: Delta) -> None:
        match delta:
            case Text():
                self._text(delta)
            case Cited(citation=citation):
                self._cite(citation)
            case Opened():
                self._response["status"] = "in_progress"
                self._lifecycle("response.in_progress")
            case Searching(queries=queries):
                self._search(list(queries))
            case Searched(hits=hits):
                self._found(hits)
            case Called():
                self._call(delta)
            case Ran():
                self._ran(delta)
            case Awaits():
                self._awaits(delta)
            case Switched(code=code):
                if self._seams:
                    self._event("headrace:failover", {"code": code})
            case Finished(reason=reason, usage=used, at=at):
                self._finish("incomplete" if reason in _INCOMPLETE else "completed", at, reason, used)
            case Cancelled(at=at):
                self._finish("cancelled", at)
            case Failed(code=code, message=message, at=at, retry_after_s=again_s):
                again = {} if again_s is None else {"retry_after_ms": envelope.milliseconds(again_s)}
                self._response["error"] = {"code": code if code in ERROR_CODES else "server_error", "message": message, **again}
                self._finish("failed", at)

    def _text(self, delta: Text) -> None:
        message = self._opened()
        message.parts.append(delta.text)
        logprobs = [_logprob(one) for one in delta.logprobs]
        message.logprobs += logprobs
        groups = _pieces(logprobs, MAX_EVENT_LOGPROBS)
        for piece, with_it in zip_longest(_pieces(delta.text, MAX_EVENT_CHARS), groups, fillvalue=""):
            head = b'{"type":"response.output_text.delta","sequence_number":%d' % self._number
            data = b'%b%b%b,"logprobs":%b}' % (head, message.delta_head, _encode(piece), _encode(with_it) if with_it else b"[]")
            self._out.append(Event(self._number, "response.output_text.delta", data))
            self._number += 1

    def _cite(self, at: Citation) -> None:
        start, end = at.start - self._said_chars, at.end - self._said_chars
        self._annotate({"type": "url_citation", "start_index": start, "end_index": end, "url": at.url, "title": at.title})
        if self._searched:
            file_id = urlsplit(at.url).path.rsplit("/", 1)[-1]
            name = self._hits.get(file_id, at.title)
            self._annotate({"type": "file_citation", "file_id": file_id, "filename": name, "index": end})

    def _annotate(self, annotation: dict[str, Any]) -> None:
        message = self._opened()
        place = {"annotation_index": len(message.annotations), "annotation": annotation}
        message.annotations.append(annotation)
        self._event("response.output_text.annotation.added", message.place | {"content_index": 0} | place)

    def _search(self, queries: list[str]) -> None:
        item = {"id": f"fs_{self._hex}", "type": "file_search_call", "status": "in_progress", "queries": [], "results": None}
        place = self._add(item)
        self._event("response.file_search_call.in_progress", place)
        self._event("response.file_search_call.searching", place)
        item["status"], item["queries"] = "searching", queries

    def _found(self, hits: Sequence[Hit]) -> None:
        item = self._items[0]
        self._hits = {hit.file_id: hit.filename for hit in hits}
        place = {"item_id": item["id"], "output_index": 0}
        self._event("response.file_search_call.completed", place)
        item["status"] = "completed"
        most_bytes = MAX_RESULTS_BYTES // max(1, len(hits))
        item["results"] = [_result(hit, most_bytes) for hit in hits] if self._results else None
        self._event("response.output_item.done", {"output_index": 0, "item": item})

    def _call(self, delta: Called) -> None:
        item = self._calls.get(delta.index)
        if item is None:
            name = f"fc_{self._hex}_{delta.index}"
            item = {"id": name, "type": "function_call", "status": "in_progress", "arguments": "", "call_id": "", "name": ""}
            item |= {"call_id": delta.call_id or f"call_{self._hex}_{delta.index}", "name": delta.name or ""}
            self._calls[delta.index] = item
            self._add(item)
        item["arguments"] += delta.arguments
        place = {"item_id": item["id"], "output_index": self._items.index(item)}
        for piece in _pieces(delta.arguments, MAX_EVENT_CHARS):
            self._event("response.function_call_arguments.delta", place | {"delta": piece})

    def _ran(self, delta: Ran) -> None:
        self._end_message()
        item = call_item(delta, f"mcp_{self._hex}_{len(self._items)}")
        place = self._add(item)
        for kind, fields in call_events(delta, item):
            self._event(kind, place | fields)
        self._event("response.output_item.done", {"output_index": place["output_index"], "item": item})

    def _awaits(self, delta: Awaits) -> None:
        self._asks = True
        self._end_message()
        item = request_item(delta)
        self._event("response.output_item.done", {"output_index": self._add(item)["output_index"], "item": item})

    def _end_message(self) -> None:
        """End the message that is open: what the model says next is another one."""
        if self._message:
            self._end(self._message.place["output_index"], self._message.item, "completed")
            self._said_chars += len(self._message.part()["text"])
            self._message = None

    def _opened(self) -> "_Message":
        """The message item, begun where it is not."""
        if self._message is None:
            item: dict[str, Any] = {
                "id": f"msg_{self._hex}" + (f"_{len(self._items)}" if any(one["type"] == "message" for one in self._items) else ""),
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
            place = self._add(item)
            self._message = _Message(item, place)
            self._event("response.content_part.added", place | {"content_index": 0, "part": self._message.part()})
        return self._message

    def _add(self, item: dict[str, Any]) -> dict[str, Any]:
        """Begin an item; returns its place."""
        index = len(self._items)
        self._items.append(item)
        self._event("response.output_item.added", {"output_index": index, "item": item})
        return {"item_id": item["id"], "output_index": index}

    def _finish(self, status: str, at: int, reason: str = "", used: Usage | None = None) -> None:
        if self._speaks and status in ("completed", "incomplete") and not self._calls and not self._asks:
            self._opened()
        self._close("completed" if status == "completed" else "incomplete")
        self.ended = True
        self._response |= {"status": status, "output": self._items}
        if status == "completed":
            self._response["completed_at"] = at
        if status == "incomplete":
            self._response["incomplete_details"] = {"reason": _INCOMPLETE[reason]}
        if used:
            self._response["usage"] = usage(used)
        self._lifecycle(f"response.{'incomplete' if status == 'cancelled' else status}")

    def _close(self, status: str) -> None:
        """End every item that is still open."""
        for index, item in enumerate(self._items):
            if item.get("status") not in (None, "completed", "failed"):
                self._end(index, item, status)

    def _end(self, index: int, item: dict[str, Any], status: str) -> None:
        item["status"] = status
        if self._message and item is self._message.item:
            part = self._message.part()
            item["content"] = [part]
            here = self._message.place | {"content_index": 0}
            self._event("response.output_text.done", here | {"text": part["text"], "logprobs": part["logprobs"]})
            self._event("response.content_part.done", here | {"part": part})
        elif item["type"] == "function_call":
            if broken(item["arguments"]):
                item["status"] = "incomplete"
            done = {"item_id": item["id"], "output_index": index, "name": item["name"], "arguments": item["arguments"]}
            self._event("response.function_call_arguments.done", done)
        self._event("response.output_item.done", {"output_index": index, "item": item})

    def _shown(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item with its text so far."""
        if self._message and item is self._message.item and not self.ended:
            return item | {"content": [self._message.part()]}
        return item

    def _lifecycle(self, kind: str) -> None:
        self._event(kind, {"response": self._response})

    def _event(self, kind: str, fields: dict[str, Any]) -> None:
        self._out.append(Event(self._number, kind, _encode({"type": kind, "sequence_number": self._number} | fields)))
        self._number += 1

    def _drain(self) -> list[Event]:
        out, self._out = self._out, []
        return out


class _Message:
    """The message item of a response while its text comes."""

    def __init__(self, item: dict[str, Any], place: dict[str, Any]):
        self.item = item
        self.place = place
        self.parts: list[str] = []
        self.annotations: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.delta_head = b',"item_id":"%b","output_index":%d,"content_index":0,"delta":' % (item["id"].encode(), place["output_index"])

    def part(self) -> dict[str, Any]:
        """The content as it stands."""
        self.parts = ["".join(self.parts)]
        return {"type": "output_text", "text": self.parts[0], "annotations": [*self.annotations], "logprobs": [*self.logprobs]}


def usage(used: Usage) -> dict[str, Any]:
    """Token counts as the Responses API names them."""
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def _pieces(whole: _Sliced, most: int) -> list[_Sliced]:
    return [whole[start : start + most] for start in range(0, len(whole), most)]


def _result(hit: Hit, most_bytes: int) -> dict[str, Any]:
    attributes = msgspec.json.encode(hit.attributes)
    shown, most_bytes = (hit.attributes, most_bytes - len(attributes)) if len(attributes) <= most_bytes // 2 else ({}, most_bytes)
    text = hit.text.encode()[:most_bytes].decode(errors="ignore")
    return {"file_id": hit.file_id, "filename": hit.filename, "score": min(max(hit.score, 0.0), 1.0), "text": text, "attributes": shown}


def _logprob(one: Logprob) -> dict[str, Any]:
    return _token(one) | {"top_logprobs": [_token(other) for other in one.others]}


def _token(one: Logprob) -> dict[str, Any]:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode("utf-8", "surrogateescape"))}
