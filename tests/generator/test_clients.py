"""The clients of backends: one each, anew where an address or a key has changed, and few that are idle."""

from collections.abc import AsyncGenerator

from pydantic import SecretStr

from deployments.core.models import Upstream
from deployments.core.types import Generation
from deployments.generator.clients import MAX_IDLE, Clients
from deployments.generator.sse import Piece


class Line:
    """A client that says nothing, and knows whether it is closed."""

    def __init__(self, upstream: Upstream):
        self.upstream, self.closed = upstream, False

    async def stream(self, generation: Generation, said: str, last: float) -> AsyncGenerator[Piece]:
        yield Piece(done=True)

    async def close(self) -> None:
        self.closed = True


class Lines:
    """Clients, all that were ever made."""

    def __init__(self) -> None:
        self.made: list[Line] = []
        self.clients = Clients(self._make)

    def _make(self, upstream: Upstream) -> Line:
        self.made.append(Line(upstream))
        return self.made[-1]

    async def use(self, upstream: Upstream) -> object:
        async with self.clients.of(upstream) as client:
            return client


FIRST = Upstream(name="a", base_url="http://a", model="m")


async def test_a_backend_has_one_client_until_what_it_calls_is_changed() -> None:
    lines = Lines()
    assert await lines.use(FIRST) is await lines.use(FIRST.model_copy(update={"rank": 9, "weight": 2.0}))
    for change in ({"base_url": "http://b"}, {"model": "n"}, {"key": "k"}, {"api_key": SecretStr("s")}, {"name": "b"}):
        await lines.use(FIRST.model_copy(update=change))
    assert len(lines.made) == 6
    await lines.clients.close()
    assert all(line.closed for line in lines.made)


async def test_the_client_idle_for_longest_is_closed_and_none_in_use() -> None:
    lines = Lines()
    async with lines.clients.of(FIRST):
        for number in range(MAX_IDLE + 2):
            await lines.use(FIRST.model_copy(update={"name": str(number)}))
        assert [line.upstream.name for line in lines.made if line.closed] == ["0", "1"]
    assert [line.upstream.name for line in lines.made if line.closed] == ["a", "0", "1"]
