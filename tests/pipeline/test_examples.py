"""The examples of docs/examples, each by Serve's own schema and by our settings."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
from ray.serve.schema import ServeDeploySchema

from deployments.core.config import Settings

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.yaml"))


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The applications of an example, by name."""
    return {one["name"]: one for one in yaml.safe_load(path.read_text())["applications"]}


def test_there_is_one_for_each_kind_of_backend() -> None:
    assert [path.stem for path in EXAMPLES] == ["ollama", "openai", "ray_serve_llm", "vllm"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
class TestAnExample:
    def test_is_a_config_file_by_serves_own_schema(self, path: Path) -> None:
        applications = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text())).applications
        assert "headrace" in {one.name for one in applications}
        assert len({one.route_prefix for one in applications}) == len(applications)

    def test_has_settings_that_hold_and_backends_with_a_url(self, path: Path) -> None:
        settings = Settings(**read(path)["headrace"]["args"])
        assert all(one.base_url.startswith("http") for one in settings.generator.upstreams)
        assert all(one.context_size for one in settings.generator.upstreams)

    def test_holds_no_key(self, path: Path) -> None:
        assert not re.search(r"api_key:|sk-", path.read_text())
        keys = Settings(**read(path)["headrace"]["args"]).generator.keys
        assert not any(key.get_secret_value() for key in keys.values())


def test_the_second_application_is_one_by_its_own_schema_and_at_the_address_that_headrace_calls() -> None:
    both = read(EXAMPLES[2])
    (model,) = (LLMConfig.model_validate(one) for one in both["llm"]["args"]["llm_configs"])
    generator = Settings(**both["headrace"]["args"]).generator
    assert generator.model == model.model_id
    assert generator.base_url == f"http://127.0.0.1:8000{both['llm']['route_prefix']}/v1"
    assert generator.context_size == model.engine_kwargs["max_model_len"]


def test_keys_of_the_environment_go_before_those_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_GENERATOR__KEYS", '{"openai": "secret"}')
    settings = Settings(**read(EXAMPLES[1])["headrace"]["args"])
    assert settings.generator.keys["openai"].get_secret_value() == "secret"
    assert settings.generator.model == "gpt-4.1-mini"
