"""The snippets of docs/transports.md run as they stand."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

PAGE = (Path(__file__).parents[2] / "docs" / "transports.md").read_text()


def snippets(language: str, stack: Stack) -> list[str]:
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    assert blocks
    return [block.replace("127.0.0.1:8000", f"127.0.0.1:{stack.port}") for block in blocks]


def test_the_python_snippets_run_one_after_the_other(stack: Stack) -> None:
    script = "\n".join(snippets("python", stack))
    environ = {"HEADRACE_API_KEY": stack.key, "PATH": "/usr/bin:/bin"}
    ran = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("w0 w1 w2") >= 2
    assert "response.completed" in ran.stdout


def test_the_shell_snippets_run_one_after_the_other(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    script = "\n".join(["set -eu", *snippets("bash", stack)])
    (tmp_path / ".headrace").symlink_to(stack.data_dir)
    ran = subprocess.run([shutil.which("bash") or "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("event: response.completed") == 1
    assert '"object":"list","data":[' in ran.stdout
