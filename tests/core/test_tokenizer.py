"""Prompts are counted as the model counts them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from deployments.core.config import Settings
from deployments.core.tokenizer import Vocabulary
from deployments.core.types import Message
from deployments.generator.llama import LlamaServer
from pipeline import vocabulary

PROMPTS: list[list[Message]] = [
    [Message("user", "Hi")],
    [Message("system", "You are terse."), Message("user", "What is 1234567 times 89? Tell me in detail, please.")],
    [
        Message("user", "Où est la gare ? 東京はどこですか。 🚉"),
        Message("assistant", "Là-bas."),
        Message("user", "def f(x):\n    return x ** 2"),
    ],
    [Message("user", "word " * 300)],
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"))
    vocabulary.build(settings)
    assert settings.vocabulary
    return settings.vocabulary


@pytest.fixture
async def model() -> AsyncIterator[AsyncOpenAI]:
    server = LlamaServer(Settings().generator)
    async with AsyncOpenAI(base_url=server.base_url, api_key=server.api_key) as client:
        yield client
    server.close()


async def test_the_embedded_model_counts_the_same(built: Path, model: AsyncOpenAI) -> None:
    counts = Vocabulary(built)
    for prompt in PROMPTS:
        asked = [{"role": message.role, "content": message.content} for message in prompt]
        answer = await model.chat.completions.create(model="m", messages=asked, max_tokens=1)  # type: ignore[arg-type]
        assert answer.usage
        assert abs(await counts.count(prompt) - answer.usage.prompt_tokens) <= 2, prompt


async def test_without_a_vocabulary_the_estimate_is_never_too_low(built: Path) -> None:
    exact, estimate = Vocabulary(built), Vocabulary(None)
    for prompt in PROMPTS[1:]:
        assert await estimate.count(prompt) >= await exact.count(prompt)
