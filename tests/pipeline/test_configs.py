import ast
from math import ceil
from pathlib import Path

import pytest
import yaml
from ray.serve._private.build_app import build_app
from ray.serve.deployment import deployment_to_schema
from ray.serve.schema import ServeDeploySchema

from deployments.core.config import Settings
from pipeline.app import build
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
    assert all(application["args"][name]["scaling"]["max_replicas"] > 1 for name in STAGES)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_file_puts_another_policy_in_the_place_of_ours(path: Path):
    assert not any("autoscaling_config" in d or "num_replicas" in d for d in load(path).application.get("deployments", []))


def test_production_names_the_deployments_that_the_application_is_built_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADRACE_VALKEY_URL", "redis://127.0.0.1:1")  # nothing connects while it is built
    args = load(ROOT / "pipeline" / "configs" / "production.yaml").application["args"] | {"data_dir": tmp_path}
    built = build_app(build(Settings(**args)), name="headrace", default_runtime_env={})
    assert {one.name for one in built.deployments} == STAGES
    assert built.ingress_deployment_name == "gateway"
    assert all(deployment_to_schema(one).max_surge_percent == 100 for one in built.deployments)  # so on a laptop, with one replica of each


def test_production_brings_a_new_replica_before_an_old_one_goes():
    deployments = load(ROOT / "pipeline" / "configs" / "production.yaml").application["deployments"]
    assert all(one["max_surge_percent"] > 0 and one["rolling_update_percentage"] > 0 for one in deployments)


@pytest.mark.parametrize("name", sorted(STAGES - {"worker"}))
def test_production_has_more_replicas_than_one_of_its_two_nodes_takes_and_room_for_another(name: str):
    application = load(ROOT / "pipeline" / "configs" / "production.yaml").application
    (stage,) = (one for one in application["deployments"] if one["name"] == name)
    least, surge = application["args"][name]["scaling"]["min_replicas"], stage["max_surge_percent"] / 100
    assert stage["max_replicas_per_node"] < least
    assert 2 * stage["max_replicas_per_node"] >= least + ceil(surge * least)
    assert yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]["worker"]["min_workers"] == 2


def test_production_lets_the_longest_answer_end_before_a_replica_is_killed():
    manifest = load(ROOT / "pipeline" / "configs" / "production.yaml")
    graces = {one["name"]: one.get("graceful_shutdown_timeout_s", 0) for one in manifest.application["deployments"]}
    assert min(graces["gateway"], graces["generator"]) >= manifest.settings.gateway.deadline_s


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
