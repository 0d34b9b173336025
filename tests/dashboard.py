"""The table of the dashboard: `python -m tests.dashboard` writes ops/grafana/headrace.json from it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPS = Path(__file__).parents[1] / "ops"
PAGE = OPS / "grafana" / "headrace.json"

RAYS = {
    "ray_node_cpu_utilization",
    "ray_node_mem_used",
    "ray_serve_autoscaling_target_replicas",
    "ray_serve_deployment_queued_queries",
    "ray_serve_deployment_replica_healthy",
    "ray_serve_replica_processing_queries",
}
"""Metrics of Ray that rules and panels may ask for."""

WIDE, HIGH, COLUMNS = 8, 8, 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One graph: its title, what its values are, what it answers, and its lines as expression and legend."""

    title: str
    unit: str
    says: str
    lines: Sequence[tuple[str, str]]


def rate(metric: str, by: str = "", where: str = "") -> str:
    """How much a counter grows in a second."""
    total = f"sum by ({by})" if by else "sum"
    return f"{total} (rate({metric}{{{where}}}[$__rate_interval]))" if where else f"{total} (rate({metric}[$__rate_interval]))"


def quantiles(metric: str, by: str = "", where: str = "", shares: Sequence[float] = (0.5, 0.95, 0.99)) -> list[tuple[str, str]]:
    """Lines of what so many of a histogram's values do not exceed."""
    buckets = rate(f"{metric}_bucket", f"{by}, le" if by else "le", where)
    return [(f"histogram_quantile({share}, {buckets})", f"p{100 * share:g}" + (f" {{{{{by}}}}}" if by else "")) for share in shares]


def mean(metric: str, by: str = "") -> str:
    """The mean of a histogram's values."""
    return f"{rate(f'{metric}_sum', by)} / {rate(f'{metric}_count', by)}"


def part(metric: str, where: str, by: str = "") -> str:
    """Which part of a counter has those labels."""
    return f"{rate(metric, by, where)} / {rate(metric, by)}"


