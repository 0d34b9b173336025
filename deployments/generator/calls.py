"""Brings the calls of functions into one form, whatever a backend makes of them; sans-I/O."""

from collections.abc import Callable, Sequence

import jsonschema_rs
import msgspec

from deployments.core.errors import BackendFailed, InvalidOutput
from deployments.core.schemas import validator
from deployments.core.tools import Toolbox, ToolCall
from deployments.generator.sse import CallPiece

MAX_CALLS = 128
"""Calls in one answer."""


class Calls:
    """Numbers calls from 0 in their order; each has an id and a name, which come once and first.

    Backends differ: some give no ids, some repeat id and name in every piece, some number all calls 0 and tell them apart by id.
    """

    def __init__(self, new_id: Callable[[], str]):
        self._new_id = new_id
        self._open: dict[int, tuple[int, str | None]] = {}
        self.count = 0

    def feed(self, pieces: Sequence[CallPiece]) -> list[CallPiece]:
        """The same pieces in that form; raises BackendFailed for a call without a name, or one too many."""
        return [self._piece(piece) for piece in pieces]

    def _piece(self, piece: CallPiece) -> CallPiece:
        place, known = self._open.get(piece.index, (-1, None))
        if place >= 0 and (not piece.id or piece.id == known):
            return CallPiece(place, None, None, piece.arguments)
        if not piece.name:
            raise BackendFailed("the model backend called a function without a name")
        if self.count == MAX_CALLS:
            raise BackendFailed(f"the model backend made more than {MAX_CALLS} calls")
        self._open[piece.index] = self.count, piece.id
        self.count += 1
        return CallPiece(self.count - 1, piece.id or self._new_id(), piece.name, piece.arguments)


class Sorted:
    """Tells calls of the caller's functions, which are shown as they come, from those of tools that headrace runs, which are gathered.

    Where there are tools of headrace's, whatever is no function of the caller's is theirs to answer for. Without parallel calls the
    first one counts.
    """

    def __init__(self, toolbox: Toolbox, calls: Calls):
        self._calls, self._most = calls, 1 if toolbox.parallel is False else MAX_CALLS
        self._strict = {tool.name: tool.parameters for tool in toolbox.tools if tool.strict and tool.parameters and not tool.ours}
        self._theirs = {tool.name for tool in toolbox.tools if not tool.ours}
        self._all_theirs = not any(tool.ours for tool in toolbox.tools) and not toolbox.allowed
        self._shown: dict[int, int] = {}
        self._gathered: dict[int, ToolCall] = {}

    @property
    def count(self) -> int:
        """Calls so far."""
        return self._calls.count

    @property
    def ours(self) -> tuple[ToolCall, ...]:
        """The calls of tools that headrace runs."""
        return tuple(call for place, call in self._gathered.items() if place not in self._shown)

    def feed(self, pieces: Sequence[CallPiece]) -> list[CallPiece]:
        """What is new of the caller's functions, numbered from 0; raises BackendFailed."""
        shown: list[CallPiece] = []
        for piece in self._calls.feed(pieces):
            if piece.index >= self._most:
                continue
            if piece.name is not None:
                self._gathered[piece.index] = ToolCall(piece.id or "", piece.name, "")
                if self._all_theirs or piece.name in self._theirs:
                    self._shown[piece.index] = len(self._shown)
            call = self._gathered[piece.index]
            if piece.index in self._shown:
                shown.append(CallPiece(self._shown[piece.index], piece.id, piece.name, piece.arguments))
            if piece.index not in self._shown or call.name in self._strict:
                self._gathered[piece.index] = msgspec.structs.replace(call, arguments=call.arguments + piece.arguments)
        return shown

    def check(self) -> None:
        """Raises InvalidOutput where the arguments of a strict function do not fit its schema."""
        for place in self._shown:
            call = self._gathered[place]
            if schema := self._strict.get(call.name):
                try:
                    validator(schema).validate(msgspec.json.decode(call.arguments))
                except (jsonschema_rs.ValidationError, ValueError, RecursionError):
                    raise InvalidOutput(f"the model's arguments for '{call.name}' do not fit its schema") from None
