"""Approvals of calls of tools, as a request gives them: each with what was asked for, as our own record has it."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from deployments.core.errors import InvalidRequest, NotFound
from deployments.core.responses import Item
from deployments.core.store import TenantStore
from deployments.core.tools import Approval
from deployments.gateway.items import approvals

_MOST = 16
_KIND = "mcp_approval_request"


async def approved(mine: TenantStore, snapshot: Mapping[str, Any], inputs: Sequence[Item]) -> tuple[Approval, ...]:
    """What the caller says to calls it was asked about; raises InvalidRequest for a request that is not on record, or out of place.

    The place is the conversation, or the response before; what the call was is read from the record, not from the caller.
    """
    answers = approvals(inputs)
    if not answers:
        return ()
    origin = snapshot["conversation"]["id"] if snapshot["conversation"] else snapshot["previous_response_id"]
    if len(answers) > _MOST or not origin:
        message = f"at most {_MOST} approvals, each with the conversation or the previous_response_id where it was asked for"
        raise InvalidRequest(message, param="input", code="invalid_approval")
    found: list[Approval] = []
    for name, granted in answers.items():
        try:
            asked = msgspec.json.decode((await mine.responses.item(name)).body)
        except NotFound:
            asked = {"type": ""}
        if asked["type"] != _KIND:
            raise InvalidRequest("no request for approval with that id", param="input", code="invalid_approval")
        found.append(Approval(name, asked["server_label"], asked["name"], asked["arguments"], granted, origin))
    return tuple(found)
