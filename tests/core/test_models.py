"""Logical models and their backends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from deployments.core.models import MAX_BACKENDS, Model
from deployments.core.sections import Generator, Upstream

NEAR: dict[str, Any] = {"name": "near", "base_url": "http://near/v1", "model": "m"}
CONFIGURED = Generator(fallbacks=(Upstream(name="spare", base_url="http://spare/v1", model="m", rank=9),)).upstreams


def made(*backends: Any) -> Model:
    return Model(name="mine", backends=backends)


def test_the_order_of_the_backends_is_their_rank_where_none_is_stated() -> None:
    ranked = made("spare", NEAR, "primary", NEAR | {"name": "far", "rank": 1}).upstreams(CONFIGURED)
    assert [(one.name, one.rank) for one in ranked] == [("spare", 0), ("near", 1), ("primary", 2), ("far", 1)]


def test_without_backends_it_has_all_that_are_configured_as_they_are() -> None:
    assert made().upstreams(CONFIGURED) == CONFIGURED


def test_a_backend_is_called_with_the_key_that_it_names() -> None:
    generator = Generator(keys={"k": SecretStr("secret")})
    named, open_one = made(NEAR | {"key": "k"}, NEAR | {"name": "open"}).own
    assert (generator.bearer(named), generator.bearer(open_one)) == ("secret", "none")
    assert generator.bearer(Upstream(name="x", base_url="u", model="m", api_key=SecretStr("own"))) == "own"


def test_a_backend_that_is_configured_no_more_is_left_out() -> None:
    assert [one.name for one in made("gone", "primary").upstreams(CONFIGURED)] == ["primary"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_key": "sk-1"},
        {"base_url": ""},
        {"base_url": "file:///etc/passwd"},
        {"base_url": "http://user:password@host/v1"},
        {"base_url": "https://host/v1?key=1"},
        {"base_url": "http:///v1"},
        {"name": "a b"},
        {"weight": 0},
        {"weight": float("inf")},
        {"input_cost": -1},
        {"abilities": ["telepathy"]},
        {"context_size": 1},
        {"nonsense": 1},
    ],
)
def test_a_backend_that_can_not_be_is_refused(wrong: dict[str, Any]) -> None:
    assert made(NEAR)
    with pytest.raises(ValidationError):
        made(NEAR | wrong)


def test_so_many_backends_each_of_its_own_name_are_all_it_takes() -> None:
    many = [NEAR | {"name": f"b{number}"} for number in range(MAX_BACKENDS + 1)]
    assert made(*many[1:])
    for wrong in (many, [NEAR, NEAR], ["near", NEAR]):
        with pytest.raises(ValidationError):
            made(*wrong)


@given(
    st.sampled_from(["primary", "spare"]),
    st.fixed_dictionaries(
        {"rank": st.integers(0, 9)}, optional={"tier": st.just("small"), "key": st.just("k"), "context_size": st.just(99)}
    ),
    st.lists(st.sampled_from(["vision", "tools", "json_schema"]), max_size=3),
)
def test_what_is_shown_is_what_was_made(named: str, fields: dict[str, Any], abilities: list[str]) -> None:
    model = made(named, NEAR | fields | {"abilities": abilities})
    again = Model.model_validate(model.shown())
    assert again.upstreams(CONFIGURED) == model.upstreams(CONFIGURED)
    assert again.shown() == model.shown()
    assert "api_key" not in str(model.shown())


def test_the_longest_prompt_is_that_of_the_backend_that_takes_most() -> None:
    embedded = Generator(slot_tokens=2000, default_max_tokens=200)
    assert embedded.longest_prompt(None, None) == 1800
    assert embedded.longest_prompt(4096, None) == 1800, "its answer ends where the slot does"
    wide = made("primary", NEAR | {"context_size": 8000})
    assert embedded.longest_prompt(None, wide) == 7800
    assert embedded.longest_prompt(7000, wide) == 1800
    assert embedded.longest_prompt(None, made("primary", NEAR)) is None, "nobody knows what the other takes"
