"""Images in messages: what they are is told by their first bytes, not by what they are called."""

import base64
import binascii
from typing import Literal

import msgspec

Kind = Literal["png", "jpeg", "gif", "webp"]

IMAGE_TOKENS = 800
"""What an image takes of a context, roughly: at most so much for 1024 x 1024 with most models."""


class Image(msgspec.Struct, frozen=True, omit_defaults=True):
    """One image; `detail` is how closely the model is asked to look: `low`, `high` or `auto`."""

    kind: Kind
    data: bytes
    detail: str | None = None

    @property
    def url(self) -> str:
        """As a data URL (RFC 2397)."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode()}"


def image(url: str, detail: str | None = None) -> Image:
    """The image of a data URL in base64; raises ValueError with a reason for people."""
    if not url[:5].lower() == "data:":
        raise ValueError("an image is sent as a data URL, data:image/png;base64,…; addresses are not fetched")
    head, _, encoded = url.partition(",")
    if not head.lower().endswith(";base64") or len(head) > 128:
        raise ValueError("a data URL of an image is in base64")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a data URL of an image holds base64 without blanks") from None
    if (kind := kind_of(data)) is None:
        raise ValueError("an image is a PNG, JPEG, GIF or WebP")
    return Image(kind, data, detail)


def kind_of(data: bytes) -> Kind | None:
    """What the first bytes say it is; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "webp" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None
