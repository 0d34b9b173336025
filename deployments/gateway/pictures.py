"""Images of requests: read from their data URLs, and bounded."""

from collections.abc import Sequence

from deployments.core import config
from deployments.core.errors import InvalidRequest
from deployments.core.images import Image, image
from deployments.core.types import Message


def picture(url: str, detail: str | None, param: str, limits: config.Gateway | None = None) -> Image:
    """The image of a data URL; raises InvalidRequest. Without limits only the request's body bounds it."""
    if limits and len(url) > limits.max_image_bytes * 4 // 3 + 256:
        raise _too_large(limits, param)
    try:
        return image(url, None if detail == "auto" else detail)
    except ValueError as error:
        raise InvalidRequest(str(error), param=param, code="invalid_image") from None


def bounded(messages: Sequence[Message], limits: config.Gateway, param: str) -> None:
    """Raises InvalidRequest where the messages hold too many images, or one that is too large."""
    images = [one for message in messages for one in message.images]
    if len(images) > limits.max_images:
        raise InvalidRequest(f"at most {limits.max_images} images", param=param, code="too_many_images")
    if any(len(one.data) > limits.max_image_bytes for one in images):
        raise _too_large(limits, param)


def _too_large(limits: config.Gateway, param: str) -> InvalidRequest:
    return InvalidRequest(f"an image has at most {limits.max_image_bytes} bytes", param=param, code="image_too_large")
