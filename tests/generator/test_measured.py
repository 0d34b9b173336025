"""What is counted of the calls of backends, and what their spans tell."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.core import config
from deployments.core.models import Upstream
from deployments.core.sections import Resilience
from deployments.core.spans import here, span
from deployments.core.types import Generation, LogRef, Message, Sampling
from deployments.generator.backends import Backend
from deployments.generator.chain import Chain
from tests.house import listening
from tests.telemetry import Carrier, attributes, collecting

ANSWER = (
    'data: {"choices":[{"index":0,"delta":{"content":"a mill"}}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}\n\n'
    "data: [DONE]\n\n"
)


@dataclass
class Model:
    """A backend that keeps the headers it gets, and answers 500 so many times before."""

    failures: int = 0
    traces: list[str] = field(default_factory=list[str])

    async def answer(self, request: Request) -> Response:
        self.traces.append(request.headers.get("traceparent", ""))
        if len(self.traces) <= self.failures:
            return Response(status_code=500)
        return Response(ANSWER, media_type="text/event-stream")


@asynccontextmanager
async def chained(model: Model) -> AsyncIterator[Chain]:
    async with listening(Starlette(routes=[Route("/v1/chat/completions", model.answer, methods=["POST"])])) as url:
        settings = config.Generator(
            base_url=f"{url}/v1",
            model="sim",
            resilience=Resilience(backoff_s=0.001, longest_backoff_s=0.002, spare_retries=9, failures=1, window=1, open_s=60),
            fallbacks=(Upstream(name="second", base_url=f"{url}/v1", model="sim", rank=1),),
        )
        chain = Chain(lambda one: Backend(one.base_url, "key", one.model, settings), settings, Random(0))
        yield chain
        await chain.close()


async def ask(chain: Chain) -> str:
    generation = Generation(LogRef("resp_1", "t", (), record=False), (Message("user", "What turns?"),), Sampling(), (), (), 5)
    return "".join([piece.text async for piece in chain.stream(generation)])


async def test_a_call_is_counted_with_its_tokens(carrier: Carrier) -> None:
    async with chained(Model()) as chain:
        assert await ask(chain) == "a mill"
    assert carrier.values["headrace_backend_attempts"] == {("primary", "ok"): [1]}
    assert carrier.values["gen_ai_client_token_usage"] == {("chat", "primary", "input"): [7], ("chat", "primary", "output"): [2]}
    (first,) = carrier.values["gen_ai_client_operation_time_to_first_chunk_seconds"]["chat", "primary"]
    (whole,) = carrier.values["gen_ai_client_operation_duration_seconds"]["chat", "primary", ""]
    assert 0 < first <= whole


async def test_a_failure_is_counted_where_it_was_and_so_is_who_took_over(carrier: Carrier) -> None:
    async with chained(Model(failures=1)) as chain:
        assert await ask(chain) == "a mill"
        chain.look()
    (failed,) = [outcome for backend, outcome in carrier.values["headrace_backend_attempts"] if backend == "primary"]
    assert failed != "ok"
    assert carrier.values["headrace_fallbacks"] == {(failed,): [1]}
    assert carrier.total("headrace_backend_attempts", "second", "ok") == 1
    assert carrier.values["headrace_backend_breaker_state"] == {("primary",): [2], ("second",): [0]}
    assert carrier.values["headrace_backend_calls"] == {("primary",): [0], ("second",): [0]}


async def test_a_backend_is_told_of_the_span_that_calls_it() -> None:
    model = Model()
    async with collecting() as collector, chained(model) as chain:
        with span("turn"):
            turn = here()
            await ask(chain)
    (call,) = [one for one in collector.spans if one.name == "chat sim"]
    assert [trace.split("-")[1:3] for trace in model.traces] == [[turn.split("-")[1], call.span_id.hex()]]
    assert call.parent_span_id == collector.named("turn").span_id
    told = {"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 2, "gen_ai.response.id": "resp_1", "headrace.backend": "primary"}
    assert told.items() <= attributes(call).items()
    assert "mill" not in str(call)
    assert "turns" not in str(call)


async def test_what_was_said_is_on_a_span_where_that_is_asked_for() -> None:
    async with collecting(content=True) as collector, chained(Model()) as chain:
        await ask(chain)
    about = attributes(collector.named("chat sim"))
    assert "What turns?" in about["gen_ai.input.messages"]
    assert about["gen_ai.output.messages"] == "a mill"


async def test_without_an_exporter_a_backend_is_told_nothing() -> None:
    model = Model()
    async with chained(model) as chain:
        await ask(chain)
    assert model.traces == [""]
