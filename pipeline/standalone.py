"""What the application needs when plain `serve run` or `serve deploy` starts it; `headrace serve` brings the same by itself."""

import asyncio
import logging
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, cast

import ray
from pydantic import SecretStr

from deployments.core.config import Settings, environment
from pipeline import setup, valkey, vocabulary
from pipeline.child import die_with_parent

_logger = logging.getLogger("headrace")

FLAGS = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_AUTH_MODE": "token"}
"""Read when Ray and Serve are imported; without the first two a stream costs several times as much."""


def stand(settings: Settings) -> Settings:
    """The settings under which the stages may start: the database is prepared, the data folder absolute, and there is a Valkey.

    Where none is named, one is started that lives as long as the Ray cluster. Doing so again changes nothing. Raises RuntimeError
    where none is named and the cluster has several nodes, which could not all reach ours.
    """
    if missing := [f"{name}={value}" for name, value in FLAGS.items() if environment().get(name) != value]:
        _logger.warning("Ray was started without %s", " ".join(missing))
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    setup.prepare(settings)
    vocabulary.build(settings)
    if settings.valkey_url is not None:
        return settings
    if (nodes := len(ray.nodes())) > 1:
        raise RuntimeError(f"the cluster has {nodes} nodes: name a Valkey or Redis that all of them reach in HEADRACE_VALKEY_URL")
    return settings.model_copy(update={"valkey_url": SecretStr(ray.get(_keeper(settings).url.remote()))})


def _keeper(settings: Settings) -> Any:
    """The actor that keeps the Valkey of this data folder."""
    name, namespace = f"valkey of {settings.data_dir}", "headrace"
    try:
        return ray.get_actor(name, namespace)
    except ValueError:
        folder = Path(tempfile.mkdtemp(prefix="hr-"))  # private, and short enough for a socket
        keeper = cast(Any, ray.remote(Keeper)).options(name=name, namespace=namespace, lifetime="detached", num_cpus=0, max_restarts=-1)
        return keeper.remote(folder, settings.data_dir, settings.node.valkey_bytes)


class Keeper:
    """An actor that is a Valkey as far as Ray is concerned: it ends with it, and Ray starts both again under the same URL."""

    def __init__(self, folder: Path, secrets: Path, memory_bytes: int):
        self._server = valkey.configure(folder, secrets, memory_bytes)
        process = subprocess.Popen(self._server.argv, preexec_fn=die_with_parent)
        threading.Thread(target=lambda: os._exit(process.wait() or 1), daemon=True).start()
        asyncio.run(self._rise())

    async def _rise(self) -> None:
        while not await self._server.up():
            await asyncio.sleep(0.02)

    def url(self) -> str:
        """What the application connects to."""
        return self._server.url
