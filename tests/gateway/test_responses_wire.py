"""A request for a response: what is honoured, what is echoed, what is refused; and items as the messages they mean."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response
from pydantic import ValidationError

from deployments.core.config import Gateway, Settings
from deployments.core.errors import ContextTooLong, HeadraceError, InvalidRequest, Unsupported
from deployments.core.filters import Combine, Compare
from deployments.core.tools import Tool, Toolbox, ToolCall
from deployments.core.types import Message, Principal, Sampling, Search
from deployments.gateway.envelope import invalid
from deployments.gateway.items import messages, normalised
from deployments.gateway.responses import INCLUDES, Plan, ResponseRequest, estimate, window

CALLER = Principal("acme", "key_1", frozenset({"chat"}))
SETTINGS = Settings(gateway=Gateway(max_messages=5, max_tokens=100))
SEARCH: dict[str, Any] = {"type": "file_search", "vector_store_ids": ["vs_1"]}
FUNCTION: dict[str, Any] = {"type": "function", "name": "f", "parameters": {"type": "object"}}
HALF = "\ud800"


def planned(**fields: Any) -> Plan:
    """The plan of a request."""
    request = ResponseRequest.model_validate({"model": "headrace", "input": "Hi"} | fields)
    return request.plan(CALLER, SETTINGS, 1_700_000_000.5, "vs_1", retrieves=request.model != "headrace-direct")


def refused(**fields: Any) -> HeadraceError:
    """The error of a request that is refused, by its shape or by its plan."""
    with pytest.raises((HeadraceError, ValidationError)) as caught:
        planned(**fields)
    if isinstance(caught.value, ValidationError):
        first = caught.value.errors()[0]
        return invalid(first["type"], first["loc"], first["msg"])
    return caught.value


def test_every_id_derives_from_one_and_the_turn_carries_it():
    plan = planned()
    assert plan.turn.id == plan.snapshot["id"]
    assert plan.turn.id.startswith("resp_")
    assert planned().turn.id != plan.turn.id
    assert (plan.turn.principal, plan.turn.created, plan.snapshot["created_at"]) == (CALLER, 1_700_000_000, 1_700_000_000)
    assert plan.turn.deadline_s == SETTINGS.gateway.deadline_s


def test_the_object_it_begins_as_has_every_field_with_its_default():
    golden = {
        "object": "response", "completed_at": None, "status": "in_progress", "error": None, "incomplete_details": None,
        "instructions": None, "previous_response_id": None, "conversation": None, "model": "headrace", "output": [],
        "parallel_tool_calls": True, "tools": [], "tool_choice": "auto", "truncation": "disabled", "text": {"format": {"type": "text"}},
        "temperature": 1.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "top_logprobs": 0,
        "max_output_tokens": None, "max_tool_calls": None, "reasoning": None, "store": True, "background": False,
        "service_tier": "default", "metadata": {}, "user": None, "safety_identifier": None, "prompt_cache_key": None, "usage": None,
        "created_at": 1_700_000_000,
    }  # fmt: skip
    for plan in (planned(), planned(**dict.fromkeys(set(ResponseRequest.model_fields) - {"model", "input"}))):
        shown = dict(plan.snapshot)
        assert shown.pop("id") == plan.turn.id
        assert shown == golden
        assert (plan.turn.sampling, plan.turn.toolbox, plan.turn.search) == (Sampling(), Toolbox(), None)


HONOURED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_output_tokens": 7}, {"max_tokens": 7}),
    ({"temperature": 0.5, "top_p": 0.25}, {"temperature": 0.5, "top_p": 0.25}),
    ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1, "frequency_penalty": -1}),
    ({"text": {"format": {"type": "json_object"}}}, {"json_object": True}),
    ({"include": ["message.output_text.logprobs"]}, {"top_logprobs": 0}),
    ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, {"top_logprobs": 3}),
    ({"top_logprobs": 3}, {"top_logprobs": 3}),
]


@pytest.mark.parametrize(("fields", "sampling"), HONOURED)
def test_sampling_is_honoured_and_told(fields: dict[str, Any], sampling: dict[str, Any]):
    plan = planned(**fields)
    assert plan.turn.sampling == Sampling(**sampling)
    told = {name: value for name, value in fields.items() if name != "include"}
    assert {name: plan.snapshot[name] for name in told} == told


ECHOED: list[dict[str, Any]] = [
    {"metadata": {"k" * 64: "v" * 512}},
    {"reasoning": {"effort": "low"}},
    {"text": {"format": {"type": "text"}, "verbosity": "low"}},
    {"user": "u", "safety_identifier": "s", "prompt_cache_key": "p", "prompt_cache_retention": "24h"},
    {"truncation": "auto", "max_tool_calls": 3, "parallel_tool_calls": False, "store": False},
    {"service_tier": "flex"},
    {"previous_response_id": "resp_1"},
    {"instructions": "Be brief"},
]


@pytest.mark.parametrize("fields", ECHOED)
def test_what_is_accepted_is_told(fields: dict[str, Any]):
    plan = planned(**fields)
    assert {name: plan.snapshot[name] for name in fields} == fields
    Response.model_validate(plan.snapshot)


@pytest.mark.parametrize(
    "fields",
    [
        {"stream_options": {"include_obfuscation": True}},
        {"background": True, "background_options": {"completion_window": "soonest"}},
        {"prompt_cache_options": {"x": 1}},
        {"include": list(INCLUDES)},
        {"brand_new": {"x": [1]}},
        {"reasoning": {"summary": "x" * 600}},
    ],
)
def test_hints_and_the_unknown_do_no_harm(fields: dict[str, Any]):
    assert planned(**fields).turn.messages == ()


def test_instructions_are_the_first_message_and_the_input_is_kept_apart():
    plan = planned(instructions="Be brief")
    assert plan.turn.messages == (Message("system", "Be brief"),)
    assert messages([item.body for item in plan.inputs]) == (Message("user", "Hi"),)


def test_a_conversation_is_named_by_its_id_or_by_itself():
    for value in ("conv_1", {"id": "conv_1"}):
        plan = planned(conversation=value)
        assert (plan.turn.conversation_id, plan.snapshot["conversation"]) == ("conv_1", {"id": "conv_1"})


def test_nothing_need_be_said_where_something_was_said_before():
    assert planned(input=None, previous_response_id="resp_1").inputs == ()
    assert planned(input=[], conversation="conv_1").inputs == ()


def test_functions_become_the_toolbox():
    plan = planned(tools=[FUNCTION | {"description": "d", "strict": True}], parallel_tool_calls=False)
    assert plan.turn.toolbox == Toolbox((Tool("f", "d", b'{"type":"object"}', True),), "auto", False)
    assert plan.snapshot["tools"] == [FUNCTION | {"description": "d", "strict": True}]
    named: dict[str, Any] = {"type": "function", "name": "f"}
    for given_, kept in (("none", "none"), ("required", "required"), (named, "=f")):
        plan = planned(tools=[FUNCTION], tool_choice=given_)
        assert (plan.turn.toolbox.choice, plan.snapshot["tool_choice"]) == (kept, given_)


def test_a_search_is_asked_for_by_its_tool():
    plan = planned(tools=[SEARCH | {"max_num_results": 5, "ranking_options": {"ranker": "auto", "score_threshold": 0.25}}])
    assert plan.turn.search == Search(5, 0.25)
    assert (plan.turn.store_id, plan.include_results) == ("vs_1", False)
    assert plan.snapshot["tools"][0]["max_num_results"] == 5
    assert planned(tools=[SEARCH], tool_choice={"type": "file_search"}).turn.search == Search()
    assert planned(tools=[SEARCH], tool_choice="required").turn.search == Search()
    assert planned(tools=[SEARCH], include=["file_search_call.results"]).include_results


def test_the_filters_of_a_search_are_read_and_repeated():
    sent = {"type": "or", "filters": [{"type": "eq", "key": "kind", "value": "ticket"}, {"type": "gt", "key": "stars", "value": 3}]}
    plan = planned(tools=[SEARCH | {"filters": sent}])
    assert plan.turn.search == Search(filters=Combine("or", (Compare("eq", "kind", "ticket"), Compare("gt", "stars", 3))))
    assert plan.snapshot["tools"][0]["filters"] == sent


def test_a_tool_choice_of_none_searches_nothing():
    assert planned(tools=[SEARCH], tool_choice="none").turn.search is None
    assert planned(model="headrace-direct", tools=[SEARCH], tool_choice="none").turn.store_id is None


def test_only_a_search_gives_the_direct_model_a_store():
    assert planned(model="headrace-direct").turn.store_id is None
    assert planned(model="headrace-direct", tools=[SEARCH]).turn.store_id == "vs_1"
    assert planned().turn.store_id == "vs_1"


HOSTED = [
    "web_search",
    "web_search_preview",
    "code_interpreter",
    "computer_use_preview",
    "image_generation",
    "mcp",
    "local_shell",
    "custom",
]
PARTS = ["input_audio", "input_file", "computer_screenshot", "summary_text"]
ITEMS = ["computer_call", "web_search_call", "image_generation_call", "custom_tool_call", "compaction", HALF]
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    *(({"tools": [FUNCTION, {"type": kind}]}, "tools[1].type", "unsupported_value") for kind in HOSTED),
    *(({"input": [{"role": "user", "content": [{"type": kind}]}]}, "input[0].content[0].type", "unsupported_value") for kind in PARTS),
    *(({"input": [{"type": kind}]}, "input[0].type", "unsupported_value") for kind in ITEMS),
    ({"prompt": {"x": 1}}, "prompt.id", "missing_required_parameter"),
    *(({name: {"x": 1}}, name, "unsupported_parameter") for name in ("context_management", "moderation", "image", "access_programs")),
    *(({name: {"x": 1}}, name, "unsupported_parameter") for name in ("logit_bias", "chat_template_kwargs", "grammar")),
    ({"background_options": {"completion_window": "2h"}}, "background_options.completion_window", "unsupported_value"),
    ({"background_options": {"completion_window": "8h"}}, "background_options.completion_window", "unsupported_value"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.name", "missing_required_parameter"),
    ({"tools": [SEARCH | {"vector_store_ids": ["vs_2"]}]}, "tools[0].vector_store_ids", "unsupported_parameter"),
    ({"tools": [SEARCH | {"vector_store_ids": ["vs_1", "vs_2"]}]}, "tools[0].vector_store_ids", "unsupported_parameter"),
    ({"tools": [{"type": "file_search"}]}, "tools[0].vector_store_ids", "missing_required_parameter"),
    ({"tools": [SEARCH | {"filters": {"type": "eq"}}]}, "tools[0].filters.key", "missing_required_parameter"),
    ({"tools": [SEARCH | {"filters": {"type": "in", "key": "k", "value": ["x" * 100] * 100}}]}, "tools[0].filters", "invalid_value"),
    (
        {"tools": [SEARCH | {"ranking_options": {"hybrid_search": {"text_weight": 1}}}]},
        "tools[0].ranking_options.hybrid_search", "unsupported_parameter",
    ),
    ({"tools": [SEARCH, SEARCH]}, "tools[1]", "unsupported_value"),
    ({"tools": [SEARCH | {"max_num_results": 51}]}, "tools[0].max_num_results", "invalid_value"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"tools": [FUNCTION | {"parameters": {"a": "x" * 65_536}}]}, "tools[0].parameters", "invalid_value"),
    ({"tools": [FUNCTION | {"parameters": {"a": HALF}}]}, "tools[0].parameters", "invalid_value"),
    ({"tools": [FUNCTION] * 129}, "tools", "invalid_value"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice", "unsupported_value"),
    ({"tool_choice": {"type": "web_search"}, "tools": [FUNCTION]}, "tool_choice", "unsupported_value"),
    ({"tool_choice": {"type": "function", "name": "g"}, "tools": [FUNCTION]}, "tool_choice", "unsupported_value"),
    ({"tool_choice": HALF}, "tool_choice", "invalid_value"),
    ({"tool_choice": 5}, "tool_choice", "invalid_value"),
    ({"include": ["output"]}, "include[0]", "unsupported_value"),
    ({"previous_response_id": "resp_1", "conversation": {"id": "conv_1"}}, "conversation", "invalid_value"),
    ({"conversation": {}}, "conversation", "invalid_value"),
    ({"previous_response_id": ""}, "previous_response_id", "invalid_value"),
    ({"background": True, "store": False}, "store", "invalid_value"),
    ({"background_options": "x"}, "background_options", "invalid_value"),
    ({"input": None}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "missing_required_parameter"),
    ({"input": 5}, "input", "invalid_value"),
    ({"input": [{"role": "user", "content": "x"}] * 6}, "input", "too_many_items"),
    ({"input": HALF}, "input", "invalid_value"),
    ({"max_output_tokens": 101}, "max_output_tokens", "invalid_value"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"truncation": "middle"}, "truncation", "invalid_value"),
    ({"service_tier": "turbo"}, "service_tier", "invalid_value"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value"),
    ({"user": "u" * 513}, "user", "invalid_value"),
    ({"user": HALF}, "user", "invalid_value"),
    ({"reasoning": {"effort": HALF}}, "reasoning", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "code"), REFUSED)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str, code: str):
    error = refused(**fields)
    assert (error.param, error.wire_code) == (param, code), error
    assert error.status == (404 if code == "model_not_found" else 400)


BAD_ITEMS: list[tuple[object, str]] = [
    ({"role": "cook", "content": "x"}, "input[0].role"),
    ({"role": ["user"], "content": "x"}, "input[0].role"),
    ({"role": "user"}, "input[0].content"),
    ({"role": "user", "content": []}, "input[0].content"),
    ({"role": "user", "content": HALF}, "input[0].content.text"),
    ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
    ({"role": "user", "content": ["x"]}, "input[0].content[0].type"),
    ({"type": "function_call", "name": "f", "arguments": "{}"}, "input[0].call_id"),
    ({"type": "function_call_output", "call_id": "call_1"}, "input[0].output"),
    ({"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_image"}]}, "input[0].output[0].type"),
    ({"type": "item_reference"}, "input[0].id"),
    ({"type": "file_search_call", "queries": [HALF]}, "input[0]"),
]


@pytest.mark.parametrize(("item", "param"), BAD_ITEMS)
def test_an_item_that_is_wrong_is_named(item: object, param: str):
    with pytest.raises((InvalidRequest, Unsupported)) as error:
        normalised(item, "input[0]")
    assert error.value.param == param


def test_an_item_gets_an_id_of_ours_whatever_it_brings():
    for raw, prefix in (
        ({"id": "msg_theirs", "role": "user", "content": "x"}, "msg_"),
        ({"id": "fc_theirs", "type": "function_call", "call_id": "c", "name": "f", "arguments": ""}, "fc_"),
        ({"id": "rs_theirs", "type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}, 5]}, "rs_"),
    ):
        item = normalised(raw, "input[0]")
        assert item.id.startswith(prefix)
        assert item.id != raw["id"]
        assert json.loads(item.body)["id"] == item.id


def test_references_are_known_by_their_place():
    plan = planned(input=[{"role": "user", "content": "x"}, {"type": "item_reference", "id": "msg_1"}])
    assert plan.references == {1: "msg_1"}


def said(*raw: dict[str, Any]) -> tuple[Message, ...]:
    """What some items mean."""
    return messages([normalised(item, "input").body for item in raw])


def call(name: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"call_{name}", "name": name, "arguments": "{}"}


def output(name: str, value: object) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call_{name}", "output": value}


def test_roles_and_parts_become_messages():
    assert said(
        {"role": "developer", "content": "rules"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": []}, {"type": "refusal", "refusal": "no"}]},
    ) == (Message("system", "rules"), Message("user", "a\nb"), Message("assistant", "c\nno"))


def test_calls_that_follow_each_other_are_one_message_of_the_assistant():
    found = said(
        {"role": "user", "content": "q"},
        {"type": "reasoning", "summary": []},
        {"type": "file_search_call", "queries": ["q"], "results": [{"text": "old"}]},
        {"role": "assistant", "content": "I'll look."},
        call("f"),
        call("g"),
        output("f", "1"),
        output("g", [{"type": "input_text", "text": "2"}]),
        call("h"),
    )
    f, g, h = (ToolCall(f"call_{name}", name, "{}") for name in "fgh")
    assert found == (
        Message("user", "q"),
        Message("assistant", "I'll look.", (f, g)),
        Message("tool", "1", call_id="call_f"),
        Message("tool", "2", call_id="call_g"),
        Message("assistant", "", (h,)),
    )


TURNS = said(
    {"role": "user", "content": "first " * 20}, call("f"), output("f", "x" * 100),
    {"role": "user", "content": "second " * 20}, {"role": "assistant", "content": "y" * 100},
    {"role": "user", "content": "third"},
)  # fmt: skip


def test_what_does_not_fit_is_refused_or_dropped_by_whole_turns():
    assert window(TURNS, estimate(TURNS), "disabled") == TURNS
    with pytest.raises(ContextTooLong):
        window(TURNS, estimate(TURNS) - 1, "disabled")
    assert window(TURNS, estimate(TURNS) - 1, "auto") == TURNS[3:]
    assert window(TURNS, estimate(TURNS[5:]), "auto") == TURNS[5:]
    with pytest.raises(ContextTooLong):
        window(TURNS, estimate(TURNS[5:]) - 1, "auto")


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "id", "name", "content", "x"]), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({*ResponseRequest.model_fields, "prompt", "stream_options", "grammar"} - {"model"})
KINDS = ["message", "function_call", "function_call_output", "file_search_call", "reasoning", "item_reference", "function", "file_search"]
INNER = [
    "role",
    "content",
    "call_id",
    "arguments",
    "output",
    "queries",
    "summary",
    "id",
    "name",
    "parameters",
    "filters",
    "ranking_options",
]
THINGS = st.builds(
    lambda kind, rest: {"type": kind} | rest, st.sampled_from(KINDS), st.dictionaries(st.sampled_from(INNER), WILD, max_size=4)
)


@given(st.dictionaries(st.sampled_from(NAMES), WILD, max_size=3), st.lists(THINGS, max_size=2), st.booleans())
def test_no_body_breaks_us(fields: dict[str, Any], things: list[Any], tools: bool):
    body = {"model": "headrace", "input": "Hi"} | fields | ({"tools" if tools else "input": things} if things else {})
    try:
        plan = ResponseRequest.model_validate(body).plan(CALLER, SETTINGS, 1.0, "vs_1")
    except (InvalidRequest, ValidationError):
        return
    assert msgspec.json.encode(msgspec.json.decode(plan.asked)) == plan.asked
    assert all(message.content is not None for message in messages([item.body for item in plan.inputs]))


@pytest.mark.parametrize("levels", [65, 900])
def test_what_nests_too_deep_is_refused(levels: int):
    deep: Any = []
    for _ in range(levels):
        deep = [deep]
    assert refused(tools=[FUNCTION | {"parameters": {"a": deep}}]).param == "tools[0].parameters"
    assert refused(reasoning={"a": deep}).param == "reasoning"
    with pytest.raises(InvalidRequest):
        normalised({"type": "reasoning", "summary": [{"a": deep}]}, "input[0]")
