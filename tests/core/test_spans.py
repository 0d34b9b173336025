"""Spans, as an OpenTelemetry collector gets them."""

import asyncio

import pytest

from deployments.core import spans
from deployments.core.errors import Overloaded
from deployments.core.spans import Telemetry, here, sound, span
from tests.house import House
from tests.telemetry import attributes, collecting

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_without_an_exporter_there_is_no_span() -> None:
    spans.start(Telemetry(), "test")
    with span("one") as mark:
        assert here() == ""
        assert not mark.wants_content


async def test_a_span_is_below_the_one_that_is_open_and_below_its_client() -> None:
    async with collecting() as collector:
        with span("outer", parent=CLIENT):
            inside = here()
            with span("inner", {"gen_ai.request.model": "m", "left_out": ""}, kind="client"):
                pass
        with span("far", parent=inside):
            pass
    outer, inner, far = (collector.named(name) for name in ("outer", "inner", "far"))
    assert {one.trace_id.hex() for one in (outer, inner, far)} == {CLIENT[3:35]}
    assert outer.parent_span_id.hex() == CLIENT[36:52]
    assert inner.parent_span_id == far.parent_span_id == outer.span_id
    assert attributes(inner) == {"gen_ai.request.model": "m"}


async def test_how_a_span_ended_is_told_by_a_code_and_by_no_message() -> None:
    async with collecting() as collector:
        with pytest.raises(Overloaded), span("refused"):
            raise Overloaded("the canary sings")
        with pytest.raises(asyncio.CancelledError), span("left"):
            raise asyncio.CancelledError
    assert attributes(collector.named("refused")) == {"error.type": Overloaded.code}
    assert attributes(collector.named("left")) == {"error.type": "cancelled"}
    assert not collector.named("refused").events
    assert "canary" not in str(collector.spans)


async def test_a_client_that_does_not_sample_has_no_spans() -> None:
    async with collecting() as collector:
        with span("unseen", parent=CLIENT[:-1] + "0"):
            pass
        with span("seen"):
            pass
    assert collector.names() == ["seen"]


@pytest.mark.parametrize("odd", ["", "00-abc", CLIENT + "\r\n", CLIENT.upper(), "00-" + "0" * 32 + CLIENT[35:], "ff" + CLIENT[2:]])
def test_what_is_no_traceparent_is_none(odd: str) -> None:
    assert sound(odd) == ""


def test_a_traceparent_stays_as_it_is() -> None:
    assert sound(CLIENT) == CLIENT


async def test_a_turn_goes_on_with_the_trace_of_its_client(house: House) -> None:
    async with collecting() as collector, house.http() as http:
        body = {"model": "headrace", "messages": [{"role": "user", "content": "the canary sings"}], "user": "canary"}
        await http.post("/v1/chat/completions", json=body, headers={"traceparent": CLIENT})
        await http.post("/v1/responses", json={"model": "headrace", "input": "canary"}, headers={"traceparent": "canary"})
    turns = [one for one in collector.spans if one.name == "invoke_workflow headrace"]
    assert [one.trace_id.hex() == CLIENT[3:35] for one in turns] == [True, False]
    about = attributes(turns[0])
    assert (about["gen_ai.operation.name"], about["gen_ai.request.model"], about["headrace.tenant"]) == (
        "invoke_workflow",
        "headrace",
        "ours",
    )
    admits = [one for one in collector.spans if one.name == "headrace.admit"]
    assert [one.parent_span_id for one in admits] == [one.span_id for one in turns]
    assert "canary" not in str(collector.spans)
