"""Input and output items of the Responses API, and the messages they mean."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from pydantic import WithJsonSchema

from deployments.core.errors import InvalidRequest, Unsupported
from deployments.core.ids import new_id
from deployments.core.images import Image
from deployments.core.responses import Item
from deployments.core.tools import ToolCall, offered
from deployments.core.types import Message, Role
from deployments.gateway.pictures import picture
from deployments.gateway.wire import MAX_PARTS

_TEXTS = ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text")
_PREFIXES = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "file_search_call": "fs_",
    "reasoning": "rs_",
    "item_reference": "ref_",
    "mcp_call": "mcp_",
    "mcp_approval_request": "mcpr_",
    "mcp_approval_response": "mcpa_",
}
MAX_ID_CHARS = 256
"""The id of a call, or the name of its function."""

MAX_DEPTH = 64
"""How deep values may nest that are passed on as they are: each is encoded and decoded several times, at the depth of whatever stack."""


def _item(kind: str, **fields: dict[str, Any]) -> dict[str, Any]:
    properties = {"type": {"const": kind}} | fields
    return {"type": "object", "properties": properties, "required": [*fields] if kind == "message" else [*properties]}


_TEXT: dict[str, Any] = {"type": "string"}
_PARTS = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "object", "properties": {"type": {"const": "input_text"}, "text": _TEXT}, "required": ["type", "text"]},
}
_WORDS: dict[str, Any] = {"anyOf": [_TEXT, _PARTS]}
RawItem = Annotated[
    dict[str, Any],
    WithJsonSchema(
        {
            "anyOf": [
                _item("message", role={"enum": ["user", "assistant", "system", "developer"]}, content=_WORDS),
                _item("function_call", call_id=_TEXT, name=_TEXT, arguments=_TEXT),
                _item("function_call_output", call_id=_TEXT, output=_WORDS),
                _item("item_reference", id=_TEXT),
                _item("reasoning", summary={"type": "array", "items": {"type": "object"}}),
                _item("file_search_call", queries={"type": "array", "items": _TEXT}),
                _item("mcp_approval_response", approval_request_id=_TEXT, approve={"type": "boolean"}),
            ]
        }
    ),
]
"""An item as it is sent; `normalised` reads it."""

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def normalised(raw: object, place: str) -> Item:
    """An input item in the shape in which it is stored, under an id of ours; raises InvalidRequest or Unsupported."""
    if not isinstance(raw, dict):
        raise InvalidRequest(f"{place} is an object", param=place, code="invalid_value")
    item: dict[str, Any] = {str(name): value for name, value in raw.items()}
    kind = str(item.get("type") or "message")
    if kind not in _PREFIXES:
        raise Unsupported(f"items of type '{kind[:64]}' are not supported", param=f"{place}.type", code="unsupported_value")
    made = _SHAPES[kind](item, place)
    name = new_id(_PREFIXES[kind])
    return Item(name, encoded({"id": name, "type": kind} | made, place))


def encoded(value: object, param: str) -> bytes:
    """JSON of a value that is passed on as it came; raises InvalidRequest where no JSON can hold it, or it nests too deep."""
    try:
        if _depth(value) <= MAX_DEPTH:
            return msgspec.json.encode(value)
    except (ValueError, RecursionError):  # half of a surrogate pair, or deeper than the stack
        pass
    raise InvalidRequest(f"{param} is not JSON in UTF-8 of at most {MAX_DEPTH} levels", param=param, code="invalid_value") from None


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _message(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"role is one of {', '.join(_ROLES)}", param=f"{place}.role", code="invalid_value")
    kind = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        return {"role": role, "status": "completed", "content": [_part({"type": kind, "text": content}, kind, f"{place}.content")]}
    if not isinstance(content, list) or not content:
        raise InvalidRequest("content is text or a list of parts", param=f"{place}.content", code="invalid_value")
    sees = role == "user"
    parts = [_part(part, kind, f"{place}.content[{number}]", sees) for number, part in enumerate(_few(content, f"{place}.content"))]
    return {"role": role, "status": "completed", "content": parts}


def _part(part: object, kind: str, place: str, sees: bool = False) -> dict[str, Any]:
    name = _kind(part)
    if isinstance(part, dict) and name == "input_image" and sees:
        return _image(part, place)
    if not isinstance(part, dict) or name not in ("input_text", "output_text", "text", "refusal"):
        message = f"parts of type '{str(name)[:64]}' are not supported; send text"
        raise Unsupported(message, param=f"{place}.type", code="unsupported_value")
    if name == "refusal":
        return {"type": "refusal", "refusal": _text(part, "refusal", place)}
    made: dict[str, Any] = {"type": kind, "text": _text(part, "text", place)}
    if kind == "output_text":
        made |= {"annotations": _those(part, "annotations", dict, place), "logprobs": []}
    return made


def _image(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    if part.get("file_id"):
        raise Unsupported("images of files are not supported; send a data URL", param=f"{place}.file_id")
    detail = part.get("detail") or "auto"
    if detail not in ("auto", "low", "high"):
        raise InvalidRequest("detail is auto, low or high", param=f"{place}.detail", code="invalid_value")
    url = _text(part, "image_url", place)
    picture(url, detail, f"{place}.image_url")
    return {"type": "input_image", "image_url": url, "detail": detail}


def _kind(part: object) -> object:
    return part.get("type") if isinstance(part, dict) else None


def first_image(items: Sequence[dict[str, Any]]) -> str | None:
    """The first part of some items, as they are sent, that is an image, as errors name it."""
    for place, item in enumerate(items):
        content = item.get("content")
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if _kind(part) == "input_image":
                return f"input[{place}].content[{number}]"
    return None


def _call(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    fields = {"call_id": _text(item, "call_id", place, MAX_ID_CHARS), "name": _text(item, "name", place, MAX_ID_CHARS)}
    fields["arguments"] = _text(item, "arguments", place)
    return fields | {"status": "completed"}


def _output(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    output = item.get("output")
    if isinstance(output, list):
        parts = [_part(part, "input_text", f"{place}.output[{number}]") for number, part in enumerate(_few(output, f"{place}.output"))]
        return {"call_id": _text(item, "call_id", place, MAX_ID_CHARS), "output": parts, "status": "completed"}
    return {"call_id": _text(item, "call_id", place, MAX_ID_CHARS), "output": _text(item, "output", place), "status": "completed"}


def _search(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    return {"status": "completed", "queries": _those(item, "queries", str, place), "results": None}


def _reasoning(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    return {"summary": _those(item, "summary", dict, place)}


def _served(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    fields = {name: _text(item, name, place, MAX_ID_CHARS) for name in ("server_label", "name")}
    fields["arguments"] = _text(item, "arguments", place)
    output = _text(item, "output", place) if item.get("output") is not None else None
    return fields | {"output": output, "error": None, "approval_request_id": None, "status": "completed"}


def _request(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    fields = {name: _text(item, name, place, MAX_ID_CHARS) for name in ("server_label", "name")}
    return fields | {"arguments": _text(item, "arguments", place)}


def _approval(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    if not isinstance(item.get("approve"), bool):
        raise InvalidRequest(f"{place}.approve is true or false", param=f"{place}.approve", code="missing_required_parameter")
    return {"approval_request_id": _text(item, "approval_request_id", place, MAX_ID_CHARS), "approve": item["approve"], "reason": None}


def _reference(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    if not (name := _text(item, "id", place, MAX_ID_CHARS)):
        raise InvalidRequest(f"{place}.id names an item", param=f"{place}.id", code="invalid_value")
    return {"names": name}


_SHAPES = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "file_search_call": _search,
    "reasoning": _reasoning,
    "item_reference": _reference,
    "mcp_call": _served,
    "mcp_approval_request": _request,
    "mcp_approval_response": _approval,
}


def _those(item: Mapping[str, Any], name: str, kind: type, place: str) -> list[Any]:
    """The elements of a list that are of the kind they should be; clients read nothing else there."""
    value = item.get(name)
    return [one for one in _few(value, f"{place}.{name}") if isinstance(one, kind)] if isinstance(value, list) else []


def _few(values: list[Any], place: str) -> list[Any]:
    """A list that is not too long; raises InvalidRequest."""
    if len(values) > MAX_PARTS:
        raise InvalidRequest(f"{place} has at most {MAX_PARTS} elements", param=place, code="invalid_value")
    return values


def _text(item: Mapping[str, Any], name: str, place: str, most_chars: int | None = None) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{place}.{name}: text is required", param=f"{place}.{name}", code="missing_required_parameter")
    if most_chars is not None and len(value) > most_chars:
        raise InvalidRequest(f"{place}.{name} has at most {most_chars} characters", param=f"{place}.{name}", code="invalid_value")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("half of a surrogate pair is no text", param=f"{place}.{name}", code="invalid_value") from None
    return value


def reference(item: Item) -> str | None:
    """The id that an `item_reference` names; None for any other item."""
    shape = msgspec.json.decode(item.body)
    return shape["names"] if shape["type"] == "item_reference" else None


def messages(bodies: Sequence[bytes]) -> tuple[Message, ...]:
    """The messages that some items mean: calls that follow each other are one message of the assistant, searches are none."""
    said: list[Message] = []
    for body in bodies:
        item = msgspec.json.decode(body)
        match item["type"]:
            case "message":
                said.append(Message(_ROLES[item["role"]], words(item["content"]), images=_images(item["content"])))
            case "function_call":
                _add(said, ToolCall(item["call_id"], item["name"], item["arguments"]))
            case "mcp_call" if item["output"] is not None:
                _add(said, ToolCall(item["id"], offered(item["server_label"], item["name"]), item["arguments"]))
                said.append(Message("tool", item["output"], call_id=item["id"]))
            case "function_call_output":
                output = item["output"]
                said.append(Message("tool", output if isinstance(output, str) else words(output), call_id=item["call_id"]))
            case _:
                pass
    return tuple(said)


def _images(parts: Sequence[Mapping[str, Any]]) -> tuple[Image, ...]:
    seen = [part for part in parts if part.get("type") == "input_image"]
    return tuple(picture(part["image_url"], part["detail"], "input") for part in seen)


def approvals(inputs: Sequence[Item]) -> dict[str, bool]:
    """What some items say to requests for approval, by the ids of the requests; the last word on each counts."""
    shapes = [msgspec.json.decode(item.body) for item in inputs]
    return {one["approval_request_id"]: one["approve"] for one in shapes if one["type"] == "mcp_approval_response"}


def _add(said: list[Message], call: ToolCall) -> None:
    """Put a call to the message it belongs to, or into one of its own."""
    if said and said[-1].role == "assistant":
        said[-1] = msgspec.structs.replace(said[-1], calls=(*said[-1].calls, call))
    else:
        said.append(Message("assistant", "", (call,)))


def words(parts: Sequence[Mapping[str, Any]]) -> str:
    """The text of some parts."""
    return "\n".join(str(part.get("text") or part.get("refusal") or "") for part in parts if part.get("type") in _TEXTS)


def page(items: Sequence[Item], limit: int) -> bytes:
    """A page of at most `limit` items, of which one more was looked up to know whether there is more."""
    shown = items[:limit]
    ids = [shown[0].id, shown[-1].id] if shown else [None, None]
    more = b"true" if len(items) > limit else b"false"
    fields = (b",".join(item.body for item in shown), *(msgspec.json.encode(name) for name in ids), more)
    return b'{"object":"list","data":[%b],"first_id":%b,"last_id":%b,"has_more":%b}' % fields
