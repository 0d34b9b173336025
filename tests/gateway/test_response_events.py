"""Deltas to the events of the Responses API: the golden order, OpenAI's own strict parsing, and the same bytes on every replay."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIError, OpenAI
from openai.types.responses import Response

from deployments.core.config import Settings
from deployments.core.errors import Overloaded
from deployments.core.responses import StoredResponse
from deployments.core.types import (
    Called,
    Cancelled,
    Citation,
    Cited,
    Delta,
    Failed,
    Finished,
    Hit,
    Logprob,
    Opened,
    Principal,
    Searched,
    Searching,
    Text,
    Usage,
)  # fmt: skip
from deployments.gateway.events import Event, ResponseEvents, encoder, error_event, last_of
from deployments.gateway.responses import Plan, ResponseRequest

GOLDEN = Path(__file__).with_name("responses_text.sse")
CALLER = Principal("acme", "key_1", frozenset({"chat"}))
AT = 1_700_000_002
LINE = 64 << 10
SEARCH = [{"type": "file_search", "vector_store_ids": ["vs_1"]}]
FUNCTIONS = [{"type": "function", "name": name, "parameters": {}, "strict": False} for name in ("f", "g")]
CITATION = Citation(6, 9, 1, "http://h/files/file-1#chunk=3", "Handbook")


def planned(**fields: Any) -> Plan:
    """The plan of a request."""
    return ResponseRequest.model_validate({"model": "headrace", "input": "Hi"} | fields).plan(CALLER, Settings(), 1_700_000_000, "vs_1")


def said(*texts: str) -> list[Delta]:
    """A log of an answer that has begun."""
    return [Opened(0), *(Text(seq, text) for seq, text in enumerate(texts, 1))]


def finished(log: Sequence[Delta], reason: Any = "stop") -> list[Delta]:
    return [*log, Finished(len(log), reason, Usage(10, 2), AT)]


def encode(plan: Plan, log: Sequence[Delta]) -> tuple[ResponseEvents, list[Event]]:
    """All events of a log."""
    events = ResponseEvents(plan.snapshot, plan.include_results)
    return events, [*events.start(), *events.feed(log)]


def read(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in events]


def types(events: Sequence[Event]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


def strict(body: bytes, kind: str = "text/event-stream") -> OpenAI:
    """OpenAI's client before a server that answers with these bytes; it raises on any field that is not as it should be."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers={"content-type": kind}, content=body))
    http = httpx2.Client(transport=transport)
    return OpenAI(base_url="http://h/v1", api_key="k", http_client=http, max_retries=0, _strict_response_validation=True)


def accumulated(events: Sequence[Event]) -> list[Any]:
    """What the client's accumulator makes of a stream."""
    body = b"".join(event.sse() for event in events) + b"data: [DONE]\n\n"
    with strict(body) as client, client.responses.stream(model="headrace", input="Hi") as stream:
        return list(stream)


def fed(seq: int, log: Sequence[Delta]) -> list[Delta]:
    """The same deltas, numbered from `seq` on."""
    return [msgspec.structs.replace(delta, seq=number) for number, delta in enumerate(log, seq)]


FOUND: list[Delta] = [
    Opened(0),
    Searching(1, ("what?",)),
    Searched(2, (Hit("file-1", "handbook.md", 0.9, "the text"), Hit("file-2", "b.md", 1.2, "more"))),
    Text(3, "Hello [1]"),
    Cited(4, CITATION),
]
CALLS: list[Delta] = [
    Called(0, 0, "call_1", "f", ""),
    Called(0, 0, None, None, '{"a":'),
    Called(0, 1, "call_2", "g", "{}"),
    Called(0, 0, None, None, "1}"),
]
PROBABLE: list[Delta] = [Opened(0), Text(1, "é!", (Logprob("é", -0.5, (Logprob("e", -1.5),)), Logprob("!", -0.1)))]
RESULTS = {"include": ["file_search_call.results"], "tools": SEARCH}

