"""Two tiers and a catalogue over the whole stack: who answers what, and a model that is added while everything runs."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.core.config import Settings
from deployments.core.keys import Keys
from deployments.core.store import open_store
from deployments.core.tenants import Tenants, Terms
from tests.integration.conftest import Stack, end, start
from tests.loadtest.conftest import Simulator

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

SIMPLE = ["What is the capital of Italy?", "What colour is the sky?", "Which planet is closest to the sun?"]
HARD = [
    "Write a persuasive essay of a thousand words on whether central banks should issue digital currencies, with counterarguments.",
    "Compare the economic policies of Keynes and Hayek, and explain in detail which of them better explains the crisis of 2008.",
]
WORDS = {"small": 3, "large": 5, "third": 7}
"""How many words each simulator says, which tells them apart."""
PNG = f"data:image/png;base64,{base64.b64encode(bytes.fromhex('89504e470d0a1a0a')).decode()}"


@pytest.fixture
def simulators(spawn: Callable[..., Simulator]) -> dict[str, Simulator]:
    return {name: spawn("--ttft-ms", "20", "--itl-ms", "5", "--tokens", str(words)) for name, words in WORDS.items()}


@pytest.fixture
def tiers(simulators: dict[str, Simulator], folder: Path) -> Iterator[Stack]:
    """A stack whose small model is the first simulator and whose large one the second."""
    large = {"name": "large", "base_url": simulators["large"].url, "model": "sim", "tier": "large", "rank": 0}
    fallbacks, keys = json.dumps([large]), json.dumps({"third": "secret"})
    stack = start(
        folder,
        simulators["small"],
        HEADRACE_GENERATOR__TIER="small",
        HEADRACE_GENERATOR__FALLBACKS=fallbacks,
        HEADRACE_GENERATOR__KEYS=keys,
    )
    yield stack
    assert end(stack) == []


async def administered(stack: Stack, threshold: float | None = None) -> str:
    """The key of an administrator; the threshold becomes that of the demo tenant."""
    settings = Settings(data_dir=stack.data_dir)
    store = open_store(settings)
    try:
        keys = Keys(store, settings.pepper_bytes())
        if threshold is not None:
            await Tenants(store, "test").update((await keys.verify(stack.key)).tenant, Terms(threshold=threshold))
            return ""
        await keys.add_tenant("office", "office")
        return (await keys.mint("office", ["admin"])).secret
    finally:
        await store.close()


def ask(http: httpx2.Client, content: Any, model: str = "headrace-direct", **fields: object) -> tuple[str, str]:
    """Who answered a question, and the route that was told."""
    body = {"model": model, "messages": [{"role": "user", "content": content}]} | fields
    answer = http.post("/v1/chat/completions", json=body, headers={"x-headrace-route": "1"})
    assert answer.status_code == 200, answer.text
    said = answer.json()["choices"][0]["message"]["content"].split()
    return next(name for name, words in WORDS.items() if words == len(said)), answer.headers["x-headrace-route"]


def test_questions_go_to_their_tier_and_a_model_added_meanwhile_to_its_own_backend(tiers: Stack, simulators: dict[str, Simulator]) -> None:
    with tiers.http() as http:
        assert [ask(http, question)[0] for question in SIMPLE] == ["small"] * len(SIMPLE)
        assert [ask(http, question)[0] for question in HARD] == ["large"] * len(HARD)
        assert "tier=large; " in ask(http, HARD[0])[1]
        assert ask(http, HARD[0], service_tier="flex")[0] == "large"
        _adds_a_model(tiers, http, simulators)
        asyncio.run(administered(tiers, threshold=1.0))
        tiers.until(lambda: ask(http, HARD[0])[0] == "small", "the tenant's own threshold", within_s=3)


def _adds_a_model(stack: Stack, http: httpx2.Client, simulators: dict[str, Simulator]) -> None:
    own = {"name": "third", "base_url": simulators["third"].url, "model": "sim", "key": "third", "abilities": ["vision"]}
    seen: list[Any] = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PNG}}]
    refused = http.post("/v1/chat/completions", json={"model": "third", "messages": [{"role": "user", "content": "Hi"}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    with stack.http(asyncio.run(administered(stack))) as office:
        added = office.post("/admin/models", json={"name": "third", "retrieves": False, "backends": [own]})
        assert added.status_code == 200, added.text

        def listed() -> bool:
            return "third" in {model["id"] for model in http.get("/v1/models").json()["data"]}

        assert stack.until(listed, "the model", within_s=10) < 2
        for question in (*SIMPLE, *HARD, seen):
            assert ask(http, question, "third")[0] == "third"
        blind = http.post("/v1/chat/completions", json={"model": "headrace-direct", "messages": [{"role": "user", "content": seen}]})
        assert (blind.status_code, blind.json()["error"]["param"]) == (400, "messages[0].content[1]")
        assert office.delete("/admin/models/third").status_code == 200
    assert stack.until(lambda: not listed(), "the end of the model", within_s=10) < 2
