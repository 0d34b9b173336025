"""The bare Serve apps headrace is compared with: an ingress, one child, and nothing else.

`python -m loadtest.bench.baselines raw|parsed --upstream URL --port N --temp FOLDER` runs one until SIGTERM. The flags in
its environment (see `bare.py`) must be set before it starts.
"""

import argparse
import signal
import sys
from collections.abc import AsyncIterator
from types import FrameType
from typing import cast

import aiohttp
import orjson
import ray
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

STREAMS = 1024
"""Requests a replica takes at once; more than any bench sends."""

QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")

app = FastAPI()


@serve.deployment(max_ongoing_requests=STREAMS, ray_actor_options={"num_cpus": 0.1}, logging_config=QUIET)
class Raw:
    """Passes the upstream's bytes through as they come."""

    def __init__(self, upstream: str) -> None:
        self._url = f"{upstream}/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:  # it wants a running loop, which a constructor does not have
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session

    async def stream(self, body: bytes) -> AsyncIterator[bytes]:
        """Yield the upstream's bytes."""
        async with self._client().post(self._url, data=body) as reply:
            async for chunk in reply.content.iter_any():
                yield chunk

    async def whole(self, body: bytes) -> bytes:
        """Return the upstream's body."""
        async with self._client().post(self._url, data=body) as reply:
            return await reply.read()


@serve.deployment(max_ongoing_requests=STREAMS, ray_actor_options={"num_cpus": 0.1}, logging_config=QUIET)
class Parsed:
    """Reads the upstream with the `openai` client and writes every chunk anew."""

    def __init__(self, upstream: str) -> None:
        self._client = AsyncOpenAI(base_url=upstream, api_key="none", max_retries=0)

    async def stream(self, body: bytes) -> AsyncIterator[bytes]:
        """Yield one event a chunk."""
        async for chunk in await self._client.chat.completions.create(**orjson.loads(body)):
            yield f"data: {chunk.model_dump_json()}\n\n".encode()
        yield b"data: [DONE]\n\n"

    async def whole(self, body: bytes) -> bytes:
        """Return the answer, written anew."""
        answer = await self._client.chat.completions.create(**orjson.loads(body))
        return answer.model_dump_json().encode()


@serve.deployment(max_ongoing_requests=STREAMS, ray_actor_options={"num_cpus": 0.1}, logging_config=QUIET)
@serve.ingress(app)
class Ingress:
    """Hands each request to the child, and the child's bytes to the client."""

    def __init__(self, child: DeploymentHandle) -> None:
        self._child = child
        self._streaming = child.options(stream=True)

    @app.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        """Answer a chat request."""
        body = await request.body()
        if orjson.loads(body).get("stream"):
            chunks = cast(AsyncIterator[bytes], self._streaming.stream.remote(body))
            return StreamingResponse(chunks, media_type="text/event-stream")
        return Response(await self._child.whole.remote(body), media_type="application/json")


CHILDREN = {"raw": Raw, "parsed": Parsed}


def _leave(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run one app; a line `ready` on stdout says that it answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("child", choices=sorted(CHILDREN))
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--temp", required=True, help="a short path: Ray puts its sockets below it")
    options = parser.parse_args()
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=100_000_000,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=options.temp,
    )
    signal.signal(signal.SIGTERM, _leave)  # after Ray, which installs a handler of its own
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": options.port}, logging_config=QUIET)
        serve.run(Ingress.bind(CHILDREN[options.child].bind(options.upstream)), name="bare", logging_config=QUIET)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        signal.pause()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    finally:
        serve.shutdown()  # before Ray: a haproxy left behind keeps the port
        ray.shutdown()


if __name__ == "__main__":
    main()