SCENES: dict[str, tuple[dict[str, Any], list[Delta], str]] = {
    "text": ({}, finished(said("Hello ", "world")), "completed"),
    "nothing said": ({}, finished([Opened(0)]), "completed"),
    "citation": ({}, finished([*said("Hello [1]"), Cited(2, CITATION)]), "completed"),
    "search": ({"tools": SEARCH}, finished(FOUND), "completed"),
    "search with results": (RESULTS, finished(FOUND), "completed"),
    "search without a hit": (RESULTS, finished([*FOUND[:2], Searched(2, ()), Text(3, "No.")]), "completed"),
    "calls": ({"tools": FUNCTIONS}, finished([Opened(0), *fed(1, CALLS)], "tool_calls"), "completed"),
    "text and calls": ({"tools": FUNCTIONS}, finished([*said("I'll look."), *fed(2, CALLS)], "tool_calls"), "completed"),
    "search, text and calls": ({"tools": SEARCH + FUNCTIONS}, finished([*FOUND, *fed(5, CALLS)], "tool_calls"), "completed"),
    "length": ({"max_output_tokens": 2}, finished(said("Hello wor"), "length"), "incomplete"),
    "filtered": ({}, finished(said("He"), "content_filter"), "incomplete"),
    "failed": ({}, [*said("so far"), Failed(2, 503, "server_error", "server_overloaded", "busy", at=AT)], "failed"),
    "failed at once": ({}, [Opened(0), Failed(1, 429, "rate_limit_error", "rate_limit_exceeded", "slow down", at=AT)], "failed"),
    "failed in a search": ({"tools": SEARCH}, [*FOUND[:2], Failed(2, 500, "server_error", "backend_error", "x", at=AT)], "failed"),
    "cancelled": ({"background": True}, [*said("so far"), Cancelled(2, AT)], "cancelled"),
    "cancelled in a call": ({"tools": FUNCTIONS}, [Opened(0), *fed(1, CALLS[:2]), Cancelled(3, AT)], "cancelled"),
    "background": ({"background": True}, finished(said("Hello")), "completed"),
    "probabilities": ({"include": ["message.output_text.logprobs"], "top_logprobs": 1}, finished(PROBABLE), "completed"),
    "200 KB": ({}, finished(said("word " * 40_000)), "completed"),
    "many scripts": ({}, finished(said("日本語 ", "👩‍👩‍👧 ", "\u2028é", "\x00\x1f" * 9000)), "completed"),
}  # fmt: skip


def test_the_events_are_the_golden_ones() -> None:
    golden = [json.loads(line.removeprefix("data: ")) for line in GOLDEN.read_text().split("\n") if line.startswith("data: {")]
    citation = Citation(6, 9, 1, "https://rag.example/files/file_1#chunk=3", "handbook.md")
    events = ResponseEvents(golden[0]["response"])
    made = [*events.start(), *events.feed(finished([*said("Hello ", "[1]"), Cited(3, citation)]))]
    assert read(made) == golden
    assert b"".join(event.sse() for event in made).count(b"\n\n") == len(golden)
    assert set(planned().snapshot) == set(golden[0]["response"])


@pytest.mark.parametrize("scene", SCENES)
def test_the_strict_client_reads_every_event_and_gathers_the_answer(scene: str) -> None:
    fields, log, status = SCENES[scene]
    events, made = encode(planned(**fields), log)
    seen = accumulated(made)
    assert [event.type for event in seen] == [event.type for event in made]
    assert seen[0].type == "response.created"
    final = seen[-1].response
    assert (final.status, events.status, events.ended) == (status, status, True)
    assert final.output_text == "".join(delta.text for delta in log if isinstance(delta, Text))
    kinds = {"completed": "completed", "incomplete": "incomplete", "failed": "failed", "cancelled": "incomplete"}
    assert [kind for kind in types(made) if kind in kinds.values()] == [kinds[status]]


