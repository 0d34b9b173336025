"""Calls of tools as items and events of a response, and as messages of the next one."""

import json
from typing import Any

import msgspec
import pytest

from deployments.core.config import Settings
from deployments.core.errors import InvalidRequest
from deployments.core.tools import OWN, Awaits, Ran, Selection, Tool, ToolCall
from deployments.core.types import Called, Citation, Cited, Delta, Message, Opened, Text
from deployments.gateway.items import approvals, messages, normalised
from deployments.gateway.responses import ResponseRequest
from deployments.gateway.tool_events import broken
from tests.gateway.test_response_events import CALLER, LINE, accumulated, encode, finished, planned, read, types
from tests.workshop import TOOLS

CALL = Ran(3, 0, "call_1", "wiki", "find", '{"a":1}', "a page")
LOG: list[Delta] = [
    Opened(0), Text(1, "Let me see."), Text(2, "\n\n"), CALL,
    Text(4, "It is [1]"), Cited(5, Citation(19, 22, 1, "http://h/files/f#chunk=1", "T")),
]  # fmt: skip


def test_messages_before_and_behind_a_call_are_items_of_their_own_with_citations_of_their_own() -> None:
    events, shown = encode(planned(), finished(LOG))
    assert types(shown)[-1] == "completed"
    before, call, behind = events.response()["output"]
    assert (before["content"][0]["text"], behind["content"][0]["text"]) == ("Let me see.\n\n", "It is [1]")
    cited = behind["content"][0]["annotations"][0]
    assert behind["content"][0]["text"][cited["start_index"] : cited["end_index"]] == "[1]"
    assert (call["type"], call["server_label"], call["name"], call["output"]) == ("mcp_call", "wiki", "find", "a page")
    assert [event["output_index"] for event in read(shown) if event["type"] == "response.output_item.done"] == [0, 1, 2]
    assert accumulated(shown)[-1].response.output_text == "Let me see.\n\nIt is [1]"


def test_the_events_of_a_call_are_the_same_however_the_log_is_cut() -> None:
    plan = planned()
    whole = encode(plan, finished(LOG))[1]
    events, _ = encode(plan, [])
    again = [event for delta in finished(LOG) for event in events.feed([delta])]
    assert [event.data for event in whole[-len(again) :]] == [event.data for event in again]


def test_a_call_that_failed_says_so() -> None:
    events, shown = encode(planned(), finished([Opened(0), Ran(1, 0, "call_1", OWN, "look", "{}", error="no such page")]))
    call = events.response()["output"][0]
    assert (call["status"], call["output"], call["error"]["content"][0]["text"]) == ("failed", None, "no such page")
    assert "mcp_call.failed" in types(shown)
    assert accumulated(shown)[-1].type == "response.completed"


def test_a_request_for_approval_is_the_whole_answer() -> None:
    events, shown = encode(planned(), finished([Opened(0), Awaits(1, "mcpr_1", OWN, "save", "{}")]))
    assert [item["type"] for item in events.response()["output"]] == ["mcp_approval_request"]
    assert accumulated(shown)[-1].response.output[0].id == "mcpr_1"


def test_large_arguments_come_in_pieces() -> None:
    arguments = json.dumps({"to": "x" * 20_000})
    shown = encode(planned(), finished([Opened(0), Ran(1, 0, "c", OWN, "look", arguments, "y")]))[1]
    deltas = [event["delta"] for event in read(shown) if event["type"] == "response.mcp_call_arguments.delta"]
    assert "".join(deltas) == arguments
    assert all(len(event.data) < LINE for event in shown)


def test_a_function_whose_arguments_are_no_json_is_incomplete_and_handed_on_as_it_is() -> None:
    log: list[Delta] = [Opened(0), Called(1, 0, "call_1", "f", '{"a":'), Called(2, 1, "call_2", "g", '{"a":1}')]
    tools = [{"type": "function", "name": name, "parameters": {}, "strict": False} for name in ("f", "g")]
    events, _ = encode(planned(tools=tools), finished(log, "tool_calls"))
    assert [(item["status"], item["arguments"]) for item in events.response()["output"]] == [
        ("incomplete", '{"a":'),
        ("completed", '{"a":1}'),
    ]
    assert [broken(arguments) for arguments in ("{", "[" * 100_000, "", "{}")] == [True, True, False, False]


