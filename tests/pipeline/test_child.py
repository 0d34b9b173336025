import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.core.config import environment
from pipeline.child import Backoff, Child, Command
from tests.fakes import until

SLEEPER = "import sys, time; print('hello', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('hello', flush=True); time.sleep(60)"
LISTENER = "import sys; print('hello', flush=True); sys.stdin.read()"


async def always() -> bool:
    return True


def child(folder: Path, program: str, hear: Callable[[str], bool] = lambda line: False) -> Child:
    command = Command((sys.executable, "-c", program), environment())
    return Child("test", command, folder / "test.log", probe=always, hear=hear, backoff=Backoff(first_s=0.01))


class TestBackoff:
    @pytest.mark.parametrize(("deaths", "pause"), [(1, 0.1), (2, 0.2), (3, 0.4), (20, 10)])
    def test_grows_with_quick_deaths_up_to_its_most(self, deaths: int, pause: float):
        assert Backoff(0.1, 10, 10).pause(deaths, lived_s=0) == pytest.approx(pause)

    def test_is_nothing_after_a_long_life(self):
        assert Backoff(0.1, 10, 10).pause(5, lived_s=11) == 0


async def test_it_is_started_again_when_it_dies(tmp_path: Path):
    kept = child(tmp_path, SLEEPER)
    kept.start()
    await until(lambda: kept.pid is not None)
    first = kept.pid
    assert kept._process is not None
    kept._process.kill()
    await until(lambda: kept.pid not in (None, first))
    assert kept.deaths == 1
    await kept.stop(signal.SIGTERM, 5)


async def test_what_it_prints_is_heard_and_logged(tmp_path: Path):
    lines: list[str] = []
    kept = child(tmp_path, SLEEPER, lambda line: lines.append(line) or False)
    kept.start()
    await until(lambda: lines, equals=["hello"])
    await kept.stop(signal.SIGTERM, 5)
    assert "hello" in (tmp_path / "test.log").read_text()


@pytest.mark.parametrize(
    ("program", "number", "by_itself"), [(SLEEPER, signal.SIGTERM, True), (LISTENER, None, True), (STUBBORN, signal.SIGTERM, False)]
)
async def test_it_is_ended_and_killed_where_it_stays(tmp_path: Path, program: str, number: signal.Signals | None, by_itself: bool):
    lines: list[str] = []
    kept = child(tmp_path, program, lambda line: lines.append(line) or False)
    kept.start()
    await until(lambda: lines, equals=["hello"])
    assert await kept.stop(number, 1 if not by_itself else 5) is by_itself
    assert kept.pid is None