@pytest.mark.parametrize("scene", SCENES)
def test_a_response_is_told_whole_as_its_last_event_tells_it(scene: str) -> None:
    fields, log, _ = SCENES[scene]
    events, made = encode(planned(**fields), log)
    assert json.loads(events.body()) == json.loads(made[-1].data)["response"]
    with strict(events.body(), "application/json") as client:
        whole = client.responses.retrieve("resp_1")
    assert isinstance(whole, Response)
    assert [json.loads(item.body) for item in events.outputs()] == read(made)[-1]["response"]["output"]
    assert [item.id for item in events.outputs()] == [item.id for item in whole.output]


@pytest.mark.parametrize("scene", SCENES)
def test_events_of_a_stored_response_are_the_same_bytes(scene: str) -> None:
    fields, log, status = SCENES[scene]
    plan = planned(**fields)
    events, made = encode(plan, log)
    stored = StoredResponse(plan.turn.id, status, False, plan.turn.created, None, None, plan.asked, events.body())
    again = encoder(stored)
    assert [*again.start(), *again.feed(log)] == made
    last = encoder(stored)
    last.start()
    told = read(last.feed([*log[:-1], last_of(stored, log[-1].seq)]))[-1]
    assert told == read(made)[-1]


@pytest.mark.parametrize("scene", SCENES)
def test_only_the_whole_text_is_ever_longer_than_a_line_may_be(scene: str) -> None:
    fields, log, _ = SCENES[scene]
    _, made = encode(planned(**fields), log)
    assert all(len(event.sse()) < LINE for event in made if event.type.endswith((".delta", ".added", ".created", ".in_progress")))


def test_a_search_comes_before_the_message_and_its_files_are_cited() -> None:
    _, made = encode(planned(**RESULTS), finished(FOUND))
    assert types(made)[2:8] == [
        "output_item.added",
        "file_search_call.in_progress",
        "file_search_call.searching",
        "file_search_call.completed",
        "output_item.done",
        "output_item.added",
    ]
    done = read(made)[6]["item"]
    assert (done["status"], done["queries"]) == ("completed", ["what?"])
    assert done["results"] == [
        {"file_id": "file-1", "filename": "handbook.md", "score": 0.9, "text": "the text", "attributes": {}},
        {"file_id": "file-2", "filename": "b.md", "score": 1.0, "text": "more", "attributes": {}},
    ]
    annotations = [(event["annotation_index"], event["annotation"]) for event in read(made) if "annotation" in event]
    assert annotations == [
        (0, {"type": "url_citation", "start_index": 6, "end_index": 9, "url": CITATION.url, "title": "Handbook"}),
        (1, {"type": "file_citation", "file_id": "file-1", "filename": "handbook.md", "index": 9}),
    ]


def test_results_are_told_only_where_they_are_asked_for() -> None:
    _, made = encode(planned(tools=SEARCH), finished(FOUND))
    assert read(made)[-1]["response"]["output"][0]["results"] is None
    assert "the text" not in str(made)


def test_many_long_results_still_fit_a_line() -> None:
    hits = tuple(Hit(f"file-{n}", "handbook.md", 0.5, "日本語" * 2000) for n in range(50))
    _, made = encode(planned(**RESULTS), [*FOUND[:2], Searched(2, hits)])
    results = read(made)[-1]["item"]["results"]
    assert len(results) == 50
    assert all(hits[0].text.startswith(result["text"]) and result["text"] for result in results)
    assert len(made[-1].sse()) < LINE


def test_a_citation_without_a_search_of_the_callers_names_no_file() -> None:
    _, made = encode(planned(), finished([*said("Hello [1]"), Cited(2, CITATION)]))
    assert [event["annotation"]["type"] for event in read(made) if "annotation" in event] == ["url_citation"]


def test_calls_have_places_of_their_own_behind_the_message() -> None:
    plan = planned(tools=FUNCTIONS)
    _, made = encode(plan, finished([*said("I'll look."), *fed(2, CALLS)], "tool_calls"))
    name = plan.turn.id.removeprefix("resp_")
    pieces = [(event["output_index"], event["item_id"], event["delta"]) for event in read(made) if "arguments.delta" in event["type"]]
    assert pieces == [(1, f"fc_{name}_0", '{"a":'), (2, f"fc_{name}_1", "{}"), (1, f"fc_{name}_0", "1}")]
    done = [(event["output_index"], event["arguments"]) for event in read(made) if "arguments.done" in event["type"]]
    assert done == [(1, '{"a":1}'), (2, "{}")]
    items = read(made)[-1]["response"]["output"]
    assert [(item["type"], item["id"]) for item in items] == [
        ("message", f"msg_{name}"), ("function_call", f"fc_{name}_0"), ("function_call", f"fc_{name}_1"),
    ]  # fmt: skip