MODEL = 'gen_ai_request_model=~"$model"'
ROUTE = 'route=~"$route"'
STAGE = 'deployment=~"$deployment"'
FAILED = "service:headrace_answers:failed_ratio_rate"
LATE = "service:gen_ai_server_time_to_first_token_seconds:slow_ratio_rate"

ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "Promises",
        (
            Panel(
                "Answers that end well", "percentunit", "Promised are 99.5 %.", [(f"1 - {FAILED}5m", "5 min"), (f"1 - {FAILED}1h", "1 h")]
            ),
            Panel(
                "Time to the first word",
                "s",
                "Promised is 1 s at most for 95 of 100 answers.",
                quantiles("gen_ai_server_time_to_first_token_seconds", where=MODEL),
            ),
            Panel(
                "How fast the budgets are spent",
                "none",
                "At 1 a budget lasts 30 days, at 14.4 two of them.",
                [
                    (f"{FAILED}1h / 0.005", "answers, 1 h"),
                    (f"{FAILED}6h / 0.005", "answers, 6 h"),
                    (f"{LATE}1h / 0.05", "first words, 1 h"),
                    (f"{LATE}6h / 0.05", "first words, 6 h"),
                ],
            ),
        ),
    ),
    (
        "Traffic",
        (
            Panel(
                "Requests by route",
                "reqps",
                "By the template of the route.",
                [(rate("headrace_requests_total", "route", ROUTE), "{{route}}")],
            ),
            Panel(
                "Requests by status",
                "reqps",
                "What they were answered with.",
                [(rate("headrace_requests_total", "status", ROUTE), "{{status}}")],
            ),
            Panel(
                "Answers by model",
                "reqps",
                "Answers that ended, however they did.",
                [(rate("gen_ai_server_request_duration_seconds_count", "gen_ai_request_model", MODEL), "{{gen_ai_request_model}}")],
            ),
            Panel(
                "How long answers take",
                "s",
                "From admission to the last event.",
                quantiles("gen_ai_server_request_duration_seconds", where=MODEL),
            ),
            Panel(
                "Slots",
                "none",
                "In use, waited for, and in force, everywhere.",
                [
                    ("max(headrace_pool_running)", "in use"),
                    ("max(headrace_pool_waiting)", "waiting"),
                    ("max(headrace_pool_limit)", "in force"),
                ],
            ),
            Panel(
                "What admission says",
                "reqps",
                "admitted, waits, or why not.",
                [(rate("headrace_admissions_total", "decision"), "{{decision}}")],
            ),
            Panel(
                "Wait for a slot",
                "s",
                "By the tier of the request.",
                quantiles("headrace_admission_wait_seconds", "service", shares=(0.5, 0.95)),
            ),
            Panel(
                "Fairness",
                "none",
                "Jain's index over what tenants got in the last minute; 1 is even.",
                [("min(headrace_tenant_fairness_jain)", "Jain")],
            ),
        ),
    ),
    (
        "Tokens",
        (
            Panel(
                "Tokens",
                "none",
                "Tokens a second that backends read and wrote.",
                [(rate("gen_ai_client_token_usage_sum", "gen_ai_token_type"), "{{gen_ai_token_type}}")],
            ),
            Panel(
                "Tokens of one call",
                "none",
                "What a call reads and writes on average.",
                [(mean("gen_ai_client_token_usage", "gen_ai_token_type"), "{{gen_ai_token_type}}")],
            ),
            Panel(
                "Time for a token",
                "s",
                "Each token behind the first.",
                quantiles("gen_ai_server_time_per_output_token_seconds", where=MODEL),
            ),
        ),
    ),
    (
        "Stages",
        (
            Panel(
                "Stages as a turn sees them",
                "s",
                "p95 of each stage, waiting and the way there included.",
                quantiles("headrace_stage_duration_seconds", "stage", shares=(0.95,)),
            ),
            Panel(
                "Stages' own work",
                "s",
                "p95 of what the stage itself does.",
                quantiles("headrace_stage_work_seconds", "stage", shares=(0.95,)),
            ),
            Panel("Between the stages", "s", "Time to the first word that no stage accounts for.", quantiles("headrace_overhead_seconds")),
        ),
    ),
    (
        "Retrieval",
        (
            Panel(
                "Legs of a search",
                "s",
                "p95 of vectors, words and rows.",
                quantiles("headrace_retrieval_leg_seconds", "leg", shares=(0.95,)),
            ),
            Panel("Passages of a search", "none", "How many were found.", quantiles("headrace_retrieval_results", shares=(0.05, 0.5))),
            Panel(
                "Score of the best passage",
                "none",
                "Falls where questions leave what is known.",
                quantiles("headrace_retrieval_score", shares=(0.05, 0.5, 0.95)),
            ),
            Panel(
                "Nothing found",
                "reqps",
                "Searches without a passage, and turns that were told that there is no answer.",
                [(rate("headrace_retrieval_empty_total"), "no passage"), (rate("headrace_unanswered_total"), "no answer")],
            ),
            Panel(
                "Texts encoded together",
                "none",
                "How well the embedder batches.",
                quantiles("headrace_embed_batch_texts", shares=(0.5, 0.95)),
            ),
            Panel("Wait for a batch", "s", "Of the first text in it.", quantiles("headrace_embed_wait_seconds", shares=(0.5, 0.95))),
        ),
    ),
    (
        "Caches",
        (
            Panel(
                "Hits",
                "percentunit",
                "The part of looks that found something, by cache.",
                [(part("headrace_cache_lookups_total", 'outcome="hit"', "cache"), "{{cache}}")],
            ),
        ),
    ),
    (
        "Streaming",
        (
            Panel(
                "Open now",
                "none",
                "In all gateways.",
                [
                    ("sum(headrace_answers_open)", "answers"),
                    ("sum(headrace_streams_open)", "readers"),
                    ("sum(headrace_sockets_open)", "sockets"),
                ],
            ),
            Panel("Answers cut short", "reqps", "By who ended them.", [(rate("headrace_stream_aborts_total", "by"), "{{by}}")]),
            Panel("Sockets closed", "reqps", "By code.", [(rate("headrace_socket_closes_total", "code"), "{{code}}")]),
            Panel(
                "Resumed",
                "none",
                "Readers that came back in a second, and deltas that were replayed to readers.",
                [(rate("headrace_stream_resumes_total"), "readers"), (rate("headrace_stream_replayed_events_total"), "deltas")],
            ),
        ),
    ),
    (
        "Backends",
        (
            Panel(
                "Calls",
                "reqps",
                "By backend and how they ended.",
                [(rate("headrace_backend_attempts_total", "backend, outcome"), "{{backend}} {{outcome}}")],
            ),
            Panel("Under way", "none", "Calls that run now.", [("sum by (backend) (headrace_backend_calls)", "{{backend}}")]),
            Panel(
                "How long calls take",
                "s",
                "p95 by backend.",
                quantiles("gen_ai_client_operation_duration_seconds", "backend", shares=(0.95,)),
            ),
            Panel(
                "First word of a backend",
                "s",
                "p95 by backend.",
                quantiles("gen_ai_client_operation_time_to_first_chunk_seconds", "backend", shares=(0.95,)),
            ),
            Panel(
                "Breakers", "none", "0 closed, 1 half open, 2 open.", [("max by (backend) (headrace_backend_breaker_state)", "{{backend}}")]
            ),
            Panel(
                "Fallbacks",
                "reqps",
                "Answers that another call went on with, by why.",
                [(rate("headrace_fallbacks_total", "reason"), "{{reason}}")],
            ),
            Panel(
                "Repeated",
                "reqps",
                "Requests that clients say they repeat, and second calls beside slow ones.",
                [(rate("headrace_client_retries_total"), "by clients"), (rate("headrace_hedges_total"), "hedges")],
            ),
        ),
    ),
    (
        "Saturation",
        (
            Panel(
                "Replicas",
                "none",
                "Healthy ones, and how many there should be.",
                [
                    (f"sum by (deployment) (ray_serve_deployment_replica_healthy{{{STAGE}}})", "{{deployment}}"),
                    (f"sum by (deployment) (ray_serve_autoscaling_target_replicas{{{STAGE}}})", "{{deployment}}, wanted"),
                ],
            ),
            Panel(
                "Lag of event loops",
                "s",
                "p99 by stage: what blocks one delays all that it serves.",
                quantiles("headrace_event_loop_lag_seconds", "stage", shares=(0.99,)),
            ),
            Panel(
                "Requests at replicas",
                "none",
                "Under way, and queued by who calls, as Ray counts them.",
                [
                    (f"sum by (deployment) (ray_serve_replica_processing_queries{{{STAGE}}})", "{{deployment}}"),
                    (f"sum by (deployment) (ray_serve_deployment_queued_queries{{{STAGE}}})", "{{deployment}}, queued"),
                ],
            ),
            Panel("Processors", "percent", "Of each node.", [("avg by (instance) (ray_node_cpu_utilization)", "{{instance}}")]),
            Panel("Memory", "bytes", "In use, of each node.", [("sum by (instance) (ray_node_mem_used)", "{{instance}}")]),
        ),
    ),
    (
        "Work and tools",
        (
            Panel("Jobs that wait", "none", "Due, and held by nobody.", [("max(headrace_jobs_waiting)", "jobs")]),
            Panel("Oldest job", "s", "How long it has been due.", [("max(headrace_job_oldest_age_seconds)", "oldest")]),
            Panel(
                "Attempts at jobs",
                "reqps",
                "By kind and how they ended.",
                [(rate("headrace_jobs_total", "kind, outcome"), "{{kind}} {{outcome}}")],
            ),
            Panel("How long jobs take", "s", "p95 by kind.", quantiles("headrace_job_duration_seconds", "kind", shares=(0.95,))),
            Panel(
                "Tools",
                "reqps",
                "Calls that models asked for, by what became of them.",
                [(rate("headrace_tool_calls_total", "decision"), "{{decision}}")],
            ),
        ),
    ),
)


