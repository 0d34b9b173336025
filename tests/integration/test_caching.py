"""Asking twice, over the whole product: edge, gateway, worker, Valkey and SQL as its users have them."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.conftest import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

QUESTION: dict[str, Any] = {"model": "headrace", "messages": [{"role": "user", "content": "What brings water to the wheel?"}]}


def ask(http: httpx2.Client, **headers: str) -> tuple[str, int, float]:
    """Answer, cached tokens and seconds."""
    started = time.monotonic()
    reply = http.post("/v1/chat/completions", json=QUESTION, headers=headers).raise_for_status().json()
    cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
    return reply["choices"][0]["message"]["content"], cached, time.monotonic() - started


def test_an_answer_is_given_again_until_the_documents_change(stack: Stack, tmp_path: Path) -> None:
    with stack.http() as http:
        first, again = ask(http, **{"x-headrace-cache": "semantic"}), ask(http, **{"x-headrace-cache": "semantic"})
        assert first[:2] == (again[0], 0)
        assert again[1] > 0
        assert again[2] < first[2] / 2
        assert ask(http)[1] == 0
        (tmp_path / "mill.md").write_text("# Mill\n\nA headrace brings water to the wheel.\n")
        report = stack.headrace("ingest", str(tmp_path))
        assert report.returncode == 0, report.stdout + report.stderr
        assert ask(http, **{"x-headrace-cache": "semantic"})[1] == 0


def test_duplicates_through_the_edge_are_one_generation(stack: Stack) -> None:
    with stack.http() as http, ThreadPoolExecutor(20) as threads:

        def send(_: int) -> httpx2.Response:
            return http.post("/v1/chat/completions", json=QUESTION | {"stream": True}, headers={"idempotency-key": "edge-1"})

        replies = list(threads.map(send, range(20)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert sum("idempotent-replayed" in reply.headers for reply in replies) == 19
