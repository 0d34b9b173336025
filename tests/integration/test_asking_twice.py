"""Asking twice, over the whole product: edge, gateway, worker, Valkey and SQL as its users have them."""

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.integration.conftest import LEASE_S, Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

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


BODY: dict[str, Any] = {"model": "headrace-direct", "input": "Tell me of wheels.", "stream": True}
RESTART_S = 30.0
"""A killed gateway is back within this time, by far."""


def gateways(pair: Stack) -> list[psutil.Process]:
    return [process for process in pair.processes() if _is_gateway(process)]


def _is_gateway(process: psutil.Process) -> bool:
    try:
        return "ServeReplica:headrace:gateway" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def broken_off(victims: list[psutil.Process], http: httpx2.Client, headers: dict[str, str]) -> str:
    """The id of a response in whose midst the gateways are killed."""
    response_id = ""
    with contextlib.suppress(httpx2.HTTPError), http.stream("POST", "/v1/responses", json=BODY, headers=headers) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {") and not response_id:
                response_id = json.loads(line.removeprefix("data: "))["response"]["id"]
            if "output_text.delta" in line:
                while victims:
                    victims.pop().kill()
    return response_id


def test_killed_gateways_neither_block_a_key_nor_lose_what_was_bound_to_it(pair: Stack) -> None:
    for outlives in (False, True):
        pair.until(lambda: len(gateways(pair)) == 2, "two gateways")
        headers = {"idempotency-key": f"killed-{outlives}"} | ({"x-headrace-on-disconnect": "continue"} if outlives else {})
        replies: list[str] = []

        def ended(headers: dict[str, str] = headers, replies: list[str] = replies) -> bool:
            replies.append(http.post("/v1/responses", json=BODY, headers=headers).text.replace(": keep-alive\n\n", ""))
            return "event: response.completed" in replies[-1]

        with pair.http() as http:
            response_id = broken_off(gateways(pair), http, headers)
            seconds = pair.until(ended, "the answer", LEASE_S + RESTART_S)
            assert ended(), replies[-1]
        assert replies[-1] == replies[-2]
        assert (response_id in replies[-1]) == outlives
        print(f"a key was good again {seconds:.1f} s after both gateways were killed")  # noqa: T201
