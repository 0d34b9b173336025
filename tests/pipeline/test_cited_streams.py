"""Citations from the filter to OpenAI's own strict client: both shapes, streamed and whole, however the model's text is cut."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import httpx2
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from deployments.core.config import Settings
from deployments.core.types import (
    Citation,
    Cited,
    Delta,
    Finished,
    Hit,
    Message,
    Opened,
    Principal,
    Sampling,
    Searched,
    Searching,
    Text,
    Turn,
    Usage,
)
from deployments.gateway.chunks import ChatBody, ChatStream
from deployments.gateway.events import ResponseEvents
from deployments.gateway.responses import ResponseRequest
from pipeline.citations import CitationFilter
from tests.pipeline.test_citations import PASSAGES, URLS

CALLER = Principal("acme", "key_1", frozenset({"chat"}))
SEARCH = [{"type": "file_search", "vector_store_ids": ["vs_1"]}]
ANSWER = (
    "🙂 𝔘nicode first [9]. You can define background tasks to be run after returning a response. Nobody wrote this sentence anywhere "
    "else.\nDeclare the file parameter with a type of `UploadFile` 👩‍👧. Add `CORSMiddleware` as a middleware to your FastAPI application."
)
FILES = ["file1", "file2", "file0"]
"""What the answer cites, in order."""


def log(pieces: Sequence[str], *, searched: bool) -> list[Delta]:
    """The log of the answer as the generator writes it."""
    relay = CitationFilter(PASSAGES, URLS)
    out = [item for piece in pieces for item in relay.feed(piece)] + relay.flush()
    hits = tuple(Hit(passage.file_id, passage.filename, 0.5, passage.chunk.text) for passage in PASSAGES)
    deltas: list[Delta] = [Opened(0)]
    deltas += [Searching(1, ("q",)), Searched(2, hits)] if searched else []
    for item in out:
        deltas.append(Text(len(deltas), item) if isinstance(item, str) else Cited(len(deltas), item))
    return [*deltas, Finished(len(deltas), "stop", Usage(1, 1), 1_700_000_002)]


def client(body: bytes, kind: str = "text/event-stream") -> OpenAI:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers={"content-type": kind}, content=body))
    http = httpx2.Client(transport=transport)
    return OpenAI(base_url="http://h/v1", api_key="k", http_client=http, max_retries=0, _strict_response_validation=True)


def plain(annotation: Any) -> Any:
    """An annotation as it came: the client leaves those of an event as they are."""
    return annotation if isinstance(annotation, dict) else annotation.to_dict()


def responses(deltas: Sequence[Delta], tools: Sequence[dict[str, Any]]) -> tuple[Any, list[Any], Any]:
    """The message of a streamed response, the annotations that were added to it while it came, and the message of the whole one."""
    plan = ResponseRequest.model_validate({"model": "headrace", "input": "Hi", "tools": tools}).plan(CALLER, Settings(), 1, "vs_1")
    events = ResponseEvents(plan.snapshot)
    body = b"".join(event.sse() for event in (*events.start(), *events.feed(deltas))) + b"data: [DONE]\n\n"
    with client(body) as opened, opened.responses.stream(model="headrace", input="Hi") as stream:
        seen: list[Any] = list(stream)
    added = [event.annotation for event in seen if event.type == "response.output_text.annotation.added"]
    with client(events.body(), "application/json") as opened:
        whole = opened.responses.retrieve("resp_1")
    return seen[-1].response.output[-1].content[0], added, whole.output[-1].content[0]  # type: ignore[union-attr]


def test_a_search_of_the_callers_is_cited_in_both_shapes() -> None:
    streamed, added, whole = responses(log([ANSWER], searched=True), SEARCH)
    assert (streamed.text, streamed.annotations) == (whole.text, whole.annotations)
    assert list(map(plain, added)) == list(map(plain, streamed.annotations))
    urls, files = streamed.annotations[::2], streamed.annotations[1::2]
    assert [(one.type, streamed.text[one.start_index : one.end_index]) for one in urls] == [
        ("url_citation", f"[{number}]") for number in (1, 2, 3)
    ]
    assert [(one.type, one.file_id, one.filename) for one in files] == [
        ("file_citation", name, passage.filename) for name in FILES for passage in PASSAGES if passage.file_id == name
    ]
    assert [one.index for one in files] == [one.end_index for one in urls]
    assert all(one.url.endswith(f"/files/{name}#chunk=0") for one, name in zip(urls, FILES, strict=True))


def test_without_a_search_of_the_callers_there_are_links_only() -> None:
    streamed, _, whole = responses(log([ANSWER], searched=False), [])
    assert (streamed.text, streamed.annotations) == (whole.text, whole.annotations)
    assert {one.type for one in streamed.annotations} == {"url_citation"}
    assert "Nobody wrote this sentence anywhere else.\n" in streamed.text


def test_a_chat_has_the_same_links_streamed_and_whole() -> None:
    deltas, turn = log([ANSWER], searched=False), Turn("c", CALLER, "headrace", (Message("user", "Hi"),), Sampling(), 1, 10)
    encoder, body = ChatStream(turn, include_usage=False), ChatBody(turn).feed(deltas)
    with client(encoder.start() + encoder.encode(deltas)) as opened:
        chunks = list(opened.chat.completions.create(model="headrace", messages=[{"role": "user", "content": "Hi"}], stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    streamed = [one for chunk in chunks for one in (chunk.choices[0].delta.model_extra or {}).get("annotations", [])]
    with client(body or b"", "application/json") as opened:
        message = opened.chat.completions.create(model="headrace", messages=[{"role": "user", "content": "Hi"}]).choices[0].message
    assert message.content == text
    assert [one.to_dict() for one in message.annotations or []] == streamed
    spans = [(one["url_citation"]["start_index"], one["url_citation"]["end_index"]) for one in streamed]
    assert [text[start:end] for start, end in spans] == ["[1]", "[2]", "[3]"]


@given(st.lists(st.integers(0, len(ANSWER)), max_size=40))
def test_the_events_say_the_same_however_the_text_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[start:end] for start, end in pairwise(edges)]
    plan = ResponseRequest.model_validate({"model": "headrace", "input": "Hi", "tools": SEARCH}).plan(CALLER, Settings(), 1, "vs_1")
    cut, whole = ResponseEvents(plan.snapshot), ResponseEvents(plan.snapshot)
    cut.feed(log(pieces, searched=True))
    whole.feed(log([ANSWER], searched=True))
    assert cut.body() == whole.body()
    assert sum(isinstance(delta, Cited) for delta in log(pieces, searched=True)) == len(FILES)


def test_two_passages_that_say_the_same_are_cited_side_by_side() -> None:
    relay = CitationFilter((*PASSAGES[:2], PASSAGES[1]), URLS)
    out = relay.feed("You can define background tasks to be run after returning a response.") + relay.flush()
    assert "".join(item for item in out if isinstance(item, str)).endswith("response. [1] [2]")
    assert [item.number for item in out if isinstance(item, Citation)] == [1, 2]
