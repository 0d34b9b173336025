"""An answer that goes on after a cut is the answer without one."""

import pytest

from deployments.core.types import Citation, Cited, Delta, Opened, Text
from deployments.generator.resumed import Resumed, spoken
from pipeline.citations import CitationFilter
from tests.pipeline.test_citations import PASSAGES, URLS

ANSWER = (
    "You can configure it in your FastAPI application using the `CORSMiddleware`. Create a list of allowed origins (as strings). "
    "Nothing supports this one. Declare the file parameter with a type of `UploadFile`.\n\n- You can define background tasks to be run "
    "*after* returning a response.\nThe end [of it"
)


def log_of(pieces: list[str]) -> list[Delta]:
    """The log of an answer whose model wrote these pieces."""
    relay, log = CitationFilter(PASSAGES, URLS), list[Delta]([Opened(0)])
    for out in [*(relay.feed(piece) for piece in pieces), relay.flush()]:
        for item in out:
            log.append(Text(len(log), item) if isinstance(item, str) else Cited(len(log), item))
    return log


def whole(log: list[Delta]) -> tuple[str, list[Citation]]:
    return "".join(d.text for d in log if isinstance(d, Text)), [d.citation for d in log if isinstance(d, Cited)]


@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_cut_after_any_delta_is_gone_on_with_as_if_there_had_been_none(size: int) -> None:
    log = log_of([ANSWER[start : start + size] for start in range(0, len(ANSWER), size)])
    text, citations = whole(log)
    assert len(citations) >= 3
    for cut in range(1, len(log)):
        if isinstance(log[cut], Cited):
            continue  # a marker and its citation are recorded in one step
        before = log[:cut]
        said = spoken(before)
        assert ANSWER.startswith(said)
        relay = Resumed(CitationFilter(PASSAGES, URLS), before)
        rest = [*relay.feed(ANSWER[len(said) :]), *relay.flush()]
        assert whole(before)[0] + "".join(item for item in rest if isinstance(item, str)) == text
        assert whole(before)[1] + [item for item in rest if isinstance(item, Citation)] == citations