def test_calls_that_were_made_are_known_to_the_model_of_the_next_response() -> None:
    events, _ = encode(planned(), finished(LOG))
    told = messages([item.body for item in events.outputs()])
    call = next(item["id"] for item in events.response()["output"] if item["type"] == "mcp_call")
    assert told == (
        Message("assistant", "Let me see.\n\n", (ToolCall(call, "wiki__find", '{"a":1}'),)),
        Message("tool", "a page", call_id=call),
        Message("assistant", "It is [1]"),
    )


def test_what_the_caller_says_to_a_request_is_read() -> None:
    said = [normalised({"type": "mcp_approval_response", "approval_request_id": f"mcpr_{n}", "approve": n == 1}, "input") for n in (1, 2)]
    assert approvals(said) == {"mcpr_1": True, "mcpr_2": False}
    assert messages([item.body for item in said]) == ()
    for wrong in ({"approve": True}, {"approval_request_id": "mcpr_1"}, {"approval_request_id": "mcpr_1", "approve": "yes"}):
        with pytest.raises(InvalidRequest):
            normalised({"type": "mcp_approval_response", **wrong}, "input")


def test_items_of_calls_may_be_sent_back_and_get_ids_of_ours() -> None:
    sent = {"type": "mcp_call", "id": "mcp_theirs", "server_label": "wiki", "name": "find", "arguments": "{}", "output": "x"}
    asked = {"type": "mcp_approval_request", "id": "mcpr_theirs", "server_label": "wiki", "name": "save", "arguments": "{}"}
    for raw in (sent, asked):
        made = msgspec.json.decode(normalised(raw, "input").body)
        assert made["id"] != raw["id"]
        assert made["name"] == raw["name"]


def test_allowed_tools_leave_some_functions() -> None:
    functions: list[Any] = [{"type": "function", "name": name, "parameters": {}, "strict": False} for name in ("f", "g")]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    box = planned(tools=functions, tool_choice=choice).turn.toolbox
    assert (box.tools, box.choice) == ((Tool("g", None, b"{}", False),), "required")
    assert planned(tools=functions, tool_choice=choice).snapshot["tool_choice"] == choice
    for wrong in ({"mode": "none"}, {"tools": [{"type": "function", "name": "h"}]}, {"tools": "g"}, {"tools": [{"type": "web_search"}]}):
        with pytest.raises(InvalidRequest):
            planned(tools=functions, tool_choice=choice | wrong)


def test_a_strict_function_has_a_schema_that_arguments_can_be_held_to() -> None:
    wrong: list[Any] = [{"type": "function", "name": "f", "parameters": {"type": "nonsense"}, "strict": True}]
    with pytest.raises(InvalidRequest) as refused:
        planned(tools=wrong)
    assert refused.value.param == "tools[0].parameters"
    planned(tools=[wrong[0] | {"strict": False}])


def test_one_tool_may_be_chosen_by_its_server_and_name() -> None:
    chosen = {"tool_names": ["look"], "read_only": True}
    body = {
        "model": "headrace",
        "input": "Hi",
        "tools": [{"type": "mcp", "server_label": OWN, "allowed_tools": chosen, "require_approval": "never"}],
        "tool_choice": {"type": "mcp", "server_label": OWN, "name": "look"},
    }
    plan = ResponseRequest.model_validate(body).plan(CALLER, Settings(tools=TOOLS), 0, "vs_1")
    assert plan.turn.toolbox.allowed == (Selection(OWN, ("look",), reading=True),)
    assert plan.turn.toolbox.choice == "=look"
    assert plan.snapshot["tools"][0]["allowed_tools"] == chosen
