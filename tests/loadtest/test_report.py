"""A run second by second, and the page that shows it."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.bench.processes import Resident
from loadtest.journal import Journal
from loadtest.outcome import INVALID, MISSED, finish
from loadtest.plots import chart
from loadtest.replicas import Look
from loadtest.scenario import Bounds, Gates, Scenario, Stage
from loadtest.timeline import MOST, bins
from tests.loadtest.test_slo import GOOD

SCENARIO = Scenario(about="<for a test>", user="Arrivals", stages=(Stage(seconds=10, per_s=2),), gates=Gates(ttft_ms=Bounds(p95=60)))


def rows(count: int = 20, **change: object) -> list:
    """Two requests a second."""
    return [replace(GOOD, t_scheduled=100 + at / 2, t_start=100 + at / 2, **change) for at in range(count)]


def test_each_request_is_in_the_second_it_was_due() -> None:
    refused = replace(GOOD, t_scheduled=103.2, status=503, error_code="status 503", ttft_ms=None)
    found = bins([*rows(), refused])
    assert [each.offered for each in found] == [2, 2, 2, 3, 2, 2, 2, 2, 2, 2]
    assert [each.refused for each in found] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert {each.failed for each in found} == {0}
    assert {each.ttft_p95 for each in found} == {50.0}


def test_goodput_is_counted_where_answers_end() -> None:
    found = bins(rows(4, e2e_ms=3000.0))
    assert [each.good for each in found] == [0, 0, 0, 2, 2]


def test_the_measuring_of_the_peak_comes_before_second_0() -> None:
    assert [each.second for each in bins([replace(GOOD, stage=-1, t_scheduled=98.5), *rows(2)])] == [-2, -1, 0]


@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 60_000)), min_size=1, max_size=50))
def test_nothing_is_lost_and_long_runs_have_wide_bins(times: list[tuple[float, float]]) -> None:
    found = bins([replace(GOOD, t_scheduled=due, e2e_ms=took) for due, took in times])
    width = found[1].second - found[0].second if len(found) > 1 else None
    assert len(found) <= MOST + 2
    if width:
        assert sum(each.offered for each in found) * width == pytest.approx(len(times))
        assert sum(each.good for each in found) * width == pytest.approx(len(times))


def test_a_chart_breaks_its_line_where_nothing_was_measured() -> None:
    made = chart("a < b", [0, 1, 2, 3], {"one": [1, None, 2, 3]})
    (line,) = re.findall(r'<path d="([^"]*)"', made)
    assert line.count("M") == 2
    assert ">a &lt; b<" in made


def test_a_chart_of_nothing_says_so() -> None:
    assert "nothing measured" in chart("empty", [0.0], {"one": [None]})


class Links(HTMLParser):
    """Collects what a page would fetch, and the charts it has."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.charts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [values[name] or "" for name in ("src", "href", "xlink:href") if name in values] + [tag] * (
            tag in ("script", "link")
        )
        self.charts += [values.get("aria-label") or ""] * (tag == "svg")


def ended(folder: Path, found: list, cpu: float = 10) -> int:
    """The exit code of a run that left these rows."""
    journal = Journal(folder / "raw.jsonl")
    journal.clear()
    for row in found:
        journal.append(row)
    (folder / "client.json").write_text(json.dumps({"cpu_percent": cpu}))
    looks = [Look(100.0 + at, (Resident("ray::ServeReplica:headrace:router", 1, 90.0),)) for at in range(10)]
    return finish("burst", SCENARIO, folder, {"host": "http://x"}, "", looks)


def test_the_report_needs_nothing_else_and_shows_gates_and_plots(tmp_path: Path) -> None:
    assert ended(tmp_path, rows()) == 0
    page, links = (tmp_path / "report.html").read_text(), Links()
    links.feed(page)
    assert links.fetched == []
    assert "&lt;for a test&gt;" in page
    assert len(links.charts) == 5
    assert {"Replicas by stage", "Goodput: whole answers a second, by when they ended"} <= set(links.charts)
    with (tmp_path / "seconds.csv").open() as file:
        assert sum(float(line["offered"]) for line in csv.DictReader(file)) == 20
    assert json.loads((tmp_path / "summary.json").read_text())["percentiles"]["TTFT ms"] == {"p50": 50, "p95": 50, "p99": 50}


def test_a_missed_gate_a_busy_generator_and_an_empty_run_have_their_exit_codes(tmp_path: Path) -> None:
    assert ended(tmp_path, rows(ttft_ms=70.0)) == MISSED
    assert ended(tmp_path, rows(), cpu=95) == INVALID
    assert ended(tmp_path, []) == MISSED
