"""`headrace ingest --bulk`, killed as nobody can hinder: what the next run does again, and what of the first one stays alive."""

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.core.config import Settings
from deployments.core.schema import migrate
from deployments.core.store import TenantStore, open_store
from deployments.retriever.service import Retriever
from tests.fakes import tenant, until

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

PAGES = 400
CONFIG = "applications: [{{name: headrace, import_path: pipeline.app:build, args: {{data_dir: {}}}}}]\n"
GONE_S = 240


def page(number: int) -> str:
    lines = [f"The wheel number {number} turns stone {stone} by {number * stone} ells a day, as the miller counts." for stone in range(30)]
    return f"# Page {number}\n\n" + "\n\n".join(lines)


@contextlib.contextmanager
def ingesting(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, in a process of its own."""
    words = ("-m", "pipeline.cli", "ingest", str(folder / "docs"), "--bulk", "--tenant", "acme", "--config", str(folder / "headrace.yaml"))
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def completed(mine: TenantStore, store_id: str) -> int:
    return (await mine.store(store_id)).counts.get("completed", 0)


async def test_what_a_killed_run_has_done_is_not_done_again_and_nothing_of_it_stays_alive(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "state")
    settings.data_dir.mkdir()
    (tmp_path / "headrace.yaml").write_text(CONFIG.format(settings.data_dir))
    (tmp_path / "docs").mkdir()
    for number in range(PAGES):
        (tmp_path / "docs" / f"{number}.md").write_text(page(number))
    await migrate(settings.database_url)
    store = open_store(settings)
    principal = await tenant(store, "acme")
    mine = store.of(principal)
    store_id = (await mine.add_store("docs")).id

    with ingesting(tmp_path) as process:
        while not await completed(mine, store_id):
            assert process.poll() is None, process.stdout and process.stdout.read()
            await asyncio.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    done = await completed(mine, store_id)
    assert 0 < done < PAGES, "it was killed too late to show anything"

    with ingesting(tmp_path) as process:
        told, _ = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, told
    counts = {name: int(count) for name, count in re.findall(r"^\s*(added|unchanged|resumed)\s+(\d+)\s*$", told, re.MULTILINE)}
    print(f"{done} of {PAGES} files completed when killed; then {counts}")  # noqa: T201
    assert counts["added"] + counts["unchanged"] == PAGES
    assert counts["unchanged"] >= done
    assert await completed(mine, store_id) == PAGES
    retriever = Retriever(settings)
    found, damaged = await retriever.verify(principal, store_id)
    filed = [one async for some in mine.corpus.files(store_id) for one in some]
    assert found == {(source.file_id, chunk.number) for source, chunks, _ in filed for chunk in chunks}
    assert (len({source.filename for source, _, _ in filed}), len(filed), damaged) == (PAGES, PAGES, 0)
    await retriever.close()
    await store.close()

    await until(lambda: [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE], equals=[], within_s=GONE_S)
