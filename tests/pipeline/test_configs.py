import ast
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from pipeline.manifest import LAPTOP, Unreadable, load

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "pipeline" / "configs").glob("*.yaml"))
STAGES = {"gateway", "embedder", "retriever", "router", "generator", "worker"}


def test_there_is_one_for_a_laptop_and_one_for_production():
    assert [path.stem for path in CONFIGS] == ["laptop", "production"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
class TestAServeConfigFile:
    def test_is_one_by_serves_own_schema(self, path: Path):
        config = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
        assert [(app.name, app.route_prefix) for app in config.applications] == [("headrace", "/")]

    def test_names_a_builder_that_exists(self, path: Path):
        module, _, name = yaml.safe_load(path.read_text())["applications"][0]["import_path"].partition(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}

    def test_has_settings_that_hold(self, path: Path):
        assert load(path).settings

    def test_names_only_stages_that_exist(self, path: Path):
        assert set(load(path).stages) <= STAGES

    def test_sets_no_request_timeout(self, path: Path):
        assert "request_timeout_s" not in (yaml.safe_load(path.read_text()).get("http_options") or {})


def test_production_scales_every_stage_by_itself():
    application = load(ROOT / "pipeline" / "configs" / "production.yaml").application
    assert {d["name"] for d in application["deployments"]} == STAGES
    assert {name for name, part in application["args"].items() if isinstance(part, dict) and part["scaling"]["max_replicas"] > 1} >= STAGES


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_file_puts_another_policy_in_the_place_of_ours(path: Path):
    assert not any("autoscaling_config" in d or "num_replicas" in d for d in load(path).application.get("deployments", []))


def test_production_keeps_secrets_out_of_the_file():
    args = load(ROOT / "pipeline" / "configs" / "production.yaml").application["args"]
    assert not {"sql_url", "valkey_url", "pepper"} & set(args)
    assert "api_key" not in args["generator"]


class TestTheManifest:
    def test_puts_serve_on_loopback_behind_the_edge(self):
        bound = load(LAPTOP).bound(12345)
        assert bound["http_options"] == {"host": "127.0.0.1", "port": 12345}
        assert bound["proxy_location"] == "HeadOnly"

    def test_makes_the_data_folder_absolute(self):
        assert Path(load(LAPTOP).bound(1)["applications"][0]["args"]["data_dir"]).is_absolute()

    def test_lets_the_environment_win(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HEADRACE_PORT", "4711")
        assert load(LAPTOP).settings.port == 4711

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("[", "not a Serve config file"),
            ("applications: []", "not a Serve config file"),
            ("applications: [{import_path: a:b}, {import_path: c:d}]", "2 applications"),
            ("applications: [{import_path: a:b, args: {nonsense: 1}}]", "nonsense"),
        ],
    )
    def test_says_what_is_wrong_with_a_file(self, tmp_path: Path, text: str, reason: str):
        path = tmp_path / "wrong.yaml"
        path.write_text(text)
        with pytest.raises(Unreadable, match=reason):
            load(path)


class TestTheClusterFile:
    @pytest.fixture
    def cluster(self) -> dict[str, Any]:
        return yaml.safe_load((ROOT / "cluster.yaml").read_text())

    def test_is_one_by_rays_own_schema(self, cluster: dict[str, Any]):
        schema = json.loads((files("ray.autoscaler") / "ray-schema.json").read_text())
        jsonschema.validate(cluster, schema)

    def test_has_a_head_of_a_known_kind(self, cluster: dict[str, Any]):
        assert cluster["head_node_type"] in cluster["available_node_types"]

    @pytest.mark.parametrize("kind", ["head_start_ray_commands", "worker_start_ray_commands"])
    def test_starts_every_node_with_the_same_flags(self, cluster: dict[str, Any], kind: str):
        start = cluster[kind][-1]
        flags = {word for word in cluster["head_start_ray_commands"][-1].split() if word.startswith("RAY_")}
        assert {"RAY_AUTH_MODE=token", "RAY_SERVE_ENABLE_HA_PROXY=1", "RAY_SERVE_THROUGHPUT_OPTIMIZED=1"} <= {f.rstrip(";") for f in flags}
        assert all(flag in start for flag in flags)

    def test_keeps_the_dashboard_on_loopback(self, cluster: dict[str, Any]):
        assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
