"""The smallest application the supervisor can serve: health, an echo, a stream and the process it runs in."""

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from ray import serve
from ray.serve import Application

from deployments.core.config import Settings

api = FastAPI()


@serve.deployment(name="gateway", ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=1000, health_check_period_s=2)
@serve.ingress(api)
class Gateway:
    def __init__(self, settings: Settings):
        self.settings = settings

    @api.get("/health")
    @api.get("/health/ready")
    async def health(self) -> dict[str, object]:
        return {"status": "ready", "stages": {"gateway": True}}

    @api.api_route("/echo/{rest:path}", methods=["GET", "POST"])
    async def echo(self, request: Request) -> JSONResponse:
        body = await request.body()
        return JSONResponse({"headers": dict(request.headers), "bytes": len(body), "pid": os.getpid()})

    @api.get("/valkey")
    async def valkey(self) -> dict[str, str]:
        url = self.settings.valkey_url
        return {"url": url.get_secret_value() if url else ""}

    @api.get("/stream")
    async def stream(self, n: int = 20, pause_s: float = 0.05) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            for number in range(n):
                yield f"data: {number}\n\n"
                await asyncio.sleep(pause_s)

        return StreamingResponse(pieces(), media_type="text/event-stream")


def build(settings: Settings) -> Application:
    return Gateway.bind(settings)
