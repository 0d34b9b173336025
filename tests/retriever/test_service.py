"""What the retriever's deployment adds to the index: the order that settings ask for."""

from pathlib import Path

from pydantic import SecretStr

from deployments.core.config import Retriever as Section
from deployments.core.config import Settings
from deployments.core.types import Chunk, Principal, Query, Source
from deployments.retriever.service import Retriever
from tests.fakes import ROOT, FakeEmbeds

ALICE = Principal("alice", "key", frozenset())
TEXT = {"old": "the lift to the terrace is closed for repair", "new": "the lift to the terrace is closed for repair again"}
DAY_S = 86_400


async def order(folder: Path, half_life_s: float | None, stated: float | None) -> list[str]:
    """The files that tell of the lift, oldest text matching best, when the newer is a day old and the older a hundred."""
    settings = Settings(data_dir=folder, root_key=SecretStr(ROOT.hex()), retriever=Section(half_life_s=half_life_s))
    retriever = Retriever(settings, clock=lambda: 100.0 * DAY_S)
    for name, day in (("old", 0), ("new", 99)):
        chunk = Chunk(0, TEXT[name], (), 0, len(TEXT[name]), 9)
        await retriever.replace(
            ALICE, "store", Source(name, name, name, created_at=day * DAY_S), [chunk], FakeEmbeds.vector(TEXT[name])[None]
        )
    found = await retriever.search(Query(ALICE, "store", TEXT["old"], FakeEmbeds.vector(TEXT["old"]), half_life_s=stated, everything=True))
    await retriever.close()
    return [passage.file_id for passage in found]


async def test_age_counts_by_the_half_life_of_the_query_else_of_the_settings_else_not(tmp_path: Path):
    assert await order(tmp_path / "off", None, None) == ["old", "new"]
    assert await order(tmp_path / "set", DAY_S, None) == ["new", "old"]
    assert await order(tmp_path / "stated", None, DAY_S) == ["new", "old"]
    assert await order(tmp_path / "both", DAY_S, 10_000.0 * DAY_S) == ["old", "new"]
