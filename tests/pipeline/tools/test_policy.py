"""Which calls are made: a table of facts and decisions, and a search for a way round them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.errors import InvalidRequest
from deployments.core.tools import OWN, Selection
from deployments.core.types import Message
from pipeline.tools.policy import MAX_ARGUMENTS_CHARS, Ask, Deny, Run, Standing, decide, untrusted
from pipeline.tools.registry import Allowed, allowed, registered
from tests.workshop import TOOLS

HELD = frozenset({"chat", "tools:use"})
REGISTERED = registered(TOOLS)
NAMES = ("look", "save", "send", "peek", "spare", "nothing")


def standing(*names: str, scopes: frozenset[str] = HELD, untrusted: bool = False, after: Any = (), asking: bool = False) -> Standing:
    return Standing(allowed(REGISTERED, [Selection(OWN, names, asking=asking)]), scopes, untrusted, frozenset(after))


def why(name: str, arguments: str, where: Standing, **fields: Any) -> str:
    verdict = decide(name, arguments, where, **fields)
    return verdict.why if isinstance(verdict, Deny) else type(verdict).__name__


@pytest.mark.parametrize(
    ("name", "arguments", "where", "expected"),
    [
        ("look", "{}", standing("look"), "Run"),
        ("look", "", standing("look"), "Run"),
        ("look", "{}", standing("look", asking=True), "Ask"),
        ("save", "{}", standing("save"), "Ask"),
        ("send", "{}", standing("send"), "Ask"),
        ("look", "{}", standing("save"), "not_allowed"),
        ("nothing", "{}", standing("save"), "not_allowed"),
        ("peek", "{}", standing("peek"), "missing_scope"),
        ("look", "{}", standing("look", scopes=frozenset()), "missing_scope"),
        ("look", "{}", standing("look", untrusted=True), "Run"),
        ("save", "{}", standing("save", untrusted=True), "after_untrusted"),
        ("send", "{}", standing("send", untrusted=True), "after_untrusted"),
        ("send", "{}", standing("send", untrusted=True, after=["write"]), "after_untrusted"),
        ("save", "{}", standing("save", untrusted=True, after=["write"]), "Ask"),
        ("look", '{"n":"1"}', standing("look"), "invalid_arguments"),
        ("look", '{"other":1}', standing("look"), "invalid_arguments"),
        ("look", "[]", standing("look"), "invalid_arguments"),
        ("look", '{"n":1', standing("look"), "invalid_arguments"),
        ("look", "[" * 5000, standing("look"), "invalid_arguments"),
        ("look", '{"to":"' + "x" * MAX_ARGUMENTS_CHARS + '"}', standing("look"), "too_long"),
    ],
)
def test_each_fact_decides(name: str, arguments: str, where: Standing, expected: str) -> None:
    assert why(name, arguments, where) == expected


def test_an_approval_stands_in_for_the_question_alone() -> None:
    assert why("save", "{}", standing("save", untrusted=True), approved=True) == "Run"
    assert why("peek", "{}", standing("peek"), approved=True) == "missing_scope"
    assert why("save", "{}", standing("look"), approved=True) == "not_allowed"
    assert why("save", '{"n":"x"}', standing("save"), approved=True) == "invalid_arguments"


def test_arguments_that_mean_the_same_are_the_same() -> None:
    one, other = decide("save", '{"to": "a", "n": 1}', standing("save")), decide("save", '{"n":1,"to":"\\u0061"}', standing("save"))
    assert isinstance(one, Ask)
    assert one == other


@given(
    name=st.sampled_from(NAMES),
    chosen=st.sets(st.sampled_from(NAMES[:-1])),
    scopes=st.sets(st.sampled_from(["chat", "tools:use", "tools:secret"])),
    strange=st.booleans(),
    after=st.sets(st.sampled_from(["write", "egress"])),
    arguments=st.dictionaries(st.sampled_from(["to", "n", "x"]), st.one_of(st.text(max_size=5), st.integers())),
)
def test_no_combination_lets_a_call_through_that_one_rule_forbids(
    name: str, chosen: set[str], scopes: set[str], strange: bool, after: set[Any], arguments: dict[str, Any]
) -> None:
    where = standing(*chosen, scopes=frozenset(scopes), untrusted=strange, after=after)
    verdict = decide(name, msgspec.json.encode(arguments).decode(), where)
    offered = {tool.name for tool in where.offers()}
    if isinstance(verdict, Deny):
        return
    assert name in chosen
    assert name in offered
    assert verdict.tool.scopes <= scopes
    assert isinstance(arguments.get("to", ""), str)
    assert isinstance(arguments.get("n", 0), int)
    assert "x" not in arguments
    assert isinstance(verdict, Run) == (verdict.tool.effect == "read")
    assert not strange or verdict.tool.effect in {"read", *after}


def test_only_what_caller_and_operator_say_is_trusted() -> None:
    said = [Message("system", "x"), Message("developer", "x"), Message("user", "x")]
    assert not untrusted(said)
    assert untrusted([*said, Message("assistant", "x")])
    assert untrusted([Message("tool", "x", call_id="1"), *said])


def test_a_selection_narrows_and_never_widens() -> None:
    assert set(allowed(REGISTERED, [Selection(OWN)]).tools) == set(NAMES[:-1])
    assert set(allowed(REGISTERED, [Selection(OWN, reading=True)]).tools) == {"look", "peek", "spare"}
    assert allowed(REGISTERED, [Selection("wiki")]) == Allowed({})
    with pytest.raises(InvalidRequest):
        allowed(REGISTERED, [Selection("wiki", ("look",))])
