"""`make observe`: what Prometheus is told, and what a person is told without it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from deployments.core.config import Settings
from pipeline.observe import OPS, RAYS, Missing, aim, configuration, observe, session, targets


def test_the_agents_of_a_session_are_found(tmp_path: Path):
    for node, port in (("a", "8080"), ("b", "8081\n"), ("c", "")):
        (tmp_path / f"metrics_export_port_{node}").write_text(port)
    assert targets(tmp_path) == [{"labels": {"job": "ray"}, "targets": ["127.0.0.1:8080", "127.0.0.1:8081"]}]


def test_where_nothing_runs_there_are_no_targets(tmp_path: Path):
    assert targets(tmp_path / "none")[0]["targets"] == []


def test_without_a_stack_of_ours_rays_own_session_is_looked_at(tmp_path: Path):
    assert session(tmp_path) == RAYS


def test_the_targets_file_is_whole_at_any_time(tmp_path: Path):
    aim(tmp_path, tmp_path)
    assert [set(one) for one in json.loads((tmp_path / "targets.json").read_text())] == [{"labels", "targets"}]
    assert not (tmp_path / "targets.new").exists()


def test_prometheus_takes_what_it_is_given(tmp_path: Path):
    program = shutil.which("promtool") or pytest.skip("there is no promtool: apt install prometheus")
    aim(tmp_path, tmp_path)
    (tmp_path / "prometheus.yml").write_text(json.dumps(configuration(tmp_path)))
    done = subprocess.run([program, "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(list((OPS / 'prometheus/rules').glob('*.yml')))} rule files found" in done.stdout


def test_without_prometheus_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="apt install"):
        observe(Settings(data_dir=tmp_path))
    assert not (tmp_path / "observe").exists()
