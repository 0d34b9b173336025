"""Who asked for it is told where another backend took over."""

import msgspec

from deployments.core.types import Opened, Switched, Text
from deployments.gateway.events import ResponseEvents
from tests.gateway.test_response_events import encode, finished, planned, read


def test_who_asked_for_it_is_told_where_another_backend_took_over() -> None:
    log = finished([Opened(0), Text(1, "one "), Switched(2, "backend_error"), Text(3, "two")])
    silent = encode(planned(), log)[1]
    assert not any("failover" in event.type for event in silent)
    plan = msgspec.structs.replace(planned(), seams=True)
    told = ResponseEvents(plan.snapshot, seams=plan.seams)
    events = [*told.start(), *told.feed(log)]
    (seam,) = [event for event in read(events) if event["type"] == "headrace:failover"]
    assert seam == {"type": "headrace:failover", "sequence_number": seam["sequence_number"], "code": "backend_error"}
    assert [event["sequence_number"] for event in read(events)] == list(range(len(events)))
