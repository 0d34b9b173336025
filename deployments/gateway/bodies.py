"""JSON bodies as they are read: strict UTF-8, no name twice, no number that is none, and no more names than anybody needs."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from deployments.gateway.context import Caller, asks, meet

MAX_VALUES = 30_000
"""Objects, lists and what stands in them; to read a million would hold up everybody else for a second."""

LONG_VALUES = 120_000
"""The same where a filter may hold a hundred thousand of them, of which an allowed body has room for little more."""

MAX_DIGITS = 400
"""Characters of a number: the smallest float takes 330 when written out, and to read an integer takes the square of its length."""


class Body(Request):
    """A request whose JSON is read by `parse`."""

    most_values = MAX_VALUES

    async def json(self) -> Any:
        """The body; raises JSONDecodeError."""
        if not hasattr(self, "_json"):
            self._json = parse(await self.body(), self.most_values)
        return self._json


class LongBody(Body):
    """A request that may hold more."""

    most_values = LONG_VALUES


class BodyRoute(APIRoute):
    """A route whose JSON is read by `parse`, and only once its caller is known, where it asks for one."""

    body: type[Body] = Body

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given a `Body`."""
        handle = super().get_route_handler()
        keyed = self.body_field is not None and asks(self.dependant, Caller)

        async def handler(request: Request) -> Response:
            if keyed:
                await meet(request)
            return await handle(self.body(request.scope, request.receive))

        return handler


class LongBodyRoute(BodyRoute):
    """The same for a longer list of values."""

    body = LongBody


def parse(body: bytes | str, most_values: int = MAX_VALUES) -> Any:
    """The value of a JSON text; raises JSONDecodeError where it is none, nests deeper than the stack or repeats a name (RFC 8259, 4)."""
    try:
        text = body if isinstance(body, str) else body.decode()
        if _values(text) > most_values and _values(_bare(text)) > most_values:
            raise _wrong(f"more than {most_values} values")
        return json.loads(text, object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_constant)
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError:
        raise _wrong("not UTF-8") from None
    except RecursionError:
        raise _wrong("nested too deep") from None


def _values(text: str) -> int:
    return text.count(",") + text.count("{") + text.count("[")


def _bare(text: str) -> str:
    """JSON without its strings."""
    return "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise _wrong("a name stands twice in one object")
    return made


def _integer(digits: str) -> int:
    return int(_number(digits))


def _float(digits: str) -> float:
    return float(_number(digits))


def _number(digits: str) -> str:
    if len(digits) > MAX_DIGITS:
        raise _wrong(f"a number has more than {MAX_DIGITS} digits")
    return digits


def _constant(name: str) -> float:
    raise _wrong(f"{name} is no number")


def _wrong(why: str) -> json.JSONDecodeError:
    return json.JSONDecodeError(why, "", 0)
