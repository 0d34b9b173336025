"""A simulator with a number of slots."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.loadtest.conftest import Simulator


def test_answers_beyond_the_slots_wait_for_their_turn(spawn: Callable[..., Simulator]) -> None:
    simulator = spawn("--slots", "2", "--ttft-ms", "50", "--itl-ms", "10", "--tokens", "10")
    body = {"model": "sim", "messages": [{"role": "user", "content": "Hi"}]}
    with httpx2.Client(base_url=simulator.url) as http, ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: http.post("/chat/completions", json=body), range(6)))
    assert [reply.status_code for reply in replies] == [200] * 6
    lives = [(each["started"], each["ended"]) for each in simulator.stats()["ended"]]
    assert max(sum(begun <= moment < ended for begun, ended in lives) for moment, _ in lives) == 2