def test_long_arguments_come_in_pieces_that_fit_a_line() -> None:
    arguments = json.dumps({"a": "\x00" * 40_000})
    _, made = encode(planned(tools=FUNCTIONS), [Opened(0), Called(1, 0, "call_1", "f", arguments)])
    pieces = [event for event in read(made) if "arguments.delta" in event["type"]]
    assert "".join(piece["delta"] for piece in pieces) == arguments
    assert max(len(event.sse()) for event in made) < LINE


def test_probabilities_come_with_their_text_in_pieces_that_fit_a_line() -> None:
    others = tuple(Logprob(f"token {n}", -float(n)) for n in range(20))
    log: list[Delta] = [Opened(0), Text(1, "word " * 200, tuple(Logprob("word ", -0.5, others) for _ in range(200)))]
    _, made = encode(planned(top_logprobs=20), log)
    told = [event for event in read(made) if event["type"] == "response.output_text.delta"]
    assert "".join(event["delta"] for event in told) == "word " * 200
    assert sum(len(event["logprobs"]) for event in told) == 200
    assert max(len(event.sse()) for event in made) < LINE
    first = told[0]["logprobs"][0]
    assert (first["token"], first["bytes"], len(first["top_logprobs"])) == ("word ", list(b"word "), 20)
    assert set(first["top_logprobs"][0]) == {"token", "logprob", "bytes"}


def test_a_background_response_is_queued_before_it_is_in_progress() -> None:
    events = ResponseEvents(planned(background=True).snapshot)
    assert [(event.type, json.loads(event.data)["response"]["status"]) for event in events.start()] == [
        ("response.created", "queued"),
        ("response.queued", "queued"),
    ]
    assert read(events.feed([Opened(0)]))[0]["response"]["status"] == "in_progress"


def test_a_response_grows_while_it_is_polled() -> None:
    events = ResponseEvents(planned().snapshot)
    events.start()
    texts: list[str] = []
    for delta in finished(said("one ", "two ", "three")):
        events.feed([delta])
        texts.append(Response.model_validate_json(events.body()).output_text)
    assert texts == ["", "one ", "one two ", "one two three", "one two three"]


@pytest.mark.parametrize(
    ("scene", "field", "value"),
    [
        ("text", "completed_at", AT),
        ("length", "incomplete_details", {"reason": "max_output_tokens"}),
        ("filtered", "incomplete_details", {"reason": "content_filter"}),
        ("length", "completed_at", None),
        ("failed", "error", {"code": "server_error", "message": "busy"}),
        ("failed at once", "error", {"code": "rate_limit_exceeded", "message": "slow down"}),
        ("failed at once", "output", []),
        ("cancelled", "incomplete_details", None),
    ],
)
def test_the_end_is_told_in_its_field(scene: str, field: str, value: Any) -> None:
    fields, log, _ = SCENES[scene]
    assert read(encode(planned(**fields), log)[1])[-1]["response"][field] == value


@pytest.mark.parametrize("scene", SCENES)
def test_an_item_is_complete_only_where_the_answer_or_its_own_part_is(scene: str) -> None:
    fields, log, status = SCENES[scene]
    items = read(encode(planned(**fields), log)[1])[-1]["response"]["output"]
    ended = any(isinstance(delta, Searched) for delta in log)
    for item in items:
        whole = ended if item["type"] == "file_search_call" else status == "completed"
        assert item["status"] == ("completed" if whole or status == "completed" else "incomplete")


