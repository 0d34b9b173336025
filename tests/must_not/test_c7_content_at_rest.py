"""C7: what tenants say and upload is not in the database files, nor in what is left of them."""

from pathlib import Path

import numpy as np

from deployments.core.conversations import Summary
from deployments.core.ids import new_id
from deployments.core.responses import Item, StoredResponse
from deployments.core.types import Chunk
from tests.fakes import database, tenant

CANARY = "kingfisher-4711"


async def test_no_content_is_readable_in_the_files_of_the_database(tmp_path: Path) -> None:
    words = CANARY.encode()
    vector = np.full((1, 8), 0.123456, np.float32)
    async with database(tmp_path) as store:
        mine = store.of(await tenant(store, "acme"))
        docs = (await mine.add_store("docs")).id
        file = (await mine.add_file("a.md", "assistants", b"# " + words)).id
        await mine.add_member(docs, file, {})
        chunk = Chunk(0, CANARY, (f"Heading {CANARY}",), 5, 20, 3, {"who": CANARY})
        await mine.complete(docs, file, f"Title {CANARY}", f"Text {CANARY}", [chunk], vector)
        conversation = await mine.conversations.add({"about": CANARY}, [Item(new_id("msg_"), b'{"text":"%b"}' % words)])
        await mine.conversations.set_summary(conversation.id, Summary(f"Summary {CANARY}", 1))
        await mine.conversations.set_vectors(conversation.id, [0], vector)
        made = StoredResponse(new_id("resp_"), "queued", True, 1, None, conversation.id, b"asked " + words, b"body " + words)
        await mine.responses.add(made, [Item(new_id("msg_"), words)], b"turn " + words)
        await mine.responses.finish(made.id, "completed", b"done " + words, [Item(new_id("msg_"), words)])
        assert CANARY in await mine.text(file)
        found = [path.name for path in tmp_path.iterdir() if words in path.read_bytes() or vector.tobytes() in path.read_bytes()]
        sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert sum(sizes) > 10_000
    assert found == []
