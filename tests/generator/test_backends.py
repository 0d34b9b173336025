"""Calls to an OpenAI-compatible backend, against the simulator."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import msgspec
import openai
import pytest

from deployments.core import config
from deployments.core.errors import BackendFailed, DeadlineExceeded, HeadraceError, InvalidRequest, Overloaded, Unreachable
from deployments.core.images import Image
from deployments.core.shape import Schema
from deployments.core.tools import Tool, Toolbox, ToolCall
from deployments.core.types import Generation, LogRef, Message, Opened, Sampling, Text
from deployments.generator.backends import Backend, _retry_after
from deployments.generator.resumed import spoken
from deployments.generator.sse import Piece
from tests.fakes import until
from tests.loadtest.conftest import Simulator

QUESTION = (Message("user", "Hi"),)
WORDS = " ".join(f"w{i}" for i in range(20))


@pytest.fixture
async def backend(upstream: Simulator) -> AsyncIterator[Backend]:
    backend = make(upstream.url)
    yield backend
    await backend.close()


def generation(sampling: Sampling, deadline_s: float, messages: tuple[Message, ...] = QUESTION) -> Generation:
    return Generation(LogRef("r", "t", (), record=False), messages, sampling, (), (), deadline_s)


def make(url: str, model: str = "sim", *, grammar: bool = True) -> Backend:
    return Backend(url, "key", model, config.Generator(first_token_timeout_s=0.5, inter_token_timeout_s=0.3), grammar=grammar)


def stream(backend: Backend, asked: Generation) -> AsyncGenerator[Piece]:
    return backend.stream(asked, spoken(asked.log.written), asyncio.get_running_loop().time() + asked.deadline_s)


async def read(backend: Backend, sampling: Sampling | None = None, deadline_s: float = 5) -> str:
    pieces = [piece async for piece in stream(backend, generation(sampling or Sampling(), deadline_s))]
    assert pieces[-1].done
    return "".join(piece.text for piece in pieces)


async def failure(url: str, model: str, deadline_s: float = 5) -> tuple[type[HeadraceError], str]:
    backend = make(url, model)
    text: list[str] = []
    try:
        async for piece in stream(backend, generation(Sampling(), deadline_s)):
            text.append(piece.text)  # noqa: PERF401 - what came before the failure counts
    except HeadraceError as error:
        return type(error), "".join(text)
    finally:
        await backend.close()
    raise AssertionError("nothing failed")


async def test_an_answer_comes_whole_and_in_order(backend: Backend) -> None:
    assert (await read(backend)).split() == WORDS.split()


async def test_a_reader_may_be_slower_than_the_backend_may(backend: Backend) -> None:
    words, waits = "", iter((1.0, 0.6))
    async with aclosing(stream(backend, generation(Sampling(), 10))) as pieces:
        async for piece in pieces:
            words += piece.text
            await asyncio.sleep(next(waits, 0))  # longer than the 0.5 s and 0.3 s of this backend's patience
    assert words.split() == WORDS.split()


async def test_sampling_is_passed_on(backend: Backend) -> None:
    assert len((await read(backend, Sampling(max_tokens=3))).split()) == 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("error=503", Overloaded),
        ("error=429", Overloaded),
        ("error=500", BackendFailed),
        ("error=400", InvalidRequest),
        ("error=401", BackendFailed),
        ("hang", DeadlineExceeded),
    ],
)
async def test_a_refusal_is_an_error_before_any_text(upstream: Simulator, fault: str, error: type[HeadraceError]) -> None:
    assert await failure(upstream.url, f"sim@{fault}") == (error, "")


@pytest.mark.parametrize(("fault", "error"), [("cut=5", BackendFailed), ("stall=5", DeadlineExceeded), ("malformed=5", BackendFailed)])
async def test_a_break_comes_after_the_text_before_it(upstream: Simulator, fault: str, error: type[HeadraceError]) -> None:
    kind, text = await failure(upstream.url, f"sim@{fault}")
    assert kind is error
    assert text.split() == WORDS.split()[: len(text.split())]
    assert 1 <= len(text.split()) <= 6


async def test_the_deadline_ends_an_answer_that_goes_on(upstream: Simulator) -> None:
    kind, text = await failure(upstream.url, "sim@tokens=1000", deadline_s=0.3)
    assert kind is DeadlineExceeded
    assert text


async def test_an_unreachable_backend_is_our_load_not_the_callers_fault() -> None:
    assert await failure("http://127.0.0.1:9/v1", "sim") == (Unreachable, "")


async def test_closing_the_iterator_ends_the_generation(upstream: Simulator) -> None:
    backend = make(upstream.url, "sim@tokens=2000")
    async with aclosing(stream(backend, generation(Sampling(), 60, (Message("user", "[[marker:closing]]"),)))) as pieces:
        async for piece in pieces:
            if piece.text:
                break
    ended = await asyncio.to_thread(upstream.entry, "closing")
    assert ended["tokens_sent"] < 2000
    await until(lambda: upstream.stats()["open"], equals=0)
    await backend.close()


async def request(asked: Generation, *, grammar: bool = True) -> dict[str, Any]:
    """What a backend receives for a generation."""
    received: list[dict[str, Any]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        received.append(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: [DONE]\n\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        called = make(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", grammar=grammar)
        async with aclosing(stream(called, asked)) as pieces:
            assert [piece.done async for piece in pieces][-1]
        await called.close()
    return received[0]


async def test_a_plain_question_carries_nothing_that_was_not_asked_for() -> None:
    assert await request(generation(Sampling(), 5)) == {
        "model": "sim",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 256,
    }


async def test_functions_and_their_results_reach_the_backend() -> None:
    calls = (ToolCall("call_1", "look_up", "{}"),)
    messages = (*QUESTION, Message("assistant", "", calls), Message("tool", "42", call_id="call_1"))
    tools = (Tool("look_up", "Looks up.", b'{"type":"object"}', strict=True), Tool("wait"))
    asked = msgspec.structs.replace(generation(Sampling(), 5, messages), toolbox=Toolbox(tools, "=wait", parallel=False))
    sent = await request(asked)
    function = {"name": "look_up", "description": "Looks up.", "parameters": {"type": "object"}, "strict": True}
    assert sent["tools"] == [{"type": "function", "function": function}, {"type": "function", "function": {"name": "wait"}}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "wait"}}
    assert sent["parallel_tool_calls"] is False
    assert sent["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
    ]


async def test_stops_seed_probabilities_and_json_reach_the_backend() -> None:
    sent = await request(generation(Sampling(seed=7, stop=("END",), top_logprobs=0, json_object=True), 5))
    assert (sent["seed"], sent["stop"], sent["logprobs"], sent["response_format"]) == (7, ["END"], True, {"type": "json_object"})
    assert "top_logprobs" not in sent
    assert (await request(generation(Sampling(top_logprobs=5), 5)))["top_logprobs"] == 5


async def test_a_schema_reaches_the_backend_under_its_name() -> None:
    sent = await request(generation(Sampling(schema=Schema("dog", b'{"type":"object"}', strict=True)), 5))
    asked = {"name": "dog", "strict": True, "schema": {"type": "object"}}
    assert sent["response_format"] == {"type": "json_schema", "json_schema": asked}


@pytest.mark.parametrize(("sampling", "toolbox"), [(Sampling(json_object=True), Toolbox()), (Sampling(), Toolbox((Tool("f"),), "auto"))])
async def test_a_grammar_is_never_sent_with_functions_or_json(sampling: Sampling, toolbox: Toolbox) -> None:
    quoted = msgspec.structs.replace(generation(Sampling(), 5), quotes=("A.", "B."))
    assert "grammar" in await request(quoted)
    assert "grammar" not in await request(msgspec.structs.replace(quoted, sampling=sampling, toolbox=toolbox))


async def test_a_grammar_is_not_sent_to_a_backend_that_takes_none() -> None:
    assert "grammar" not in await request(msgspec.structs.replace(generation(Sampling(), 5), quotes=("A.", "B.")), grammar=False)


async def test_an_answer_that_was_begun_is_gone_on_with_as_the_assistants_last_message() -> None:
    asked = generation(Sampling(max_tokens=10), 5)
    log = msgspec.structs.replace(asked.log, written=(Opened(0), Text(1, "Alpha "), Text(2, "beta gamma")))
    sent = await request(msgspec.structs.replace(asked, log=log))
    assert sent["messages"][-1] == {"role": "assistant", "content": "Alpha beta gamma"}
    assert sent["max_tokens"] == 10 - 4


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0"}, 0.1),
        ({"retry-after": "-5"}, 0.1),
        ({"retry-after": "1e9"}, 60),
        ({"retry-after": "inf"}, 60),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "?", "retry-after": "9"}, 9),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.1),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 60),
    ],
)
def test_a_pause_that_a_backend_asks_for_is_read_in_every_form_and_bounded(headers: dict[str, str], seconds: float | None) -> None:
    response = httpx2.Response(429, headers=headers, request=httpx2.Request("POST", "http://backend"))
    assert _retry_after(openai.RateLimitError("busy", response=response, body=None)) == seconds


def test_a_date_that_a_backend_names_is_waited_for() -> None:
    headers = {"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)}
    response = httpx2.Response(503, headers=headers, request=httpx2.Request("POST", "http://backend"))
    assert 28 < (_retry_after(openai.InternalServerError("busy", response=response, body=None)) or 0) <= 30


async def test_images_go_behind_the_text_of_their_message(backend: Backend) -> None:
    images = (Image("png", b"\x89PNG"), Image("gif", b"GIF89a", "low"))
    words, *seen = backend._request(generation(Sampling(), 5, (Message("user", "Which?", images=images),)), "")["messages"][0]["content"]
    assert words == {"type": "text", "text": "Which?"}
    assert [part["image_url"] for part in seen] == [
        {"url": "data:image/png;base64,iVBORw=="},
        {"url": "data:image/gif;base64,R0lGODlh", "detail": "low"},
    ]
    (only,) = backend._request(generation(Sampling(), 5, (Message("user", "", images=images[:1]),)), "")["messages"][0]["content"]
    assert only["type"] == "image_url"
