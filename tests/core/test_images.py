"""Images as data URLs."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.images import image, kind_of

HEADS = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff\xe0",
    "gif": b"GIF89a",
    "webp": b"RIFF\x00\x00\x00\x00WEBP",
}


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("kind", HEADS)
def test_an_image_is_what_its_bytes_say_and_not_what_it_is_called(kind: str) -> None:
    sent = image(url(HEADS[kind] + b"rest", "svg+xml"))
    assert (sent.kind, sent.data, sent.url) == (kind, HEADS[kind] + b"rest", url(HEADS[kind] + b"rest", kind))


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "https://images.example/cat.png",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "data:image/png,%89PNG",
        "data:image/png;base64,",
        "data:image/png;base64,????",
        url(HEADS["png"]) + "\n",
        url(b"<svg/>", "png"),
        url(b"RIFF\x00\x00\x00\x00WAVE"),
        "data:" + "x" * 999 + ";base64," + base64.b64encode(HEADS["png"]).decode(),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(wrong: str) -> None:
    with pytest.raises(ValueError, match="image"):
        image(wrong)


@given(st.text(max_size=60) | st.binary(max_size=40).map(url))
def test_nothing_else_than_an_image_or_a_refusal_comes_out(sent: str) -> None:
    try:
        found = image(sent)
    except ValueError:
        return
    assert kind_of(found.data) == found.kind
