"""The registry of prompts."""

import pytest
from sqlalchemy import select

from deployments.core.errors import InvalidRequest, NotFound
from deployments.core.prompts import Prompts
from deployments.core.store import Store
from deployments.core.tables import PromptRow
from deployments.core.types import Principal
from tests.fakes import tenant


@pytest.fixture
async def ours(store: Store) -> Principal:
    return await tenant(store, "ours")


@pytest.fixture
def prompts(store: Store, ours: Principal) -> Prompts:
    return store.of(ours).prompts


async def test_the_first_version_is_current_until_another_is_made_so(prompts: Prompts) -> None:
    first = await prompts.add("greeting", "Hello {{name}}", "test")
    second = await prompts.add("greeting", "Hi {{name}}", "test")
    assert (first.version, first.current, first.variables) == ("1", True, ("name",))
    assert (second.version, second.current) == ("2", False)
    assert (await prompts.get("greeting")).template == "Hello {{name}}"
    await prompts.use("greeting", "2", "test")
    assert (await prompts.get("greeting")).name == "greeting@2"
    assert (await prompts.add("greeting", "Hey", "test", current=True)).version == "3"
    assert [one.current for one in await prompts.list()] == [False, False, True]


async def test_the_file_of_a_built_in_prompt_is_its_version_1(prompts: Prompts) -> None:
    assert ((await prompts.add("grounded", "Answer from the sources.", "test")).version, await current(prompts)) == ("2", None)
    await prompts.use("grounded", "2", "test")
    assert await current(prompts) == "2"
    await prompts.use("grounded", "1", "test")
    assert await current(prompts) is None


async def current(prompts: Prompts) -> str | None:
    return next((one.version for one in await prompts.list() if one.current), None)


async def test_a_prompt_of_another_tenant_is_not_there(store: Store, prompts: Prompts) -> None:
    await prompts.add("greeting", "Hello", "test")
    theirs = store.of(await tenant(store, "theirs")).prompts
    assert await theirs.list() == []
    with pytest.raises(NotFound):
        await theirs.get("greeting")
    with pytest.raises(NotFound):
        await theirs.use("greeting", "1", "test")


@pytest.mark.parametrize("version", ["2", "0", "-1", "one", "", "9" * 40, "1 OR 1=1"])
async def test_a_version_that_is_not_there_is_not_found(prompts: Prompts, version: str) -> None:
    await prompts.add("greeting", "Hello", "test")
    for act in (prompts.get("greeting", version), prompts.use("greeting", version, "test")):
        with pytest.raises(NotFound):
            await act


@pytest.mark.parametrize(("name", "template"), [("a b", "x"), ("", "x"), ("grounded", "{{x}}"), ("greeting", "{{ x }}")])
async def test_what_may_not_be_kept_leaves_nothing(prompts: Prompts, store: Store, name: str, template: str) -> None:
    before = len(await store.audit.entries())
    with pytest.raises(InvalidRequest):
        await prompts.add(name, template, "test")
    assert (await prompts.list(), len(await store.audit.entries())) == ([], before)


async def test_templates_are_sealed_and_every_change_is_on_record_without_them(prompts: Prompts, store: Store) -> None:
    await prompts.add("greeting", "The secret recipe", "key_1")
    await prompts.use("greeting", "1", "key_2")
    async with store.session() as session:
        (row,) = await session.scalars(select(PromptRow))
    assert b"secret" not in row.template
    entries = (await store.audit.entries())[-2:]
    assert [(one.act, one.actor, one.tenant, one.subject, one.detail["version"]) for one in entries] == [
        ("prompt.added", "key_1", "ours", "greeting", "1"),
        ("prompt.used", "key_2", "ours", "greeting", "1"),
    ]
    assert "secret" not in repr(entries)


async def test_a_tenant_that_is_not_there_has_no_prompts(store: Store) -> None:
    nobody = store.of(Principal("nobody", "key", frozenset())).prompts
    with pytest.raises(NotFound):
        await nobody.add("greeting", "Hello", "test")
    with pytest.raises(NotFound):
        await nobody.use("grounded", "1", "test")
