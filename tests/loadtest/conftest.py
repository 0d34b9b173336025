"""One simulator for all tests of the folder, started as its users start it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

import pytest
from openai import OpenAI

TTFT_S = 0.03
ITL_S = 0.01
TOKENS = 20


@dataclass(frozen=True)
class Simulator:
    """A running simulator."""

    port: int

    @property
    def url(self) -> str:
        """The OpenAI base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self) -> OpenAI:
        """The unmodified client, which takes nothing but the exact shapes."""
        return OpenAI(base_url=self.url, api_key="any", max_retries=0, _strict_response_validation=True)

    def stats(self) -> dict[str, Any]:
        """What the simulator says of its answers."""
        with urlopen(f"http://127.0.0.1:{self.port}/sim/stats") as reply:
            return json.load(reply)

    def entry(self, marker: str) -> dict[str, Any]:
        """Wait until the answer with this marker has ended, and return its entry."""
        return wait_until(lambda: next((each for each in self.stats()["ended"] if each["marker"] == marker), None), "the answer's end")

    def reset(self) -> None:
        """Forget all counts."""
        urlopen(Request(f"http://127.0.0.1:{self.port}/sim/reset", method="POST")).close()


def wait_until(look: Callable[[], Any], what: str, within_s: float = 10.0) -> Any:
    """Return the first true value of `look`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come within {within_s} s")


@pytest.fixture(scope="session")
def spawn() -> Iterator[Callable[..., Simulator]]:
    """Start a simulator with the given options; all are stopped at the end, and must stop by themselves."""
    processes: list[subprocess.Popen[str]] = []

    def start(*options: str) -> Simulator:
        command = [sys.executable, "-m", "loadtest.simulator", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        return Simulator(json.loads(process.stdout.readline())["port"])

    yield start
    for process in processes:
        process.terminate()
    codes = [process.wait(timeout=5) for process in processes]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    assert codes == [0] * len(codes)


@pytest.fixture(scope="session")
def simulator(spawn: Callable[..., Simulator]) -> Simulator:
    """A quick simulator without random faults."""
    return spawn("--ttft-ms", str(TTFT_S * 1000), "--itl-ms", str(ITL_S * 1000), "--tokens", str(TOKENS))
