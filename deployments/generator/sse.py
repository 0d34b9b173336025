"""A sans-I/O reader of an OpenAI-compatible event stream that decodes only what the relay needs.

Takes bytes cut anywhere; understands LF and CRLF, comments, a byte order mark and several `data:` lines per event.
"""

import msgspec

from deployments.core.errors import BackendFailed
from deployments.core.types import Logprob, Usage

_MAX_EVENT_BYTES = 1 << 20
"""An event larger than this is not one; it bounds the memory a broken backend can take."""


class CallPiece(msgspec.Struct, frozen=True):
    """A piece of the call of a function; id and name come with the first."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class Seam(msgspec.Struct, frozen=True):
    """The place in an answer where one backend broke off, and why; what follows is another's, which was shown `shown` of the answer."""

    code: str
    shown: str = ""


class Piece(msgspec.Struct, frozen=True):
    """What one read brought: text with its tokens' probabilities, calls, and once the model has ended why; usage may come after that.

    `chunks` counts events with text, which for most backends is the number of tokens. A `seam` comes before all that.
    """

    text: str = ""
    calls: tuple[CallPiece, ...] = ()
    logprobs: tuple[Logprob, ...] = ()
    chunks: int = 0
    reason: str | None = None
    usage: Usage | None = None
    done: bool = False
    seam: Seam | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None


class _Token(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: "list[_Token] | None" = None

    def told(self) -> Logprob:
        return Logprob(self.token, self.logprob, tuple(other.told() for other in self.top_logprobs or ()))


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


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
        self._failure: BackendFailed | None = None

    def feed(self, received: bytes) -> Piece:
        """What these bytes complete, as one piece; what stands in front of what is no answer comes first."""
        if self._failure:
            raise self._failure
        lines = (self._rest + received).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) + self._waiting_bytes > _MAX_EVENT_BYTES:
            raise BackendFailed("the model backend sent an event without an end")
        texts: list[str] = []
        calls: list[CallPiece] = []
        logprobs: list[Logprob] = []
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
                return Piece("".join(texts), tuple(calls), tuple(logprobs), len(texts), reason, usage, done=True)
            try:
                chunk = _parse(data)
            except BackendFailed as error:
                if not (texts or calls or reason):
                    raise
                self._failure = error
                break
            if chunk.choices:
                choice = chunk.choices[0]
                if choice.delta.content:
                    texts.append(choice.delta.content)
                if choice.delta.tool_calls:
                    calls += [_call(call) for call in choice.delta.tool_calls]
                if choice.logprobs:
                    logprobs += [token.told() for token in choice.logprobs.content or ()]
                reason = choice.finish_reason or reason
            usage = chunk.usage or usage
        return Piece("".join(texts), tuple(calls), tuple(logprobs), len(texts), reason, usage)


def _call(call: _Call) -> CallPiece:
    function = call.function or _Function()
    return CallPiece(call.index, call.id, function.name, function.arguments or "")


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
