"""The bench measures what is there, notices what is wrong, and counts CPU once."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from loadtest.bench import __main__ as bench
from loadtest.bench.bare import Bare, free_ports
from loadtest.bench.client import Address
from loadtest.bench.driver import Driver, Job, Result
from loadtest.bench.measure import Run
from loadtest.bench.processes import Spent, Tree, elapsed, listens
from loadtest.bench.report import Goal, compare, document, show, summarise
from tests.loadtest.conftest import TOKENS, Simulator


def drive(simulator: Simulator, **changes: object) -> Result:
    """Run a short job against the simulator in this process."""
    fields: dict[str, object] = {
        "url": simulator.url,
        "key": "k",
        "model": "sim",
        "stream": True,
        "clients": 4,
        "seconds": 0.6,
        "ramp_s": 0.1,
        "settle_s": 0.1,
        "words": TOKENS,
    }
    said: list[dict[str, object]] = []
    result = asyncio.run(Driver(Job(**(fields | changes)), said.append).run())  # pyright: ignore[reportArgumentType]
    assert said == [{"event": "open"}, {"event": "close"}]
    return result


def test_a_job_counts_the_tokens_of_its_window(simulator: Simulator) -> None:
    result = drive(simulator)
    assert result.failures == {}
    assert 0.3 * 4 / 0.01 * 0.6 < result.tokens <= 4 / 0.01 * 0.7
    assert len(result.ttft_ms) == result.sent
    assert min(result.ttft_ms) >= 28


def test_a_job_that_is_not_streamed_counts_answers(simulator: Simulator) -> None:
    result = drive(simulator, stream=False, max_tokens=1, words=1)
    assert result.failures == {}
    assert result.tokens == result.answered > 4


@pytest.mark.parametrize(
    ("model", "failure"),
    [
        ("sim@cut=5", "ConnectionError"),
        ("sim@error=500", "status 500: "),
        ("sim@malformed=2", "malformed event"),
        ("sim@tokens=10", "flawed text: Order(missing=10, repeated=0, misplaced=0)"),
        ("sim@echo", "text is not the simulator's"),
    ],
)
def test_a_job_notices_what_is_wrong(simulator: Simulator, model: str, failure: str) -> None:
    found = drive(simulator, model=model).failures
    assert all(reason.startswith(failure) for reason in found)
    assert found


def test_a_job_notices_a_server_that_is_not_there() -> None:
    (port,) = free_ports(1)
    assert set(drive(Simulator(port)).failures) == {"cannot connect"}


def test_an_address_is_below_the_base_url() -> None:
    assert Address.of("http://127.0.0.1:8000/v1/", "k") == Address("127.0.0.1", 8000, "/v1/chat/completions", "k")
    with pytest.raises(ValueError, match="not an http:// URL"):
        Address.of("https://example.org/v1", "k")


def test_cpu_of_a_tree_counts_ended_children_once() -> None:
    before = {1: Spent(0, 1.0, 0.0), 2: Spent(1, 5.0, 0.0), 3: Spent(1, 2.0, 0.0)}
    # 2 ended after one more second and was reaped; 3 worked on; 4 is new.
    after = {1: Spent(0, 1.5, 6.0), 3: Spent(1, 2.25, 0.0), 4: Spent(1, 0.25, 0.0)}
    assert elapsed(before, after) == pytest.approx(0.5 + 1.0 + 0.25 + 0.25)


def test_cpu_of_a_tree_never_falls_when_nobody_reaped_a_child() -> None:
    before = {1: Spent(0, 1.0, 0.0), 2: Spent(1, 5.0, 0.0)}
    assert elapsed(before, {1: Spent(0, 1.5, 0.0)}) == pytest.approx(0.5)


def test_a_tree_sees_grandchildren_and_their_work() -> None:
    burn = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass\nprint('done', flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        tree = Tree(process.pid)
        before = tree.spent()
        assert process.stdout.readline() == "done\n"
        assert elapsed(before, tree.spent()) >= 0.25
        assert len(tree.memory()) == 2
        process.communicate("\n")


def runs() -> list[Run]:
    """Two repetitions of two cases."""
    found: list[Run] = []
    for extra in (0.0, 4.0):
        direct = Run("simulator", {"single_ttft_ms": 51.0, "single_total_ms": 1030.0, "tokens_s_50": 2400.0, "tokens_s_100": 4800.0})
        ours = Run(
            "headrace-direct",
            {"single_ttft_ms": 55.0 + extra, "single_total_ms": 1040.0, "tokens_s_50": 2400.0, "tokens_s_100": 4560.0},
            [("haproxy", 10.0), ("ray::Replica", 100.0), ("ray::Replica", 90.0)],
        )
        compare([direct, ours])
        found += [direct, ours]
    return found


def test_medians_are_taken_over_differences_within_a_repetition() -> None:
    added = summarise(runs())["headrace-direct"]["added_ttft_ms"]
    assert (added.median, added.low, added.high) == (6.0, 4.0, 8.0)


def test_the_table_shows_figures_goals_and_faults() -> None:
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115
    broken = runs()
    broken[-1].faults.append("100 streams: 1 times ended early")
    show(console, broken, "title")
    console.file.close()
    text = console.export_text()
    assert "6.0 (4.0-8.0)" in text
    assert "met  headrace-direct: added TTFT p50" in text
    assert "ray::Replica (2 of) 95" in text
    assert "invalid headrace-direct: 100 streams: 1 times ended early" in text


def test_the_document_is_json_and_names_goals_only_where_measured() -> None:
    found = json.loads(json.dumps(document(runs(), {"repeat": 2})))
    assert [goal["met"] for goal in found["goals"]] == [True, True]
    assert len(found["runs"]) == 4


def test_a_goal_can_be_a_ratio_or_a_difference() -> None:
    found = summarise(runs())
    assert Goal("", "headrace-direct", "tokens_s_100", 1, reference="simulator").value(found) == pytest.approx(0.95)
    assert Goal("", "headrace-direct", "tokens_s_100", 1, reference="simulator", added=True).value(found) == pytest.approx(-240)
    assert Goal("", "headrace-direct", "tokens_s_100", 1, reference="bare raw").value(found) is None


def test_the_command_line_knows_its_targets(tmp_path: Path) -> None:
    (tmp_path / "demo.key").write_text("secret\n")
    words = ["--url", "http://127.0.0.1:1/v1", "--key-file", str(tmp_path / "demo.key"), "--pid", "7"]
    chosen = bench.targets(bench.arguments().parse_args(["--only", "simulator,headrace", *words]), tmp_path)
    assert [case.label for target in chosen for case in target.cases] == ["simulator", "headrace-direct", "headrace"]
    with pytest.raises(SystemExit, match="unknown target nothing"):
        bench.targets(bench.arguments().parse_args(["--only", "nothing"]), tmp_path)


@pytest.mark.integration
def test_the_bench_of_the_simulator_runs_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(bench.__file__).parents[2])
    pace = ["--ttft-ms", "50", "--itl-ms", "5", "--tokens", "10"]  # with 5 ms, 64 clients would use up the simulator
    code = bench.main(["--quick", "--only", "simulator", "--json", str(tmp_path / "bench.json"), *pace])
    found = json.loads((tmp_path / "bench.json").read_text())
    faults = found["runs"][0]["faults"]
    assert code == bool(faults)
    assert all("other processes" in fault for fault in faults)
    medians = found["medians"]["simulator"]
    assert medians["tokens_share_100"]["median"] == 100
    assert medians["single_ttft_ms"]["median"] >= 49.5


@pytest.mark.integration
@pytest.mark.full
@pytest.mark.parametrize("child", ["raw", "parsed"])
async def test_a_bare_app_answers_and_leaves_nothing(simulator: Simulator, child: str) -> None:
    async with Bare("bare", child).running(simulator.url) as endpoint:
        assert endpoint.pid is not None
        tree = psutil.Process(endpoint.pid).children(recursive=True)
        port = Address.of(endpoint.url, "").port
        answering = Driver(Job(endpoint.url, "none", "sim", True, 2, 1.0, words=TOKENS), lambda _: None)
        result = await answering.run()
    assert result.failures == {}
    assert result.answered > 2
    assert not listens(port)
    assert not [each for each in tree if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
