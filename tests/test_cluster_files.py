"""cluster.yaml, ops/serve.env, ops/rayservice.yaml and ops/Containerfile: by their own schemas, and by each other."""

import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
from ray.serve._private import constants

from deployments.core.config import Gateway, Settings
from pipeline.standalone import FLAGS

ROOT = Path(__file__).parents[1]
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")

Tree = dict[str, Any]


def read(path: str) -> str:
    return (ROOT / path).read_text()


@pytest.fixture
def cluster() -> Tree:
    return yaml.safe_load(read("cluster.yaml"))


@pytest.fixture
def flags() -> dict[str, str]:
    """ops/serve.env as a shell understands it."""
    return dict(word.split("=", 1) for word in shlex.split(read("ops/serve.env"), comments=True))


@pytest.fixture
def service() -> dict[str, Tree]:
    """The documents of ops/rayservice.yaml by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(read("ops/rayservice.yaml"))}


def groups(service: dict[str, Tree]) -> dict[str, Tree]:
    """Its groups of pods by name."""
    cluster = service["RayService"]["spec"]["rayClusterConfig"]
    return {"head": cluster["headGroupSpec"], **{one["groupName"]: one for one in cluster["workerGroupSpecs"]}}


def containers(service: dict[str, Tree]) -> dict[str, Tree]:
    """The only container of each group's pods."""
    return {name: one for name, group in groups(service).items() for one in group["template"]["spec"]["containers"]}


class TestTheClusterFile:
    def test_is_what_ray_up_takes(self, cluster: Tree):
        validate_config(prepare_config(cluster))

    def test_has_workers_with_and_without_gpus_and_a_head_without_replicas(self, cluster: Tree):
        kinds = cluster["available_node_types"]
        assert set(kinds) == {"head", "worker", "gpu"}
        assert kinds["head"]["resources"] == {"CPU": 0}
        assert kinds["gpu"]["min_workers"] == 0  # none is paid for until a model asks for one

    def test_has_commands_that_a_shell_understands(self, cluster: Tree):
        for kind in ("setup_commands", "worker_setup_commands", *STARTS):
            for command in cluster[kind]:
                assert subprocess.run(["/bin/bash", "-n", "-c", command], check=False).returncode == 0, command

    @pytest.mark.parametrize("kind", STARTS)
    def test_starts_every_node_with_the_flags_in_its_environment(self, cluster: Tree, flags: dict[str, str], kind: str, tmp_path: Path):
        (tmp_path / "headrace" / "ops").mkdir(parents=True)
        (tmp_path / "headrace.env").write_text("export HEADRACE_PEPPER='of a test'\n")
        (tmp_path / "headrace" / "ops" / "serve.env").write_text(read("ops/serve.env"))
        ray = tmp_path / "headrace" / ".venv" / "bin" / "ray"
        ray.parent.mkdir(parents=True)
        ray.write_text("#!/bin/sh\nenv\n")
        ray.chmod(0o700)
        command = ["/bin/bash", "-c", cluster[kind][-1]]
        said = subprocess.run(
            command, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
        ).stdout
        assert {*(f"{name}={value}" for name, value in flags.items()), "HEADRACE_PEPPER=of a test"} <= set(said.splitlines())

    def test_keeps_the_dashboard_on_loopback(self, cluster: Tree):
        assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]

    def test_ends_serve_before_ray(self, cluster: Tree):
        verbs = [command.split(".venv/bin/")[-1].split(" ", 2)[:2] for command in cluster["head_start_ray_commands"]]
        assert verbs == [["serve", "shutdown"], ["ray", "stop"], ["ray", "start"]]


