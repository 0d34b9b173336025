"""`headrace index`: the search index, which is made from the database and can be made again."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console

from deployments.core.errors import NotFound
from deployments.core.ids import new_id
from deployments.core.types import Principal
from pipeline.cli.registry import DEFAULT, Config, Json, Registry, refusal, show, within
from pipeline.cli.steps import steps
from pipeline.manifest import load
from pipeline.rebuild import rebuild

if TYPE_CHECKING:
    from deployments.retriever.service import Retriever

app = typer.Typer(help="The search index: rebuild, verify.", no_args_is_help=True)

Store = Annotated[str | None, typer.Argument(help="A vector store; all of them if none is named.")]


class Verdict(msgspec.Struct, frozen=True):
    """How a store's index compares with the database, in passages."""

    store: str
    tenant: str
    sound: int
    damaged: int
    missing: int
    surplus: int


@app.command("rebuild")
def rebuild_(store: Store = None, config: Config = DEFAULT) -> None:
    """Build the index anew from the database; searches go on meanwhile."""

    async def work(registry: Registry) -> None:
        with steps(Console()) as shown:
            async with _retriever(config) as retriever:
                for principal, store_id, passages in await _stores(registry, store):
                    done = 0

                    def advance(count: int, store_id: str = store_id, passages: int = passages) -> None:
                        nonlocal done
                        done += count
                        shown.advance(store_id, done, passages, "passages")

                    shown.begin(store_id)
                    count = await rebuild(registry.store, retriever, principal, store_id, new_id("build_"), advance)
                    await registry.store.of(principal).corpus.touch(store_id)
                    shown.done(store_id, f"{count} passages")

    within(config, work)


@app.command()
def verify(store: Store = None, config: Config = DEFAULT, as_json: Json = False) -> None:
    """Read every row of the index and compare it with the database; what is wrong ends with 1."""

    async def work(registry: Registry) -> list[Verdict]:
        async with _retriever(config) as retriever:
            return [
                Verdict(store_id, principal.tenant, *await _compare(registry, retriever, principal, store_id))
                for principal, store_id, _ in await _stores(registry, store)
            ]

    verdicts = within(config, work)
    show(verdicts, Verdict.__struct_fields__, as_json)
    if wrong := [one.store for one in verdicts if one.damaged or one.missing or one.surplus]:
        raise refusal(f"not as the database has it: {', '.join(wrong)}; `headrace index rebuild` makes it anew")


@asynccontextmanager
async def _retriever(config: Path) -> "AsyncGenerator[Retriever]":
    from deployments.retriever.service import Retriever

    retriever = Retriever(load(config).settings)
    try:
        yield retriever
    finally:
        await retriever.close()


async def _stores(registry: Registry, wanted: str | None) -> list[tuple[Principal, str, int]]:
    """The stores of all tenants, or the one that is wanted, with the number of their passages; raises NotFound."""
    principals = [Principal(tenant.id, "cli", frozenset()) for tenant in await registry.tenants.list()]
    owned = [(principal, registry.store.of(principal)) for principal in principals]
    stores = [
        (principal, store.id, await mine.corpus.size(store.id))
        for principal, mine in owned
        for store in await mine.stores()
        if wanted in (None, store.id)
    ]
    if wanted and not stores:
        raise NotFound(f"no vector store {wanted}")
    return stores


async def _compare(registry: Registry, retriever: "Retriever", principal: Principal, store_id: str) -> tuple[int, int, int, int]:
    """Of the passages in a store's index, how many are sound and how many damaged; then how many it lacks and how many are too many."""
    from deployments.retriever.index_tables import DAMAGE

    corpus = registry.store.of(principal).corpus
    try:
        found, damaged = await retriever.verify(principal, store_id)
    except DAMAGE:  # it can not even be read
        return 0, 0, await corpus.size(store_id), 0
    wanted = {(source.file_id, chunk.number) async for page in corpus.files(store_id) for source, chunks, _ in page for chunk in chunks}
    return len(found & wanted), damaged, max(0, len(wanted - found) - damaged), len(found - wanted)
