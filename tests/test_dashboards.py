"""The dashboard and the alerts fit what is measured, and say what they should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from deployments.core import errors
from deployments.core.telemetry import METRICS, Histogram
from tests import dashboard
from tests.dashboard import OPS, RAYS

PROMETHEUS = OPS / "prometheus"
RULES = sorted(PROMETHEUS.glob("rules/*.yml"))
DOCS = OPS.parent / "docs"
OURS = {series: one.name for one in METRICS for series in (one.name, *(f"{one.name}_{end}" for end in ("bucket", "sum", "count")))}
NO_FAILURE = {"", "cancelled", "key_revoked", "client_too_slow", errors.ContextTooLong.code}


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def panels() -> list[dict[str, Any]]:
    return [one for one in json.loads(dashboard.PAGE.read_text())["panels"] if one["type"] != "row"]


EXPRESSIONS = [rule["expr"] for rule in rules()] + [target["expr"] for panel in panels() for target in panel["targets"]]


def plain(expression: str) -> str:
    return re.sub(r"\$\w+", ".*", expression.replace("$__rate_interval", "5m"))


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Every selector of an expression."""
    found: list[promql_parser.VectorSelector] = []

    def note(node: promql_parser.Expr) -> bool:
        found.extend([one for one in (node, getattr(node, "selector", None)) if isinstance(one, promql_parser.VectorSelector)])
        return True

    promql_parser.walk(promql_parser.parse(plain(expression)), note)
    return found


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool") or pytest.skip("there is no promtool: apt install prometheus")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_prometheus_takes_its_configuration_and_the_rules():
    for arguments in (["config", PROMETHEUS / "prometheus.yml"], ["rules", *RULES]):
        done = promtool("check", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test():
    assert {path.stem for path in PROMETHEUS.glob("tests/*.yml")} == set(ALERTS)


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_is_quiet_burns_and_recovers(alert: str):
    path = PROMETHEUS / "tests" / f"{alert}.yml"
    (case,) = yaml.safe_load(path.read_text())["tests"]
    assert {one["alertname"] for one in case["alert_rule_test"]} == {alert}
    assert [bool(one.get("exp_alerts")) for one in case["alert_rule_test"]] == [False, True, False]
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_that_never_burns_fails_its_test(tmp_path: Path):
    (tmp_path / "rules").mkdir()
    text = (PROMETHEUS / "rules" / "causes.yml").read_text()
    assert text.count("headrace_backend_breaker_state) > 0") == 1
    (tmp_path / "rules" / "causes.yml").write_text(text.replace("breaker_state) > 0", "breaker_state) > 2"))
    shutil.copytree(PROMETHEUS / "tests", tmp_path / "tests")
    assert promtool("test", "rules", tmp_path / "tests" / "HeadraceBreakerOpen.yml").returncode != 0


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_parses_and_asks_for_what_there_is(expression: str):
    for one in selectors(expression):
        assert one.name in OURS or one.name in RAYS or one.name in RECORDED, one.name
        known = next((metric for metric in METRICS if metric.name == OURS.get(str(one.name))), None)
        if known:
            suffixed = str(one.name) != known.name
            assert suffixed == isinstance(known, Histogram), f"{one.name}: only histograms have parts, and have no others"
            asked = {matcher.name for matcher in one.matchers.matchers}
            assert asked <= {*known.labels, "le"}, one.name


def test_every_expression_has_a_selector():
    assert all(selectors(expression) for expression in EXPRESSIONS)


def test_every_metric_is_on_the_dashboard_or_in_a_rule():
    used = {OURS.get(str(one.name)) for expression in EXPRESSIONS for one in selectors(expression)}
    assert {one.name for one in METRICS} - used == set()


def test_labels_that_are_summed_by_exist():
    known = {label for one in METRICS for label in one.labels} | {"le", "deployment", "instance"}
    named = {label for expression in EXPRESSIONS for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
    assert named - known == set()


def test_the_promise_of_a_first_word_is_a_bound_of_the_buckets():
    (metric,) = (one for one in METRICS if isinstance(one, Histogram) and one.name == "gen_ai_server_time_to_first_token_seconds")
    assert 1.0 in metric.buckets


def test_what_is_no_failure_is_said_alike_in_all_windows():
    recorded = [rule["expr"] for rule in rules() if "failed_ratio" in rule.get("record", "")]
    lists = {found for expression in recorded for found in re.findall(r'error_type!~"([^"]*)"', expression)}
    assert [set(one.split("|")) for one in lists] == [NO_FAILURE]
    assert {errors.Overloaded.code} == {found for one in recorded for found in re.findall(r'decision="([^"]*)"', one)}
    for rule in rules():
        if "record" in rule:
            window = rule["record"].rsplit("rate", 1)[1]
            assert set(re.findall(r"\[(\w+)\]", rule["expr"])) == {window}


def test_alerts_say_what_is_wrong_and_where_it_is_written():
    headings = {line.removeprefix("### ") for line in (DOCS / "observability.md").read_text().splitlines() if line.startswith("### ")}
    assert headings == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/observability.md#{name.lower()}"


def test_the_dashboard_is_its_table():
    assert dashboard.PAGE.read_text() == dashboard.written(), "`python -m tests.dashboard` writes it anew"


def test_every_panel_says_what_it_shows():
    page = json.loads(dashboard.PAGE.read_text())
    ids = [one["id"] for one in page["panels"]]
    assert (page["uid"], len(set(ids))) == ("headrace", len(ids))
    for panel in panels():
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    sources = {json.dumps(one["datasource"]) for panel in panels() for one in (panel, *panel["targets"])}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}


def test_panels_do_not_lie_over_each_other():
    cells: set[tuple[int, int]] = set()
    for panel in json.loads(dashboard.PAGE.read_text())["panels"]:
        at = panel["gridPos"]
        taken = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in taken) < dashboard.COLUMNS
        cells |= taken


def test_every_variable_is_used_and_every_one_that_is_used_is_there():
    page = json.loads(dashboard.PAGE.read_text())
    defined = {one["name"] for one in page["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(page["panels"]))) - {"__rate_interval"}
    assert used == defined


def test_what_grafana_is_given_names_the_prometheus_and_the_dashboards():
    (source,) = yaml.safe_load((OPS / "grafana/provisioning/datasources/headrace.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((OPS / "grafana/provisioning/dashboards/headrace.yaml").read_text())["providers"]
    assert (source["type"], source["url"]) == ("prometheus", "${HEADRACE_PROMETHEUS}")
    assert provider["options"]["path"] == "${HEADRACE_DASHBOARDS}"
