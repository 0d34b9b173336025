"""The application under plain `serve run`: real Ray, Serve and Valkey, and no supervisor."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import yaml

from loadtest.bench.bare import flags, free_ports
from pipeline.manifest import LAPTOP
from tests.integration.conftest import folder
from tests.loadtest.conftest import Simulator, spawn, wait_until

__all__ = ["folder", "spawn"]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """The laptop's configuration on a port of its own."""
    content = yaml.safe_load(LAPTOP.read_text())
    content["http_options"]["port"] = free_ports(1)[0]
    file = tmp_path / "laptop.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def health(http: httpx2.Client) -> tuple[int, dict[str, Any]]:
    """Status and body of the readiness page; 0 and nothing where there is none."""
    try:
        response = http.get("/health/ready")
        return response.status_code, response.json()
    except (httpx2.HTTPError, ValueError):
        return 0, {}


def test_serve_run_brings_its_own_valkey_and_database(laptop: Path, folder: Path, spawn: Callable[..., Simulator]) -> None:
    backend, log = spawn("--tokens", "3"), folder.parent / "log"
    url = f"http://127.0.0.1:{yaml.safe_load(laptop.read_text())['http_options']['port']}"
    environ = os.environ | flags(folder.parent) | {"RAY_ADDRESS": "local", "RAY_TMPDIR": str(folder.parent)}
    environ |= {"HEADRACE_DATA_DIR": str(folder), "HEADRACE_GENERATOR__BASE_URL": backend.url, "HEADRACE_GENERATOR__MODEL": "sim"}
    with log.open("wb") as file:
        process = subprocess.Popen([Path(sys.executable).with_name("serve"), "run", laptop], env=environ, stdout=file, stderr=file)
    below: list[psutil.Process] = []
    try:
        with httpx2.Client(base_url=url, timeout=30) as http:
            wait_until(lambda: process.poll() is not None or health(http)[0] == 200, "the application", 150)
            assert process.poll() is None, log.read_text()
            below = psutil.Process(process.pid).children(recursive=True)
            headers = {"authorization": f"Bearer {(folder / 'demo.key').read_text()}"}
            asked = {"model": "headrace-direct", "messages": [{"role": "user", "content": "Hi"}]}
            answer = http.post("/v1/chat/completions", json=asked, headers=headers)
            assert answer.json()["choices"][0]["message"]["content"].split() == ["w0", "w1", "w2"], answer.text
            valkey = next(each for each in below if "valkey" in each.name())
            valkey.kill()
            wait_until(lambda: not valkey.is_running(), "its end")
            wait_until(lambda: health(http)[1].get("parts", {}).get("valkey", {}).get("ok"), "Valkey", 30)
            below = psutil.Process(process.pid).children(recursive=True)
            assert any("valkey" in each.name() for each in below)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)
    assert psutil.wait_procs(below, timeout=20)[1] == []
