"""`headrace ask`, and what every command does with answers and refusals."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.ask import Answer, write
from pipeline.cli.client import Client, Refused, events, key, line, plain

Handler = Callable[[httpx2.Request], httpx2.Response]


def chunk(content: str = "", reason: str | None = None, annotations: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    delta: dict[str, Any] = {"content": content} if content else {}
    if annotations:
        delta["annotations"] = annotations
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def citation(start: int, end: int, title: str, url: str) -> dict[str, Any]:
    return {"type": "url_citation", "url_citation": {"start_index": start, "end_index": end, "title": title, "url": url}}


def stream(*chunks: dict[str, Any], done: bool = True) -> bytes:
    data = b"".join(b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\n\n" for one in chunks)
    return b": ping\n\n" + data + (b"data: [DONE]\n\n" if done else b"")


def client(handler: Handler, pauses: list[float] | None = None) -> Client:
    return Client("http://127.0.0.1:1", "hr_x", httpx2.MockTransport(handler), (pauses if pauses is not None else []).append)


def asked(body: bytes, status: int = 200) -> list[dict[str, Any]]:
    return list(client(lambda _: httpx2.Response(status, content=body)).ask("why?", "headrace"))


def test_an_answer_is_its_text_its_end_and_its_sources() -> None:
    answer = Answer()
    pieces = [chunk(""), chunk("It turns "), chunk("[1]"), chunk(annotations=[citation(9, 12, "wheel.md", "http://h/files/f#chunk=0")])]
    shown = "".join(answer.feed(piece) for piece in [*pieces, chunk(reason="stop"), {"choices": []}])
    assert shown == answer.text == "It turns [1]"
    assert (answer.finished, answer.sources) == ("stop", {"[1]": ("wheel.md", "http://h/files/f#chunk=0")})


def test_every_piece_is_shown_when_it_comes() -> None:
    shown: list[str] = []
    output = io.StringIO()

    def pieces() -> Iterator[dict[str, Any]]:
        for text in ("a", "b", "c"):
            yield chunk(text)
            shown.append(output.getvalue())

    write(Console(file=output), pieces())
    assert shown == ["a", "ab", "abc"]


def test_markup_of_the_answer_is_shown_as_it_is() -> None:
    output = io.StringIO()
    write(Console(file=output, force_terminal=True), [chunk("[red]x[/red] :smile: [link=http://e]y[/link]")])
    assert output.getvalue() == "[red]x[/red] :smile: [link=http://e]y[/link]\n"


@given(st.text())
def test_nothing_printed_can_command_a_terminal_or_hide(text: str) -> None:
    output = io.StringIO()
    write(Console(file=output, force_terminal=True), [chunk(text)])
    printed = output.getvalue()
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) <= 0x9F for c in printed)
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff") & set(printed)


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x1b]8;;http://evil\x07x", "\x9b31m", "a\rb", "\x08\x08", "\u202egpj", "\U000e0041"])
def test_what_hides_or_commands_is_taken_out(hostile: str) -> None:
    assert plain(hostile) == "".join(c for c in hostile if c.isprintable())


def test_a_name_stays_on_its_line() -> None:
    assert line("a\n\nfailed  b.md: forged\t!") == "a failed b.md: forged !"


@given(st.lists(st.integers(1, 40), min_size=1), st.text(min_size=1))
def test_events_are_the_same_however_their_bytes_are_cut(cuts: list[int], text: str) -> None:
    body = stream(chunk(text.encode("utf-8", "replace").decode()), chunk("\u2028"), chunk(reason="stop"))
    pieces, at = [], 0
    while at < len(body):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(body[at : at + size])
        at += size
    assert list(events(pieces)) == list(events([body])) == list(events([body.replace(b"\n", b"\r\n")]))


def test_a_stream_that_just_stops_is_an_error() -> None:
    with pytest.raises(Refused, match="broke off"):
        asked(stream(chunk("half an ans"), done=False))


def test_an_error_in_the_stream_is_told() -> None:
    body = stream(chunk("half"), {"error": {"message": "the backend\x1b[2J broke", "code": "x"}}, done=False)
    with pytest.raises(Refused, match=r"the backend\[2J broke"):
        asked(body)


@pytest.mark.parametrize(("body", "words"), [(b'{"error": {"message": "no such model"}}', "no such model"), (b"<html>", "HTTP 404")])
def test_a_refusal_is_told(body: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        asked(body, 404)


def test_overload_is_waited_out_as_long_as_the_server_says() -> None:
    pauses: list[float] = []
    answers = [httpx2.Response(503, headers={"retry-after-ms": "250"}), httpx2.Response(429), httpx2.Response(200, json={"id": "file-1"})]
    assert client(lambda _: answers.pop(0), pauses).upload("a.md", b"x") == "file-1"
    assert pauses == [0.25, 1]


def test_overload_is_not_waited_out_forever() -> None:
    pauses: list[float] = []
    with pytest.raises(Refused):
        client(lambda _: httpx2.Response(503, headers={"retry-after-ms": "999999999"}), pauses).upload("a.md", b"x")
    assert 0 < sum(pauses) <= 30


def test_only_what_never_arrived_is_sent_again() -> None:
    calls: list[str] = []

    def broken(request: httpx2.Request) -> httpx2.Response:
        calls.append(request.url.path)
        raise httpx2.ReadError("reset")

    with pytest.raises(Refused, match="broke"):
        client(broken).upload("a.md", b"x")
    assert len(calls) == 1


def test_a_dead_server_is_said_plainly() -> None:
    result = CliRunner().invoke(app, ["ask", "why?", "--url", "http://127.0.0.1:9", "--key", "hr_x"])
    assert result.exit_code == 1
    assert "nothing answers at http://127.0.0.1:9" in result.stderr


def test_the_demo_key_is_found_here_and_sent_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo.key").write_text("hr_demo\n")
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path))
    assert key(None, "http://127.0.0.1:8000") == "hr_demo"
    assert key("hr_mine", "https://example.org") == "hr_mine"
    with pytest.raises(Refused, match="--key"):
        key(None, "https://example.org")
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(Refused, match="headrace serve"):
        key(None, "http://127.0.0.1:8000")
