"""How many tokens a model reads: by its own vocabulary where set-up has built one, else an upper estimate."""

import asyncio
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from deployments.core.tools import Toolbox
from deployments.core.types import Message

_LONG_CHARS = 20_000
"""Longer texts are counted in a thread; this many take about 10 ms."""

_WORDS = b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Of these, running text has four to a token; two are counted. Of other bytes each may be a token: digits, signs, what is not ASCII."""


class Frame(msgspec.Struct, frozen=True):
    """What a model's chat template adds, in tokens: once, to each message, and once more where no message is the system's."""

    once: int = 4
    each: int = 6
    no_system: int = 0


class Vocabulary:
    """Counts for one model. `path` holds a vocabulary for `tokenizers`, and beside it the frame of the chat template."""

    def __init__(self, path: Path | None):
        self._path = path

    @property
    def exact(self) -> bool:
        """Whether it counts as the model does."""
        return self._vocabulary is not None

    async def count(self, messages: Sequence[Message], toolbox: Toolbox | None = None) -> int:
        """Tokens of a prompt."""
        texts = [message.content for message in messages]
        texts += [call.name + call.arguments for message in messages for call in message.calls]
        texts += [f"{tool.name} {tool.description} {(tool.parameters or b'').decode()}" for tool in (toolbox.tools if toolbox else ())]
        frame = self._frame
        extra = (
            frame.once + frame.each * len(texts) + (0 if any(one.role in ("system", "developer") for one in messages) else frame.no_system)
        )
        return extra + await self.of(texts)

    async def warm(self) -> None:
        """Read the vocabulary, in a thread, before the first prompt needs it."""
        await asyncio.to_thread(lambda: (self._vocabulary, self._frame))

    async def of(self, texts: Sequence[str]) -> int:
        """Tokens of some texts."""
        if self._vocabulary is None:
            return sum(_most(text.encode()) for text in texts)
        if sum(map(len, texts)) > _LONG_CHARS:
            return await asyncio.to_thread(self._encode, texts)
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> int:
        assert self._vocabulary is not None  # noqa: S101 - asked before
        return sum(len(one.ids) for one in self._vocabulary.encode_batch_fast(list(texts), add_special_tokens=False))

    @cached_property
    def _vocabulary(self) -> Tokenizer | None:
        return Tokenizer.from_file(str(self._path)) if self._path and self._path.exists() else None

    @cached_property
    def _frame(self) -> Frame:
        beside = self._path.with_suffix(".frame.json") if self._path else None
        return msgspec.json.decode(beside.read_bytes(), type=Frame) if beside and beside.exists() else Frame()


def _most(text: bytes) -> int:
    """More tokens than any tokenizer in use makes of a text."""
    others = len(text.translate(None, _WORDS))
    return others + (len(text) - others + 1) // 2
