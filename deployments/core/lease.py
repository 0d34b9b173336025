"""One piece of work that has been let in: how it asks, waits, is counted, and is told to stop."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import msgspec

from deployments.core.errors import HeadraceError, InvalidRequest, Overloaded, RateLimited
from deployments.core.limits import Limits, Policy
from deployments.core.models import Rates
from deployments.core.telemetry import ADMISSION_WAIT
from deployments.core.tokenizer import Vocabulary
from deployments.core.types import Finished, Message, Principal, Route, Usage

INTERACTIVE, FLEXIBLE, BACKGROUND = "0", "1", "2"
"""Classes of work: somebody waits, somebody waits who asked for it to be cheap, or it can wait. A lower number goes first."""
SERVICES = {INTERACTIVE: "interactive", FLEXIBLE: "flexible", BACKGROUND: "background"}

_MINUTE_MS = 60_000


class Counted(Protocol):
    """What a response's tape says of the tokens in it."""

    @property
    def tokens(self) -> int:
        """Tokens written so far."""
        ...

    @property
    def first_at(self) -> float:
        """When the first of them came, by the loop's clock."""
        ...

    @property
    def last(self) -> object:
        """The last delta; None where there is none."""
        ...


@dataclass(frozen=True)
class Want:
    """What is asked for: tokens to be read, tokens written at most, and whether a backend's slot is needed.

    `patience_s` is how long the caller can wait; `requests` is 0 for a part of a request that was counted already.
    """

    model: str
    prompt: int
    most_output: int
    typical: int
    patience_s: float
    session: str = ""
    service: str = INTERACTIVE
    requests: int = 1
    slot: bool = True
    rates: Rates | None = None
    """The model's own limits for one tenant, where the settings state none."""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What `hr_admit` answers; what is left is (limit, left, ms until all of it is)."""

    state: str
    wait_ms: float
    what: str
    requests: tuple[int, ...]
    tokens: tuple[int, ...]
    charged: float


@dataclass(frozen=True)
class Settled:
    """How a lease ended: what it really used."""

    lease: "Lease"
    prompt: int
    served: int
    well: bool

    @property
    def row(self) -> tuple[str, int, int, bool]:
        """As `hr_settle` takes it."""
        return self.lease.id, self.prompt, self.served, self.well


class Lease:
    """The right to do one piece of work. As a context manager it waits for its turn, and ends its body once a limit is used up."""

    def __init__(self, name: str, principal: Principal, want: Want, policy: Policy, loop: asyncio.AbstractEventLoop):
        self.id, self.principal, self.want, self.policy = name, principal, want, policy
        self.admitted = False
        self.headers: list[tuple[bytes, bytes]] = []
        self.place: int | None = None
        """How many go first, while it waits."""
        self.tape: Counted | None = None
        self.read: Sequence[Message] = ()
        """What the backend is given to read, once that is known and until it has said what it used."""
        self.free = False
        """Whether nothing of it was done by a backend."""
        self.used: Usage | None = None
        """What a backend says it has used: before the tape tells, or where none does."""
        self._loop = loop
        self._charged = 0.0
        self._reported = 0
        self._signed = loop.time()
        self._began: float | None = None
        self._first_told = False
        self._waited = False
        self._turn = asyncio.Event()
        self._over = False
        self._task: asyncio.Task[object] | None = None
        self._until = loop.time() + want.patience_s

    async def __aenter__(self) -> "Lease":
        """Wait for the turn; raises Overloaded where it does not come in time."""
        await self.turn()
        self._began, self._task = self._loop.time(), asyncio.current_task()
        if self._over:
            raise self._exceeded()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        task, self._task = self._task, None
        if self._over and task and kind is asyncio.CancelledError and task.uncancel() == 0:
            raise self._exceeded() from error

    async def turn(self) -> None:
        """Wait for the turn; raises Overloaded where it does not come in time."""
        began = self._loop.time()
        try:
            async with asyncio.timeout_at(self._until):
                await self._turn.wait()
        except TimeoutError:
            raise Overloaded("too many requests wait before this one", retry_after_s=2) from None
        finally:
            if not self._waited:  # the answer's first call of a model; for others it has its turn
                self._waited = True
                ADMISSION_WAIT.see(self._loop.time() - began, SERVICES[self.want.service])

    def reads(self, messages: Sequence[Message]) -> None:
        """Note what the backend is given to read."""
        self.read = messages

    def spent(self, usage: Usage) -> None:
        """Note what a call of the backend used that has ended; there may be others for the same answer."""
        self.used, self.read = (self.used or Usage()) + usage, ()

    def routed(self, route: Route) -> None:
        """Have the caller told where the turn goes."""
        kind = "retrieval" if route.retrieve else "direct"
        told = f"{kind}; tier={route.tier or 'any'}; {route.reason}".encode("ascii", "replace")
        self.headers = [*self.headers, (b"x-headrace-route", told)]

    def take(self, answer: Answer) -> None:
        """Go by what the functions have answered."""
        self.admitted = True
        self._charged = answer.charged
        self.headers = _headers(answer) or self.headers
        if answer.state == "wait":
            self.place = int(answer.what)
        else:
            self.run()

    @property
    def running(self) -> bool:
        """Whether its turn has come."""
        return self._turn.is_set()

    def run(self) -> None:
        """Its turn has come."""
        self.place = None
        self._turn.set()

    def told(self, state: str, charged: float, place: int) -> None:
        """Go by the answer to a sign of life."""
        self._charged = charged
        if state == "wait":
            self.place = place
        elif state == "over":
            self._over = True
            if self._task:
                self._task.cancel()
        else:
            self.run()

    def due(self, now: float, every_s: float) -> bool:
        """Whether there is something to report: more tokens than are reserved, the first of them, or merely that it lives."""
        tokens = self.tape.tokens if self.tape else 0
        first = tokens > 0 and not self._first_told
        return first or tokens + self.want.prompt >= self._charged or now - self._signed >= every_s

    def sign(self, now: float) -> tuple[str, int, float]:
        """The sign of life: tokens written, and ms to the first of them where that was not told yet."""
        self._signed = now
        self._reported = self.tape.tokens if self.tape else 0
        if self._first_told or not self.tape or not self._reported or self._began is None:
            return self.id, self._reported, -1
        self._first_told = True
        return self.id, self._reported, (self.tape.first_at - self._began) * 1000

    async def settled(self, vocabulary: Vocabulary) -> Settled:
        """What it has used: as the backend counted it, or what was written, and what had been read for that."""
        last = self.tape.last if self.tape else None
        used = last.usage if isinstance(last, Finished) else self.used
        if self.free or not self.admitted:
            return Settled(self, 0, 0, well=False)
        if not self.want.slot:
            return Settled(self, self.want.prompt, 0, well=False)
        if used and used.replayed:
            return Settled(self, 0, 0, well=False)
        if used and (isinstance(last, Finished) or not self.read):
            return Settled(self, used.prompt_tokens, used.completion_tokens, well=True)
        before, served = used or Usage(), self.tape.tokens if self.tape else 0
        read = await vocabulary.count(self.read) if served > before.completion_tokens else 0
        return Settled(self, before.prompt_tokens + read, max(before.completion_tokens, served), well=False)

    def request(self) -> dict[str, Any]:
        """The fields of `hr_admit` that are this lease's own."""
        want, limits = self.want, self.policy.tenant
        return {
            "id": self.id,
            "tenant": self.principal.tenant,
            "key": self.principal.key_id,
            "model": want.model,
            "session": want.session,
            "class": want.service,
            "weight": self.policy.weight,
            "requests": want.requests,
            "prompt": self.want.prompt,
            "most_output": want.most_output,
            "typical": want.typical,
            "slot": want.slot,
            "patience": max(0.0, self._until - self._loop.time()) * 1000,
            "quota": {
                "day_requests": limits.requests_per_day,
                "day_tokens": limits.tokens_per_day,
                "month_tokens": limits.tokens_per_month,
            },
            "concurrent": {"tenant": limits.concurrent, "session": limits.concurrent_per_session},
        }

    def rates(self, model: Rates | None) -> list[tuple[str, int, int, str]]:
        """The rates it counts against: its tenant's, its key's, and its model's within the tenant."""
        named: dict[str, Limits | Rates | None] = {
            "tenant": self.policy.tenant,
            f"key:{self.principal.key_id}": self.policy.key,
            f"model:{self.want.model}": model,
        }
        found: list[tuple[str, int, int, str]] = []
        for name, limits in named.items():
            if limits and limits.requests_per_minute is not None:
                found.append((f"{name}:requests", limits.requests_per_minute, _MINUTE_MS, "r"))
            if limits and limits.tokens_per_minute is not None:
                found.append((f"{name}:tokens", limits.tokens_per_minute, _MINUTE_MS, "t"))
        return found

    def again(self, ended: Settled | None = None) -> dict[str, Any]:
        """What a lease says that was let in before and is not known any more: what it was charged, and what of it was told."""
        charged = ended.prompt + ended.served if ended else self._charged
        reported = self._reported + self.want.prompt if self._reported else 0
        running = self.running and ended is None
        slot = {"slot": False} if ended else {}
        return {"again": True, "charged": charged, "reported": reported, "served": self._reported, "running": running} | slot

    def _exceeded(self) -> HeadraceError:
        return RateLimited("the tokens of this minute are used up", code="rate_limit_exceeded", retry_after_s=5)