def page() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    return {
        "uid": "headrace",
        "title": "headrace",
        "description": "What clients get, and what is behind it. Ray's own dashboards show Ray.",
        "tags": ["headrace"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    asked = {
        "model": "label_values(gen_ai_server_request_duration_seconds_count, gen_ai_request_model)",
        "route": "label_values(headrace_requests_total, route)",
        "deployment": "label_values(ray_serve_deployment_replica_healthy, deployment)",
    }
    every = {"type": "query", "datasource": _SOURCE, "includeAll": True, "allValue": ".*", "multi": True, "refresh": 2, "sort": 1}
    every["current"] = {"text": "All", "value": "$__all"}
    return [source, *({"name": name, "query": query} | every for name, query in asked.items())]


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, y, COLUMNS, 1)}
        )
        y += 1
        for number, panel in enumerate(row):
            across, down = number % (COLUMNS // WIDE), number // (COLUMNS // WIDE)
            panels.append({"id": len(panels) + 1, "gridPos": _place(across * WIDE, y + down * HIGH, WIDE, HIGH)} | _graph(panel))
        y += HIGH * -(-len(row) // (COLUMNS // WIDE))
    return panels


def _place(x: int, y: int, wide: int, high: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": wide, "h": high}


def _graph(panel: Panel) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.says,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for number, (expression, legend) in enumerate(panel.lines)
        ],
    }


def written() -> str:
    """The dashboard's file."""
    return json.dumps(page(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(written())