class TestTheFlags:
    def test_are_those_the_application_asks_for(self, flags: dict[str, str]):
        assert FLAGS.items() <= flags.items()

    def test_are_flags_that_ray_and_serve_read(self, flags: dict[str, str]):
        source = Path(constants.__file__).read_text()
        core = (Path(constants.__file__).parents[2] / "core/src/ray/gcs/gcs_server").read_bytes()
        for name in flags:
            if name.startswith("RAY_SERVE_"):
                assert f'"{name}"' in source, name
            elif name.startswith("RAY_health"):
                assert name.encode() in core, name

    def test_let_the_longest_answer_end_while_a_proxy_is_replaced(self, flags: dict[str, str]):
        assert int(flags["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > Gateway().deadline_s


class TestTheRayService:
    def test_serves_production_as_it_is(self, service: dict[str, Tree]):
        assert yaml.safe_load(service["RayService"]["spec"]["serveConfigV2"]) == yaml.safe_load(read("pipeline/configs/production.yaml"))

    def test_runs_the_version_of_ray_that_is_locked(self, service: dict[str, Tree]):
        assert service["RayService"]["spec"]["rayClusterConfig"]["rayVersion"] == version("ray")

    def test_has_a_head_and_workers_with_and_without_gpus(self, service: dict[str, Tree]):
        assert set(groups(service)) == {"head", "worker", "gpu"}
        assert groups(service)["head"]["rayStartParams"]["num-cpus"] == "0"
        assert groups(service)["gpu"]["minReplicas"] == 0
        assert containers(service)["gpu"]["resources"]["limits"]["nvidia.com/gpu"] == 1

    def test_gives_every_pod_the_flags_and_the_secrets(self, service: dict[str, Tree], flags: dict[str, str]):
        assert service["ConfigMap"]["data"] == flags
        wanted = [{"configMapRef": {"name": service["ConfigMap"]["metadata"]["name"]}}, {"secretRef": {"name": "headrace"}}]
        assert all(one["envFrom"] == wanted and "env" not in one for one in containers(service).values())
        assert service["RayService"]["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}

    def test_probes_every_pod_and_sends_requests_where_a_gateway_is_known(self, service: dict[str, Tree]):
        for name, one in containers(service).items():
            assert one["livenessProbe"]["httpGet"]["path"].endswith("healthz")
            if name != "head":
                assert one["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 8000}

    def test_runs_nothing_as_root_or_with_rights_to_spare(self, service: dict[str, Tree]):
        for group in groups(service).values():
            assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
        for one in containers(service).values():
            assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

    def test_ends_no_pod_before_its_longest_answer(self, service: dict[str, Tree]):
        graces = [one["template"]["spec"]["terminationGracePeriodSeconds"] for name, one in groups(service).items() if name != "head"]
        assert min(graces) > Gateway().deadline_s

    def test_is_closed_but_for_the_door_and_kuberay(self, service: dict[str, Tree]):
        policy = service["NetworkPolicy"]["spec"]
        labels = policy["podSelector"]["matchLabels"]
        assert all(labels.items() <= group["template"]["metadata"]["labels"].items() for group in groups(service).values())
        assert policy["policyTypes"] == ["Ingress"]
        within, door, operator = policy["ingress"]
        assert within == {"from": [{"podSelector": {"matchLabels": labels}}]}
        assert [port["port"] for port in door["ports"]] == [8000]
        assert {port["port"] for port in operator["ports"]} == {8265, 8000}
        assert all("namespaceSelector" in one for rule in (door, operator) for one in rule["from"])


class TestTheImage:
    @pytest.fixture
    def steps(self) -> list[list[str]]:
        """Its instructions as words."""
        text = read("ops/Containerfile").replace("\\\n", " ")
        return [shlex.split(line, comments=True) for line in text.splitlines() if line and not line.startswith("#")]

    def test_copies_only_what_is_there(self, steps: list[list[str]]):
        sources = [word for verb, *words in steps if verb == "COPY" for word in words[:-1] if not word.startswith("--")]
        assert {"pipeline", "deployments", "pyproject.toml", "requirements/runtime.txt"} <= set(sources)
        assert all((ROOT / source).exists() for source in sources)

    def test_runs_as_nobody_special_from_before_anything_is_installed(self, steps: list[list[str]]):
        verbs = [words[0] for words in steps]
        users = [words[1] for words in steps if words[0] == "USER"]
        assert users == ["headrace"]
        assert verbs.index("USER") < verbs.index("COPY")

    def test_takes_packages_by_their_hashes_alone(self, steps: list[list[str]]):
        common = steps[: next(at for at, words in enumerate(steps) if words[:1] == ["FROM"] and words[-1] == "gpu")]
        installed = [" ".join(words) for words in common if "install" in words and "pip" in words]
        commands = [one.strip() for text in installed for one in text.removeprefix("RUN ").split("&&") if "pip install" in one]
        assert len(commands) == 4
        assert all("--require-hashes" in one or one.endswith("--no-deps --no-build-isolation --editable .") for one in commands)

    def test_has_the_version_of_ray_that_is_locked_on_gpus_too(self, cluster: Tree):
        pinned = f"ray[llm]=={version('ray')}"
        assert pinned in read("ops/Containerfile")
        assert any(pinned in command for command in cluster["worker_setup_commands"])


def test_the_model_on_the_same_cluster_asks_for_a_gpu_that_the_gpu_nodes_have(service: dict[str, Tree]):
    applications = {one["name"]: one for one in yaml.safe_load(read("docs/examples/ray_serve_llm.yaml"))["applications"]}
    (model,) = (LLMConfig.model_validate(one) for one in applications["llm"]["args"]["llm_configs"])
    assert f"accelerator_type:{model.accelerator_type}" in groups(service)["gpu"]["rayStartParams"]["resources"]
    assert f"asks for an {model.accelerator_type}" in read("cluster.yaml")


def test_the_regions_of_the_guide_are_settings_that_hold_and_name_a_server_each():
    block = read("docs/deploy.md").split("## Regions")[1].split("```yaml\n")[1].split("```")[0]
    generator = Settings(**yaml.safe_load(block)).generator
    assert generator.regions == ("eu-central", "eu-west", "us-east")
    assert {one.region for one in generator.upstreams} == set(generator.regions)
