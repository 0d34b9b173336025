"""What models may call: functions of the caller's, and tools that headrace runs itself."""

from typing import Literal

import msgspec

Effect = Literal["read", "write", "egress"]
"""What a tool does beside giving an answer: nothing, a change within the house, or a message to somebody outside."""

OWN = "headrace"
"""The label of the tools that the settings name; those of an MCP server have the server's."""

TOOL_SCOPE = r"^tools:[a-z0-9_-]{1,56}$"
"""How the scopes of tools are named."""

MAX_NAME_CHARS = 64
"""What backends take for the name of a function."""


def offered(label: str, name: str) -> str:
    """What a model knows a tool of headrace's by."""
    return name if label == OWN else f"{label}__{name}"


class ToolCall(msgspec.Struct, frozen=True):
    """A call as the model asked for it; `arguments` is its JSON, unchecked."""

    id: str
    name: str
    arguments: str


class Tool(msgspec.Struct, frozen=True):
    """A function that the model may ask for; `parameters` is its JSON schema, encoded. `ours` are run by headrace."""

    name: str
    description: str | None = None
    parameters: bytes | None = None
    strict: bool | None = None
    ours: bool = False


class Selection(msgspec.Struct, frozen=True):
    """Tools of one label that a request allows: those named, or all; `reading` leaves those that only read.

    With `asking` each call is asked for, whatever it does.
    """

    label: str
    names: tuple[str, ...] | None = None
    reading: bool = False
    asking: bool = False


class Toolbox(msgspec.Struct, frozen=True):
    """The functions a turn may ask for. `choice` is `auto`, `none`, `required`, or `=name` for one function.

    `allowed` are the tools of headrace's beside them, of which `most_calls` may be made; `asks` says whether the caller can be asked
    to approve of calls.
    """

    tools: tuple[Tool, ...] = ()
    choice: str | None = None
    parallel: bool | None = None
    allowed: tuple[Selection, ...] = ()
    most_calls: int | None = None
    asks: bool = True

    @property
    def some(self) -> bool:
        """Whether there is anything to call."""
        return bool(self.tools or self.allowed)


class Approval(msgspec.Struct, frozen=True):
    """What the caller says to a call it was asked about: the request, word for word, and whether it may be made."""

    request_id: str
    label: str
    name: str
    arguments: str
    granted: bool
    origin: str
    """The conversation in which it was asked, or the response that asked."""


class Ran(msgspec.Struct, frozen=True, array_like=True, tag="u"):
    """A call of a tool of headrace's in a round of the answer (from 0; approved ones before it are round -1), and what it came to.

    One of `output` and `error` is not None. `approval_id` names the request by which it was allowed.
    """

    seq: int
    round: int
    call_id: str
    label: str
    name: str
    arguments: str
    output: str | None = None
    error: str | None = None
    approval_id: str | None = None


class Awaits(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """A call that is made only once the caller has approved of it."""

    seq: int
    id: str
    label: str
    name: str
    arguments: str
