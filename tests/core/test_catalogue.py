"""The catalogue: what is in it, who sees a change when, and what can not be in it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from deployments.core.catalogue import FRESH_S, MAX_MODELS, Catalogue, Models, handling
from deployments.core.config import Settings
from deployments.core.errors import InvalidRequest, NoSuchModel
from deployments.core.models import BUILT_IN, Model, Rates
from deployments.core.sections import Embedder, Generator, Upstream
from deployments.core.store import Store
from deployments.core.tables import ModelRow
from tests.fakes import Clock, database

SMALL = Upstream(name="small", base_url="http://small/v1", model="s", tier="small", rank=7)
SEED = Model(name="seed", backends=("small",))
SETTINGS = Settings(generator=Generator(fallbacks=(SMALL,), keys={"ours": SecretStr("secret")}), models=(SEED,))
OWN: dict[str, Any] = {"name": "own", "base_url": "https://own.example/v1", "model": "m", "key": "ours", "tier": "large"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with database(tmp_path) as store:
        yield store


@pytest.fixture
def models(store: Store) -> Models:
    return Models(store, SETTINGS, "key_1")


async def test_the_built_in_models_and_those_of_the_settings_are_there_from_the_start(store: Store, models: Models) -> None:
    assert list(await Catalogue(SETTINGS).all(store)) == ["headrace", "headrace-direct", "seed"]
    assert await models.all() == [*BUILT_IN.values(), SEED]


async def test_what_is_added_changed_and_removed_is_seen_by_a_process_that_runs(store: Store, models: Models) -> None:
    clock = Clock()
    catalogue = Catalogue(SETTINGS, clock)
    with pytest.raises(NoSuchModel):
        await catalogue.get(store, "mine")
    for backends in (("small",), ("primary", OWN)):
        made = await models.put(Model(name="mine", backends=backends))  # pyright: ignore[reportArgumentType]
        clock.now += FRESH_S
        assert await catalogue.get(store, "mine") == made
    await models.remove("mine")
    assert (await catalogue.get(store, "mine")).name == "mine"  # for a moment yet
    clock.now += FRESH_S
    with pytest.raises(NoSuchModel):
        await catalogue.get(store, "mine")


async def test_a_model_that_another_process_has_seen_already_is_found_at_once(store: Store, models: Models) -> None:
    catalogue = Catalogue(SETTINGS, Clock())
    assert "mine" not in await catalogue.all(store)
    await models.put(Model(name="mine"))
    assert (await catalogue.get(store, "mine")).name == "mine"
    assert "mine" in await catalogue.all(store)


async def test_while_sql_is_away_the_models_are_those_of_before(store: Store, models: Models, tmp_path: Path) -> None:
    clock = Clock()
    catalogue, away = Catalogue(SETTINGS, clock), Store(f"sqlite+aiosqlite:///{tmp_path}/nowhere/headrace.db", store.vault)
    assert list(await catalogue.all(away)) == ["headrace", "headrace-direct", "seed"]
    await models.put(Model(name="mine"))
    assert "mine" in await catalogue.all(store)
    clock.now += FRESH_S
    assert "mine" in await catalogue.all(away)
    await away.close()


async def test_one_of_the_settings_is_changed_hidden_and_shown_again(store: Store, models: Models) -> None:
    await models.put(Model(name="seed", retrieves=False))
    assert not (await models.get("seed")).retrieves
    await models.remove("seed")
    assert "seed" not in await Catalogue(SETTINGS).all(store)
    with pytest.raises(NoSuchModel):
        await models.remove("seed")
    await models.put(SEED)
    assert await models.get("seed") == SEED


async def test_every_change_is_on_record_and_no_key_is(store: Store, models: Models) -> None:
    await models.put(Model(name="mine"))
    await models.put(Model(name="mine", backends=(OWN,)))  # pyright: ignore[reportArgumentType]
    await models.remove("mine")
    entries = await store.audit.entries(0, 10)
    assert [(one.actor, one.act, one.subject) for one in entries] == [
        ("key_1", "model.added", "mine"),
        ("key_1", "model.changed", "mine"),
        ("key_1", "model.removed", "mine"),
    ]
    assert "secret" not in str(entries)
    assert "own.example" in str(entries[1])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Model(name="headrace"), "in any case"),
        (Model(name="a", backends=("nobody",)), "no backend 'nobody'"),
        (Model(name="a", backends=(OWN | {"name": "small"},)), "name it alone"),  # pyright: ignore[reportArgumentType]
        (Model(name="a", backends=(OWN | {"key": "theirs"},)), "no 'theirs'"),  # pyright: ignore[reportArgumentType]
    ],
)
async def test_what_names_something_that_is_not_there_is_refused(models: Models, model: Model, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        await models.put(model)
    with pytest.raises(ValidationError, match=reason):
        Settings(generator=SETTINGS.generator, models=(model,))


async def test_tiers_need_the_embedded_embedder(store: Store) -> None:
    other = Models(store, SETTINGS.model_copy(update={"embedder": Embedder(model="another")}), "key_1")
    with pytest.raises(InvalidRequest, match="embedder"):
        await other.put(Model(name="a", backends=(OWN,)))  # pyright: ignore[reportArgumentType]


async def test_a_built_in_model_stays_and_one_that_is_not_there_is_not_found(models: Models) -> None:
    with pytest.raises(InvalidRequest):
        await models.remove("headrace")
    for name in ("nobody", "", "no\x00body", "x" * 999):
        with pytest.raises(NoSuchModel):
            await models.remove(name)
        with pytest.raises(NoSuchModel):
            await models.get(name)


async def test_there_are_so_many_models_and_no_more(store: Store, models: Models) -> None:
    async with store.write() as session:
        session.add_all(ModelRow(name=f"m{number}", spec=None, changed_at=0) for number in range(MAX_MODELS))
    with pytest.raises(InvalidRequest, match="remove one"):
        await models.put(Model(name="one-more"))
    await models.put(Model(name="m7"))


async def test_a_row_that_can_not_be_read_hides_nothing_else(store: Store, models: Models) -> None:
    await models.put(Model(name="mine"))
    async with store.write() as session:
        session.add(ModelRow(name="later", spec={"name": "later", "field_of_a_later_version": 1}, changed_at=0))
    assert list(await Catalogue(SETTINGS).all(store)) == ["headrace", "headrace-direct", "seed", "mine"]


def test_the_handling_of_a_model_names_its_definition_and_not_its_limits() -> None:
    one, other = Model(name="a", backends=(OWN,)), Model(name="a", backends=("small",))  # pyright: ignore[reportArgumentType]
    assert handling(one).recipe != handling(other).recipe
    assert handling(one).tiered
    assert handling(one.model_copy(update={"limits": Rates(requests_per_minute=3)})).recipe == handling(one).recipe
    assert handling(BUILT_IN["headrace"]).recipe == ""