def test_an_answer_without_a_word_is_a_message_without_text() -> None:
    (item,) = read(encode(planned(), finished([Opened(0)]))[1])[-1]["response"]["output"]
    assert item["type"] == "message"
    assert item["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]


def test_probabilities_are_told_again_where_their_text_is() -> None:
    _, made = encode(planned(include=["message.output_text.logprobs"]), finished(PROBABLE))
    told = {event["type"]: event for event in read(made)}
    whole = told["response.output_text.delta"]["logprobs"]
    assert [one["token"] for one in whole] == ["é", "!"]
    assert told["response.output_text.done"]["logprobs"] == whole
    assert told["response.completed"]["response"]["output"][0]["content"][0]["logprobs"] == whole


def test_nothing_follows_the_end() -> None:
    events, made = encode(planned(), finished(said("Hello")))
    assert events.feed([Cancelled(3, AT), Text(4, "more")]) == []
    assert (events.status, events.next_number) == ("completed", len(made))


def test_a_frame_names_its_lane_and_is_the_event_otherwise() -> None:
    for event in encode(planned(), finished(said("Hello")))[1]:
        assert json.loads(event.frame('a"b')) == json.loads(event.data) | {"stream_id": 'a"b'}
        assert event.frame(None) == event.data


def test_an_error_without_a_response_is_raised_by_the_client_and_flat_for_others() -> None:
    body = error_event(Overloaded("busy"), number=3)
    flat = json.loads(body)
    assert (flat["type"], flat["sequence_number"], flat["code"], flat["message"]) == ("error", 3, "server_overloaded", "busy")
    assert flat["error"]["type"] == "server_error"
    with strict(b"event: error\ndata: %b\n\n" % body) as client, pytest.raises(APIError, match="busy"):
        list(client.responses.create(model="headrace", input="Hi", stream=True))
    assert json.loads(error_event(Overloaded("busy"), "lane"))["stream_id"] == "lane"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
SPOKEN = st.builds(Text, st.just(0), TEXTS) | st.builds(Text, st.just(0), st.integers(7999, 16_001).map(lambda n: "é" * n))
CALLED = st.builds(lambda index, text: Called(0, index, f"call_{index}", "f", text), st.integers(0, 2), st.text("{}:1", max_size=4))
LASTS = st.sampled_from([
    Finished(0, "stop", Usage(1, 1), AT),
    Finished(0, "length", Usage(1, 1), AT),
    Failed(0, 500, "server_error", "backend_error", "x", at=AT),
    Cancelled(0, AT),
])  # fmt: skip


@st.composite
def logs(draw: st.DrawFn) -> list[Delta]:
    """A log as the flow and a generator write it."""
    search: list[Delta] = draw(st.sampled_from([[], FOUND[1:2], FOUND[1:3]]))
    body: list[Delta] = draw(st.lists(SPOKEN | st.builds(Cited, st.just(0), st.just(CITATION)), max_size=6))
    calls: list[Delta] = draw(st.lists(CALLED, max_size=4))
    return fed(0, [Opened(0), *search, *body, *calls, draw(LASTS)])


@given(logs(), st.lists(st.integers(0, 20)), st.booleans())
def test_however_a_log_is_read_its_events_are_the_same(log: list[Delta], cuts: list[int], background: bool) -> None:
    plan = planned(tools=SEARCH + FUNCTIONS, background=background)
    whole, made = encode(plan, log)
    split = ResponseEvents(plan.snapshot, plan.include_results)
    places = sorted({0, len(log), *(min(cut, len(log)) for cut in cuts)})
    parts = [*split.start()]
    for start, end in pairwise(places):
        parts += split.feed(log[start:end])
        split.body()  # being polled changes nothing
    assert parts == made
    assert split.body() == whole.body()
    told = read(made)
    assert [event["sequence_number"] for event in told] == list(range(len(made))) == [event.number for event in made]
    assert [event["type"] for event in told] == [event.type for event in made]
    texts = [event["delta"] for event in told if event["type"] == "response.output_text.delta"]
    assert "".join(texts) == "".join(delta.text for delta in log if isinstance(delta, Text))
    added = [event["output_index"] for event in told if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in told if event["type"] == "response.output_item.done"]
    assert added == sorted(done) == list(range(len(told[-1]["response"]["output"])))
