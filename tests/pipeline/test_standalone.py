"""The application under plain `serve run`: real Ray, Serve and Valkey, and no supervisor."""

import contextlib
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

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]


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


def ask(http: httpx2.Client, headers: dict[str, str]) -> str:
    """The answer to a greeting; the error's text where there is none."""
    asked = {"model": "headrace-direct", "messages": [{"role": "user", "content": "Hi"}]}
    response = http.post("/v1/chat/completions", json=asked, headers=headers)
    return response.json()["choices"][0]["message"]["content"].strip() if response.status_code == 200 else response.text


def valkeys(pid: int) -> list[psutil.Process]:
    """The Valkey servers below a process; processes may end while one looks."""
    below = psutil.Process(pid).children(recursive=True)
    with contextlib.suppress(psutil.NoSuchProcess):
        return [each for each in below if "valkey" in each.name()]
    return []


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
            assert ask(http, headers) == "w0 w1 w2"
            (valkey,) = valkeys(process.pid)
            valkey.kill()
            wait_until(lambda: not valkey.is_running(), "its end")
            wait_until(lambda: valkeys(process.pid), "another Valkey", 60)
            wait_until(lambda: ask(http, headers) == "w0 w1 w2", "an answer through it", 30)
            below = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(150)  # Serve drains for 30 s by default
    assert psutil.wait_procs(below, timeout=20)[1] == []
