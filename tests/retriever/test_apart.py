"""Files that are read in a process of their own, and what is left of it when they are hostile."""

import asyncio
import os
import time
import zlib
from pathlib import Path

import psutil
import pytest

from deployments.retriever.apart import Bounds, read
from deployments.retriever.document import Unreadable
from deployments.retriever.parse import parse
from tests.papers import docx, lines, packed, paragraph, pdf


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if "deployments.retriever.apart" in " ".join(one.cmdline())]


async def reason(content: bytes, filename: str, bounds: Bounds | None = None) -> tuple[str, str]:
    with pytest.raises(Unreadable) as caught:
        await read(content, filename, bounds or Bounds())
    assert children() == []
    return caught.value.wire_code, caught.value.message


@pytest.mark.parametrize(
    ("filename", "content"),
    [
        ("a.pdf", pdf(lines((24, "The wheel"), (11, "Water turns it.")))),
        ("a.docx", docx(paragraph("The wheel", "Kop1") + paragraph("Water turns it."))),
        ("a.csv", b"text,kind\n" + b"Water turns it.,wheel\n" * 20_000),
        ("a.md", b"# Small\n\nWater turns it."),
    ],
)
async def test_the_document_is_that_of_the_parser(filename: str, content: bytes):
    assert await read(content, filename, Bounds()) == parse(content, filename)


async def test_its_reasons_are_those_of_the_parser():
    assert await reason(b"%PDF broken", "a.pdf") == ("file_malformed", "a broken PDF: PDFSyntaxError")
    assert (await reason(b"PK broken", "a.docx"))[0] == "file_malformed"
    assert (await reason(b"", "a.pdf"))[0] == "file_empty"
    assert (await reason(b"x" * 1000, "a.pdf", Bounds(max_bytes=999)))[0] == "file_too_large"


async def test_a_bomb_stays_within_its_memory():
    bomb = zlib.compress(b" " * (400 << 20), 1)
    before = psutil.Process().memory_info().rss
    assert await reason(packed(bomb), "a.pdf", Bounds(memory_bytes=256 << 20)) == ("file_too_large", "reading it takes more than 256 MiB")
    assert psutil.Process().memory_info().rss < before + (50 << 20)


async def test_a_hang_is_ended_and_others_are_not_held_up():
    slow = b"- - - - - - - a\n" * 100_000
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    began = time.monotonic()
    assert await reason(slow, "a.md", Bounds(timeout_s=1)) == ("file_too_large", "it could not be read within 1 s")
    assert time.monotonic() - began < 5
    assert ticks > 20
    ticking.cancel()


async def test_a_reader_that_is_given_up_leaves_no_process():
    reading = asyncio.create_task(read(b"- - - - - - - a\n" * 100_000, "a.md", Bounds()))
    while not children():
        await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert children() == []


async def test_the_process_gets_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADRACE_ROOT_KEY", "secret")
    reading = asyncio.create_task(read(b"- - - - - - - a\n" * 100_000, "a.md", Bounds()))
    while not (found := children()):
        await asyncio.sleep(0.01)
    assert b"HEADRACE_ROOT_KEY" not in Path(f"/proc/{found[0].pid}/environ").read_bytes()
    assert found[0].pid != os.getpid()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_one_line_of_ten_megabytes_is_read():
    document = await read(b"turn " * 2_000_000, "a.txt", Bounds())
    assert len(document.text) == 9_999_999
