"""The grammar that holds the embedded model to sentences of the sources, by the embedded model itself."""

import pytest
from openai import AsyncOpenAI

from deployments.core import config
from deployments.core.errors import StreamInterrupted
from deployments.generator.grammar import quoting
from deployments.generator.llama import LlamaServer

SENTENCES = ('A headrace brings water "down" to the wheel.', "A tailrace leads it away.\\", "Die Mühle mahlt Körner – 100 kg.", "It stops.")


def test_each_step_offers_the_best_two_that_are_left() -> None:
    assert quoting(["A.", "B.", "C."], picks=2).splitlines() == [
        'root ::= s0 "\\n\\n" (s1 | s2) | s1 "\\n\\n" (s0 | s2)',
        's0 ::= "A."',
        's1 ::= "B."',
        's2 ::= "C."',
    ]


def test_fewer_sentences_than_picks_are_all_quoted_once() -> None:
    assert quoting(["A."]).startswith("root ::= s0\n")


@pytest.mark.parametrize(
    ("said", "root"),
    [
        ("Al", 'root ::= "pha.\\n\\n" (s1 | s2)'),
        ("Alpha.", 'root ::= "\\n\\n" (s1 | s2)'),
        ("Alpha.\n", 'root ::= "\\n" (s1 | s2)'),
        ("Alpha.\n\n", 'root ::= "" (s1 | s2)'),
        ("Alpha.\n\nBe", 'root ::= "ta."'),
        ("Alpha.\n\nBeta.", 'root ::= ""'),
    ],
)
def test_a_text_that_was_begun_is_gone_on_with(said: str, root: str) -> None:
    assert quoting(["Alpha.", "Beta.", "Gamma."], picks=2, said=said).splitlines()[0] == root


@pytest.mark.parametrize("said", ["Gamma", "Alpha. Beta", "Alpha.\n\nAlpha", "alpha"])
def test_a_text_that_is_no_quotation_is_not_gone_on_with(said: str) -> None:
    with pytest.raises(StreamInterrupted):
        quoting(["Alpha.", "Beta.", "Gamma."], picks=2, said=said)


@pytest.mark.timeout(120)
async def test_the_model_can_write_nothing_else() -> None:
    server = LlamaServer(config.Generator(slots=1))
    try:
        async with AsyncOpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0) as client:
            answer = await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "Write a poem about the sea."}],
                max_tokens=200,
                extra_body={"grammar": quoting(SENTENCES)},
            )
    finally:
        server.close()
    quoted = (answer.choices[0].message.content or "").split("\n\n")
    assert answer.choices[0].finish_reason == "stop"
    assert len(quoted) == len(set(quoted)) == 3
    assert set(quoted) <= set(SENTENCES)
