"""Which backends can answer a call at all."""

from typing import Any

import pytest

from deployments.core.errors import ContextTooLong, Overloaded, Unsupported
from deployments.core.images import IMAGE_TOKENS, Image
from deployments.core.models import Upstream
from deployments.core.shape import Schema
from deployments.core.tools import Tool, Toolbox
from deployments.core.types import Generation, LogRef, Message, Sampling
from deployments.generator.suited import suited

PNG = Image("png", b"\x89PNG\r\n\x1a\n")


def backend(name: str, **fields: Any) -> Upstream:
    return Upstream(name=name, base_url="u", model="m", **fields)


def call(text: str = "Hi", *, images: int = 0, toolbox: Toolbox | None = None, **sampling: Any) -> Generation:
    message = Message("user", text, images=(PNG,) * images)
    return Generation(LogRef("r", "t", (), record=False), (message,), Sampling(**sampling), (), (), 5, toolbox=toolbox or Toolbox())


def names(generation: Generation, *upstreams: Upstream) -> list[str]:
    return [one.name for one in suited(upstreams, generation, 100)]


PLAIN, SEEING, BARE = backend("plain"), backend("seeing", abilities=("vision",)), backend("bare", abilities=())


@pytest.mark.parametrize(
    ("generation", "able", "param"),
    [
        (call(images=1), "seeing", "messages"),
        (call(toolbox=Toolbox((Tool("f"),))), "plain", "tools"),
        (call(schema=Schema("s", b"{}")), "plain", "response_format"),
    ],
)
def test_only_those_with_the_ability_are_asked_and_without_one_the_caller_is_told(generation: Generation, able: str, param: str) -> None:
    assert names(generation, PLAIN, SEEING, BARE) == [able]
    with pytest.raises(Unsupported) as refused:
        names(generation, BARE)
    assert (refused.value.param, refused.value.status) == (param, 400)


def test_plain_text_goes_anywhere() -> None:
    assert names(call(), PLAIN, SEEING, BARE) == ["plain", "seeing", "bare"]


def test_a_backend_too_small_for_prompt_and_answer_is_passed_over() -> None:
    small, large = backend("small", context_size=200), backend("large", context_size=2000)
    assert names(call("x" * 400), small, large) == ["small", "large"]  # 100 tokens and the usual 100
    assert names(call("x" * 404), small, large) == ["large"]
    assert names(call("x" * 400, max_tokens=101), small, large) == ["large"]
    assert names(call("x" * 400, max_tokens=101), small, PLAIN) == ["plain"]
    with pytest.raises(ContextTooLong):
        names(call("x" * 400, max_tokens=1901), small, large)


def test_an_image_takes_its_place_in_the_context() -> None:
    roomy = backend("roomy", abilities=("vision",), context_size=100 + IMAGE_TOKENS)
    assert names(call("", images=1), roomy) == ["roomy"]
    with pytest.raises(ContextTooLong):
        names(call("", images=2), roomy)


def test_a_model_whose_backends_are_gone_is_out() -> None:
    with pytest.raises(Overloaded):
        names(call())