def refusal(answer: Answer, lease: Lease) -> HeadraceError | None:
    """The error that an answer stands for; None where the lease was let in."""
    again_s = max(0.001, answer.wait_ms / 1000)
    error: HeadraceError
    match answer.state:
        case "run" | "wait" | "free":
            return None
        case "never":
            error = InvalidRequest(f"the request is larger than the limit '{answer.what}'", code="request_exceeds_limit")
        case "rate":
            error = RateLimited(f"the limit '{answer.what}' is reached", retry_after_s=again_s)
        case "quota":
            error = RateLimited(f"the quota '{answer.what}' is used up", code="insufficient_quota", retry_after_s=again_s)
        case "busy":
            error = RateLimited(
                f"too many answers at once for this {answer.what}", code="concurrency_limit_exceeded", retry_after_s=again_s
            )
        case "line":
            error = RateLimited("too many requests of yours are waiting", code="concurrency_limit_exceeded", retry_after_s=again_s)
        case _:
            error = Overloaded("too many requests are waiting", retry_after_s=again_s)
    error.headers = _headers(answer)
    return error


def _headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    headers: list[tuple[bytes, bytes]] = []
    for name, left in (("requests", answer.requests), ("tokens", answer.tokens)):
        if left:
            limit, remaining, reset_ms = left
            headers += [
                (f"x-ratelimit-limit-{name}".encode(), str(limit).encode()),
                (f"x-ratelimit-remaining-{name}".encode(), str(remaining).encode()),
                (f"x-ratelimit-reset-{name}".encode(), _duration(reset_ms).encode()),
            ]
    return headers


def _duration(ms: int) -> str:
    """As OpenAI writes it: 350ms, 1.5s, 6m0s."""
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, _MINUTE_MS)
    return f"{minutes}m{rest // 1000}s" if minutes else f"{rest / 1000:g}s"
