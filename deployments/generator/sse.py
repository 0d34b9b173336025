"""A sans-I/O reader of an OpenAI-compatible event stream that decodes only what the relay needs.

Takes bytes cut anywhere; understands LF and CRLF, comments, a byte order mark and several `data:` lines per event.
"""

import msgspec

from deployments.core.errors import BackendFailed
from deployments.core.types import Usage

_MAX_EVENT_BYTES = 1 << 20
"""An event larger than this is not one; it bounds the memory a broken backend can take."""


class Piece(msgspec.Struct, frozen=True):
    """What one read brought: text, and once the model has ended why; usage may come after that."""

    text: str = ""
    reason: str | None = None
    usage: Usage | None = None
    done: bool = False


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: dict[str, object] | str | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class EventReader:
    """Feed it bytes, get what they say; raises BackendFailed where they are no answer."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._waiting_bytes = 0
        self._started = False

    def feed(self, received: bytes) -> Piece:
        """What these bytes complete, as one piece."""
        lines = (self._rest + received).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) + self._waiting_bytes > _MAX_EVENT_BYTES:
            raise BackendFailed("the model backend sent an event without an end")
        texts: list[str] = []
        reason: str | None = None
        usage: Usage | None = None
        for line in lines:
            if not self._started:
                line, self._started = line.removeprefix(b"\xef\xbb\xbf"), True
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._waiting_bytes += len(line)
            if line or not self._data:
                continue
            data, self._data, self._waiting_bytes = b"\n".join(self._data), [], 0
            if data.strip() == b"[DONE]":
                return Piece("".join(texts), reason, usage, done=True)
            chunk = _parse(data)
            if chunk.choices:
                choice = chunk.choices[0]
                if choice.delta.content:
                    texts.append(choice.delta.content)
                reason = choice.finish_reason or reason
            usage = chunk.usage or usage
        return Piece("".join(texts), reason, usage)


def _parse(data: bytes) -> _Chunk:
    try:
        chunk = _decode(data)
    except msgspec.MsgspecError as error:
        raise BackendFailed("the model backend sent something that is not a chat completion chunk") from error
    except UnicodeDecodeError as error:
        raise BackendFailed("the model backend sent text that is not UTF-8") from error
    if chunk.error:
        raise BackendFailed("the model backend reported an error while answering")
    return chunk
