"""The Serve config file: where `headrace serve` takes the settings from, and what it hands to Serve."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deployments.core.config import Settings

LAPTOP = Path(__file__).parent / "configs" / "laptop.yaml"


class Unreadable(Exception):
    """The file is not a Serve config file with one application, or its settings are wrong."""


@dataclass(frozen=True)
class Manifest:
    """One Serve config file with one application; `settings` is its `args` under the HEADRACE_* variables."""

    path: Path
    content: dict[str, Any]
    settings: Settings

    @property
    def application(self) -> dict[str, Any]:
        """The application's part of the file."""
        return self.content["applications"][0]

    @property
    def stages(self) -> list[str]:
        """The deployments the file names."""
        return [deployment["name"] for deployment in self.application.get("deployments") or []]

    def bound(self, port: int) -> dict[str, Any]:
        """The file as Serve gets it from us: on a loopback port behind the edge, its data folder absolute, one node."""
        args = {**(self.application.get("args") or {}), "data_dir": str(self.settings.data_dir.resolve())}
        application = {**self.application, "args": args}
        http = {**(self.content.get("http_options") or {}), "host": "127.0.0.1", "port": port}
        return {**self.content, "proxy_location": "HeadOnly", "http_options": http, "applications": [application]}


def load(path: Path) -> Manifest:
    """Read a Serve config file; raises Unreadable with what is wrong."""
    try:
        content = yaml.safe_load(path.read_text())
        applications = content["applications"]
        args = applications[0].get("args") or {}
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise Unreadable(f"{path} is not a Serve config file: {error}") from error
    if len(applications) != 1:
        raise Unreadable(f"{path} has {len(applications)} applications; headrace serves one")
    try:
        return Manifest(path, content, Settings(**args))
    except ValidationError as error:
        raise Unreadable(f"settings of {path}: {error}") from error
