"""Holds an answer to the schema it was asked for, once it is whole; what does not fit is asked for once more, or is an error."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import jsonschema_rs
import msgspec

from deployments.core.errors import ContextTooLong, InvalidOutput
from deployments.core.estimate import length
from deployments.core.schemas import validator
from deployments.core.shape import Schema
from deployments.core.types import Generation, Message, Usage
from deployments.generator.sse import Piece

_MAX_WRONG_CHARS = 300
"""How much of what is wrong the model and the caller are told."""

Streams = Callable[[Generation], AsyncGenerator[Piece]]


async def structured(stream: Streams, generation: Generation) -> AsyncGenerator[Piece]:
    """The pieces of one answer; where a schema was asked for, its end comes only if it fits: raises InvalidOutput otherwise.

    A held answer comes in one piece, after a second round where the first was wrong. What the model broke off, because of its
    length or to call a function, is not looked at.
    """
    schema = generation.sampling.schema
    if schema is None or not schema.held:
        async with aclosing(_checked(stream(generation), schema)) as pieces:
            async for piece in pieces:
                yield piece
        return
    until = asyncio.get_running_loop().time() + generation.deadline_s
    whole = await _whole(stream(generation))
    if wrong := _wrong(schema, whole):
        left_s = max(0.0, until - asyncio.get_running_loop().time())
        again = msgspec.structs.replace(generation, messages=_asked_again(generation, whole.text, wrong), deadline_s=left_s)
        try:
            whole = _added(whole, await _whole(stream(again)))
        except ContextTooLong:  # with the wrong answer in it, not with what was asked
            raise _unfit(wrong).took(*_used(whole, generation)) from None
        if wrong := _wrong(schema, whole):
            raise _unfit(wrong).took(*_used(whole, again))
    yield whole


async def _checked(pieces: AsyncGenerator[Piece], schema: Schema | None) -> AsyncGenerator[Piece]:
    """Pieces as they come; raises InvalidOutput in place of the one that ends an answer that is wrong."""
    said, called = "", False
    async with aclosing(pieces):
        async for piece in pieces:
            if schema:
                said, called = said + piece.text, called or bool(piece.calls)
                if piece.reason and (wrong := _wrong(schema, Piece(said, piece.calls, reason="tool_calls" if called else piece.reason))):
                    raise _unfit(wrong)
            yield piece


async def _whole(pieces: AsyncGenerator[Piece]) -> Piece:
    """All pieces of an answer as one."""
    texts: list[str] = []
    whole = Piece(done=True)
    async with aclosing(pieces):
        async for piece in pieces:
            texts.append(piece.text)
            whole = Piece(
                calls=whole.calls + piece.calls,
                logprobs=whole.logprobs + piece.logprobs,
                chunks=whole.chunks + piece.chunks,
                reason=piece.reason or whole.reason,
                usage=piece.usage or whole.usage,
                done=True,
            )
    return msgspec.structs.replace(whole, text="".join(texts))


def _used(whole: Piece, generation: Generation) -> tuple[int, int]:
    """Tokens read and written for an answer, roughly where the backend did not say."""
    return (whole.usage.prompt_tokens, whole.usage.completion_tokens) if whole.usage else (length(generation.messages), whole.chunks)


def _wrong(schema: Schema, whole: Piece) -> str:
    """What is wrong with an answer; "" where nothing is, or it does not claim to be whole."""
    if whole.calls or whole.reason in ("length", "content_filter", "tool_calls"):
        return ""
    try:
        validator(schema.schema).validate(msgspec.json.decode(whole.text))
    except jsonschema_rs.ValidationError as error:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
        return f"{error.message} at ${place}"[:_MAX_WRONG_CHARS]
    except (ValueError, RecursionError):
        return "it is not JSON"
    return ""


def _unfit(wrong: str) -> InvalidOutput:
    return InvalidOutput(f"the model's answer does not fit the schema: {wrong}")


def _asked_again(generation: Generation, said: str, wrong: str) -> tuple[Message, ...]:
    """The conversation with the wrong answer, and what to do about it."""
    ask = f"That does not fit the JSON schema: {wrong}. Answer again, with the corrected JSON only."
    return (*generation.messages, Message("assistant", said), Message("user", ask))


def _added(first: Piece, second: Piece) -> Piece:
    """The second answer with the tokens of both, where both were told."""
    used = None
    if first.usage and second.usage:
        one, other = first.usage, second.usage
        used = Usage(one.prompt_tokens + other.prompt_tokens, one.completion_tokens + other.completion_tokens)
    return msgspec.structs.replace(second, usage=used, chunks=first.chunks + second.chunks)
