"""Calling a model: any OpenAI-compatible endpoint through the `openai` client, read as raw bytes."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import aiohttp
import httpx2
import msgspec
import openai
from openai import AsyncOpenAI, AsyncStream, DefaultAioHttpClient
from openai.types.chat import ChatCompletionChunk

from deployments.core import config
from deployments.core.errors import (
    BackendFailed,
    ContextTooLong,
    DeadlineExceeded,
    HeadraceError,
    InvalidRequest,
    Overloaded,
    Throttled,
    Unreachable,
)
from deployments.core.estimate import estimate
from deployments.core.images import Image
from deployments.core.patience import Patience
from deployments.core.spans import TRACEPARENT, here
from deployments.core.tools import Tool, Toolbox
from deployments.core.types import Generation, Message, Sampling
from deployments.generator.grammar import quoting
from deployments.generator.sse import EventReader, Piece
from deployments.generator.tight import tight

_logger = logging.getLogger("headrace.generator")

_LONGEST_RETRY_AFTER_S = 60.0
_BUSY = "the model backend is overloaded"


class Backend:
    """One OpenAI-compatible endpoint. Retries are not its business: each call is one attempt."""

    def __init__(
        self, base_url: str, api_key: str, model: str, settings: config.Generator, *, embedded: bool = False, grammar: bool = True
    ):
        """`embedded` is the small model of ours, to which schemas are handed more tightly than they were asked for.

        Without `grammar` it does not take llama.cpp's, and answers from the passages in words of its own.
        """
        self._embedded, self._grammar = embedded, grammar
        self._model = model
        self._settings = settings
        timeout = openai.Timeout(None, connect=settings.connect_timeout_s)
        http = DefaultAioHttpClient(timeout=timeout, follow_redirects=False)
        self._client = AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=timeout, http_client=http)

    async def stream(self, generation: Generation, said: str, last: float) -> AsyncGenerator[Piece]:
        """The pieces of one answer, the last with `done`, going on behind what the model has `said`; until `last`, by the loop's clock.

        Raises ContextTooLong, InvalidRequest, Overloaded, BackendFailed or DeadlineExceeded.
        Closing the iterator closes the connection, which ends the generation.
        """
        loop = asyncio.get_running_loop()
        until = min(last, loop.time() + self._settings.first_token_timeout_s)
        request, reader = self._request(generation, said), EventReader()
        try:
            async with Patience(until) as limit, self._open(request) as response:
                async for received in response.aiter_bytes():
                    piece = reader.feed(received)
                    given, limit.until = loop.time(), Patience.never
                    yield piece
                    if piece.done:
                        return
                    if piece.text or piece.calls:
                        until = loop.time() + self._settings.inter_token_timeout_s
                    else:
                        until += loop.time() - given  # what its reader took is not the backend's
                    limit.until = min(last, until)
        except openai.APIStatusError as error:
            raise _refused(error) from error
        except openai.APIConnectionError as error:
            _logger.warning("the backend can't be reached: %s", error)
            if isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout):
                raise Unreachable("the model backend can't be reached", retry_after_s=2) from error
            raise BackendFailed("the connection to the model backend broke") from error
        except TimeoutError:
            raise DeadlineExceeded("the model backend took too long") from None
        except (OSError, openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError) as error:
            raise BackendFailed("the connection to the model backend broke") from error
        raise BackendFailed("the model backend ended its answer too early")

    @asynccontextmanager
    async def _open(self, request: dict[str, Any]) -> AsyncGenerator[httpx2.Response]:
        """The response to a request.

        `post` instead of `chat.completions.create` saves the client's walk over the request's types, a sixth of a call.
        """
        kind = AsyncStream[ChatCompletionChunk]
        post = partial(self._client.post, "/chat/completions", cast_to=ChatCompletionChunk, body=request, stream=True, stream_cls=kind)
        trace = here()
        async with await post(options={"headers": {TRACEPARENT: trace}} if trace else {}) as stream:
            yield stream.response

    async def close(self) -> None:
        """Close idle connections."""
        await self._client.close()

    def _request(self, generation: Generation, said: str) -> dict[str, Any]:
        sampling, toolbox = generation.sampling, generation.toolbox
        messages = [_message(message) for message in generation.messages]
        free = toolbox.tools or sampling.owes_json  # these are held to a grammar of their own
        quotes = bool(generation.quotes) and self._grammar and not free
        limit = sampling.max_tokens or self._settings.default_max_tokens
        if said:  # the model goes on with a last message of its own
            messages.append({"role": "assistant", "content": said})
            limit = max(1, limit - estimate(said))
        wanted: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": limit,
            "temperature": 0.0 if quotes and sampling.temperature is None else sampling.temperature,
            "top_p": sampling.top_p,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "logprobs": None if sampling.top_logprobs is None else True,
            "top_logprobs": sampling.top_logprobs or None,
            "response_format": _format(sampling, tightly=self._embedded),
            "tools": [_tool(tool) for tool in toolbox.tools] or None,
            "tool_choice": _choice(toolbox) if toolbox.tools else None,
            "parallel_tool_calls": toolbox.parallel,
            "grammar": quoting(generation.quotes, said=said) if quotes else None,
        }
        return {name: value for name, value in wanted.items() if value is not None}


def _message(message: Message) -> dict[str, Any]:
    if message.call_id is not None:
        return {"role": "tool", "content": message.content, "tool_call_id": message.call_id}
    if message.images:
        text = [{"type": "text", "text": message.content}] if message.content else []
        return {"role": message.role, "content": [*text, *(_image(one) for one in message.images)]}
    if not message.calls:
        return {"role": message.role, "content": message.content}
    functions = [{"name": call.name, "arguments": call.arguments} for call in message.calls]
    calls = [{"id": call.id, "type": "function", "function": f} for call, f in zip(message.calls, functions, strict=True)]
    return {"role": message.role, "content": message.content or None, "tool_calls": calls}


def _image(image: Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": image.url} | ({"detail": image.detail} if image.detail else {})}


def _format(sampling: Sampling, *, tightly: bool) -> dict[str, Any] | None:
    if (asked := sampling.schema) is None:
        return {"type": "json_object"} if sampling.json_object else None
    plain = msgspec.json.decode(asked.schema)
    fields = {"name": asked.name, "description": asked.description, "strict": asked.strict}
    schema = {name: value for name, value in fields.items() if value is not None} | {"schema": tight(plain) if tightly else plain}
    return {"type": "json_schema", "json_schema": schema}


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = None if tool.parameters is None else msgspec.json.decode(tool.parameters)
    fields = {"name": tool.name, "description": tool.description, "parameters": parameters, "strict": tool.strict}
    return {"type": "function", "function": {name: value for name, value in fields.items() if value is not None}}


def _choice(toolbox: Toolbox) -> Any:
    if toolbox.choice and toolbox.choice.startswith("="):
        return {"type": "function", "function": {"name": toolbox.choice[1:]}}
    return toolbox.choice


def _refused(error: openai.APIStatusError) -> HeadraceError:
    """What a refusal of the backend means to our caller; its own words stay in our log."""
    _logger.warning("the backend answered %s: %s", error.status_code, error.message[:500])
    if error.status_code in (429, 503, 529):
        pause_s = _retry_after(error)
        return Overloaded(_BUSY, retry_after_s=1.0) if pause_s is None else Throttled(_BUSY, retry_after_s=pause_s)
    if error.status_code in (400, 413, 422):
        words = f"{error.code} {error.message}".lower()
        if "context" in words or "too long" in words or "too large" in words:
            return ContextTooLong("the messages are longer than the model's context", param="messages")
        return InvalidRequest("the model backend does not take this request")
    return BackendFailed("the model backend refused the call")


def _retry_after(error: openai.APIStatusError) -> float | None:
    """What the backend asks for, in seconds: `retry-after-ms`, or `retry-after` as a number or a date (RFC 9110, 10.2.3)."""
    headers = error.response.headers
    for asked, unit in ((headers.get("retry-after-ms"), 1000.0), (headers.get("retry-after"), 1.0)):
        pause_s = None if asked is None else _seconds(asked, unit)
        if pause_s is not None:
            return min(max(pause_s, 0.1), _LONGEST_RETRY_AFTER_S)
    return None


def _seconds(asked: str, unit: float) -> float | None:
    try:
        pause_s = float(asked) / unit
    except ValueError:
        try:
            pause_s = parsedate_to_datetime(asked).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(pause_s) else pause_s
