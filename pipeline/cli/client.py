"""headrace over HTTP, as the command line uses it."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import httpx2
import msgspec

from deployments.core.config import Settings

URL = "http://127.0.0.1:8000"

TRIES = 6
"""Attempts at a request that was not taken; with the pauses below about 15 s, longer than a stage takes to restart."""
_MAX_PAUSE_S = 5
_TIMEOUT = httpx2.Timeout(60, connect=5)
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e01ef]"
)
"""What could command a terminal or show a text as another one: controls, bidirectional, zero-width and tag characters."""


class Refused(Exception):
    """headrace did not do what was asked; the message is for people. `status` is 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(plain(message))
        self.status = status


class Reason(msgspec.Struct, frozen=True):
    """Why an ingestion failed."""

    message: str = "failed"


class Held(msgspec.Struct, frozen=True):
    """A file of a vector store."""

    id: str
    status: str
    attributes: dict[str, str | float | bool] | None = None
    last_error: Reason | None = None

    def attribute(self, name: str) -> str:
        """An attribute as text; "" where it is not set."""
        return str((self.attributes or {}).get(name, ""))


def plain(text: str) -> str:
    """Text from a model, a document or a server, safe to print on a terminal; line feeds and tabs stay."""
    return _UNSEEN.sub("", text)


def line(text: str) -> str:
    """The same on one line, for names and reasons."""
    return " ".join(plain(text).split())


def key(given: str | None, url: str, settings: Settings | None = None, tenant: str = "demo") -> str:
    """The key in force: the given one, else that of a tenant that `headrace serve` makes, which is sent nowhere else. Raises Refused."""
    if given:
        return given.strip()
    path = (settings or Settings.model_validate({})).data_dir / f"{tenant}.key"
    if httpx2.URL(url).host not in _LOOPBACK:
        raise Refused("which key? Give --key, or set HEADRACE_API_KEY")
    try:
        return path.read_text().strip()
    except OSError:
        raise Refused(f"which key? Give --key, set HEADRACE_API_KEY, or run `headrace serve` here, which makes {path}") from None


class Client:
    """Calls with one key; tries again what was not taken. Every method raises Refused."""

    def __init__(
        self,
        url: str,
        key: str,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        tries: int = TRIES,
    ):
        headers = {"authorization": f"Bearer {key}", "user-agent": "headrace"}
        local = httpx2.URL(url).host in _LOOPBACK
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=_TIMEOUT, transport=transport, trust_env=not local)
        self._url, self._sleep, self._tries = url, sleep, tries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def store(self, wanted: str | None) -> tuple[str, str]:
        """Id and name of a vector store given by id or name; without one, the tenant's first."""
        for store in self.pages("/v1/vector_stores"):
            if wanted in (None, store["id"], store["name"]):
                return store["id"], store["name"]
        raise Refused(f"there is no vector store '{wanted}'" if wanted else "the tenant has no vector store", 404)

    def upload(self, name: str, content: bytes) -> str:
        """Send a file; returns its id."""
        files = {"file": (name, content, "application/octet-stream")}
        return self.call("POST", "/v1/files", data={"purpose": "assistants"}, files=files)["id"]

    def add(self, store_id: str, file_id: str, attributes: dict[str, str]) -> None:
        """Put a file into a store; its ingestion begins."""
        self.call("POST", f"/v1/vector_stores/{store_id}/files", json={"file_id": file_id, "attributes": attributes})

    def members(self, store_id: str, status: str | None = None) -> Iterator[Held]:
        """The files of a store, oldest first."""
        for file in self.pages(f"/v1/vector_stores/{store_id}/files", **({"filter": status} if status else {})):
            yield msgspec.convert(file, Held)

    def delete(self, file_id: str) -> None:
        """Delete a file, wherever it is; one that is gone already is fine."""
        try:
            self.call("DELETE", f"/v1/files/{file_id}")
        except Refused as error:
            if error.status != 404:
                raise

    def ask(self, question: str, model: str) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed answer."""
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": question}]}
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response)
                for data in events(response.iter_bytes()):
                    chunk = json.loads(data)
                    if error := chunk.get("error"):
                        raise Refused(str(error.get("message")), 500)
                    yield chunk
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None

    def pages(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """Everything of a list, page by page."""
        after = ""
        while True:
            page = self.call("GET", path, params={**query, "limit": "100", "order": "asc", **({"after": after} if after else {})})
            yield from page["data"]
            if not page["has_more"]:
                return
            after = page["last_id"]

    def call(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        """What a request is answered with, as JSON."""
        return self._call(method, path, **content).json()

    def content(self, file_id: str) -> bytes:
        """The bytes of a file."""
        return self._call("GET", f"/v1/files/{file_id}/content").content

    def _call(self, method: str, path: str, **content: Any) -> httpx2.Response:
        for left in reversed(range(self._tries)):
            try:
                response = self._http.request(method, path, **content)
            except httpx2.HTTPError as error:
                # Only what never arrived is sent again: an upload that may have been taken would be there twice.
                if not left or not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
                    raise self._unreachable(error) from None
                pause = _MAX_PAUSE_S / (left + 1)
            else:
                if response.status_code < 400:
                    return response
                if not left or response.status_code not in (429, 503):
                    raise _refusal(response)
                pause = _retry_after(response)
            self._sleep(pause)
        raise AssertionError  # the last try returns or raises

    def _unreachable(self, error: httpx2.HTTPError) -> Refused:
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return Refused(f"nothing answers at {self._url}; `headrace serve` starts it, --url names another place")
        return Refused(f"the connection to {self._url} broke: {error or type(error).__name__}")


def events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of server-sent events, however their bytes are cut; ends at `[DONE]`. Raises Refused where the stream just stops."""
    held = b""
    for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            data = line.removesuffix(b"\r").removeprefix(b"data: ") if line.startswith(b"data: ") else b""
            if data == b"[DONE]":
                return
            if data:
                yield data
    raise Refused("the answer broke off", 500)


def _refusal(response: httpx2.Response) -> Refused:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {response.status_code}"
    return Refused(message[:1000], response.status_code)


def _retry_after(response: httpx2.Response) -> float:
    try:
        return min(float(response.headers["retry-after-ms"]) / 1000, _MAX_PAUSE_S)
    except (KeyError, ValueError):
        return 1
