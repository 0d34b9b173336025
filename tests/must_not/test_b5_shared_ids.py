"""B5: an id that clients choose is no key that they share. And fault 27: the same request at once is answered once."""

import asyncio
from pathlib import Path

import httpx2

from deployments.core.config import Settings
from tests.fakes import Desk, database
from tests.house import House

PAIRS = 1000
KEYS = 50
CHAT = {"model": "headrace-direct", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


async def test_two_tenants_with_the_same_keys_and_bodies_never_meet(tmp_path: Path) -> None:
    async with database(tmp_path) as store:
        desk = Desk(store, Settings(data_dir=tmp_path))
        async with desk.http(await desk.key("acme")) as ours, desk.http(await desk.key("other")) as theirs:

            async def create(http: httpx2.AsyncClient, number: int) -> tuple[int, str]:
                headers = {"idempotency-key": f"key-{number % KEYS}", "x-request-id": "same"}
                reply = await http.post("/v1/conversations", json={"metadata": {"number": str(number % KEYS)}}, headers=headers)
                assert (reply.status_code, reply.json()["metadata"]) == (200, {"number": str(number % KEYS)})
                return number % KEYS, reply.json()["id"]

            made = await asyncio.gather(*(create(http, number) for number in range(PAIRS) for http in (ours, theirs)))
            mine, others = set(made[::2]), set(made[1::2])
            assert len(mine) == len(others) == KEYS
            assert not mine & others
            for http, ids in ((ours, mine), (theirs, others)):
                for _, name in ids:
                    assert (await http.get(f"/v1/conversations/{name}")).status_code == 200


async def test_a_thousand_duplicates_at_once_are_one_generation(house: House) -> None:
    house.flow.pieces, house.flow.pause_s = ["once ", "only"], 0.5
    limits = httpx2.Limits(max_connections=1000)
    async with httpx2.AsyncClient(base_url=house.url, headers={"authorization": f"Bearer {house.key}"}, limits=limits) as http:
        sent = (http.post("/v1/chat/completions", json=CHAT, headers={"idempotency-key": "k"}, timeout=60) for _ in range(1000))
        replies = await asyncio.gather(*sent)
    assert {reply.status_code for reply in replies} <= {200, 409}
    assert len({reply.content for reply in replies if reply.status_code == 200}) == 1
    assert sum(reply.status_code == 200 for reply in replies) > 1
    assert len(house.flow.turns) == 1
