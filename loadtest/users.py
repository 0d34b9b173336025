"""The users of the load tests: what they have in common, and those whose requests arrive by a schedule."""

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import gevent
from gevent.pool import Pool
from locust import FastHttpUser, task
from locust.env import Environment
from locust.exception import StopUser

from loadtest.asking import Caller, Reply
from loadtest.events import Following
from loadtest.journal import Journal, Row
from loadtest.questions import padded, page, question
from loadtest.scenario import load, scaled
from loadtest.schedule import Arrival, arrivals
from loadtest.streaming import Reading, order

MOST_OPEN = 2000
"""Requests under way at once; more arrive late, and the gate of `lag_ms` tells."""

SEARCHABLE_S = 60.0
"""An upload that is not ingested after this long has failed."""

LOOK_S = 0.1
"""Between two looks at an upload."""

AGAIN_S = 0.5
"""Before one of those who measure the peak asks again, where it was refused."""

PEAK = -1
"""The stage of requests with which the peak is measured."""


class Loaded(FastHttpUser):
    """Knows its scenario and its keys, and reports what became of its requests."""

    abstract = True
    connection_timeout = 10.0
    network_timeout = 60.0
    numbers = count()
    """locust makes the users and does not number them."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        if options is None:
            raise RuntimeError("these users are run from the locust command line")
        self.number = next(Loaded.numbers)
        self.name: str = options.scenario
        self.scenario = scaled(load(options.scenario), options.load_factor, options.time_factor, options.turns)
        self.data = Path(options.data) if options.data else None
        self.model: str = options.model or self.scenario.model
        self.expected: int | None = options.upstream_tokens or None
        self.keys = [Path(path).read_text().strip() for path in options.key_file] or ["none"]
        self._journal = Journal(Path(options.journal))

    def caller(self, tenant: int) -> Caller:
        """Return what asks with that tenant's key."""
        return Caller(self.client, f"Bearer {self.keys[tenant]}")

    def record(self, reply: Reply, due: float, lag_s: float, **known: Any) -> None:
        """Report one request in the rows TTFT, ITL and E2E and in the journal; `due` in Unix seconds, `known` are fields of its row."""
        reading, kind = reply.reading, str(known.get("kind", "chat"))
        told = reading if isinstance(reading, Following) else None
        self._fire(reading, self.name if kind in ("chat", "responses") else kind)
        wanted = known.pop("tokens", None)
        whole = min(wanted or self.scenario.max_tokens, self.expected) if self.expected else None
        found = order(reading.text, whole) if reading.error is None else None
        row = Row(
            scenario=self.name,
            user=f"{type(self).__name__}-{self.number}",
            t_scheduled=due,
            t_start=due + lag_s,
            ttft_ms=None if reading.ttft is None else 1000 * reading.ttft,
            itl_ms=[round(1000 * gap, 3) for gap in reading.gaps],
            e2e_ms=1000 * (reading.e2e or 0.0),
            tokens=reading.tokens,
            status=reply.status,
            error_code=reading.error,
            request_id=reply.request_id,
            retry_after=reply.retry_after,
            missing=found.missing + found.misplaced if found else 0,
            repeated=found.repeated if found else 0,
            silent=reading.silent,
            lost_events=told.lost if told else 0,
            repeated_events=told.again if told else 0,
            **known,
        )
        self._journal.append(row)

    def fire(self, row: str, name: str, seconds: float, failure: Exception | None = None, length: int = 0) -> None:
        """Report one figure to locust."""
        self.environment.events.request.fire(
            request_type=row, name=name, response_time=1000 * seconds, response_length=length, exception=failure, context={}
        )

    def _fire(self, reading: Reading, name: str) -> None:
        if reading.ttft is not None:
            self.fire("TTFT", name, reading.ttft)
        if reading.gaps:
            self.fire("ITL", name, sum(reading.gaps) / len(reading.gaps))
        failure = None if reading.error is None else RuntimeError(reading.error)
        self.fire("E2E", name, reading.e2e or 0.0, failure, len(reading.text.encode()))


class Arrivals(Loaded):
    """Sends requests when they are due, whether or not earlier ones have been answered (an open loop)."""

    concurrency = MOST_OPEN

    @task
    def send(self) -> None:
        """Measure the peak where the scenario wants it, then send everything that is due, and end."""
        self._stores: dict[int, str] = {}
        self._asked = count()
        self._open: dict[int, tuple[Arrival, float, float]] = {}
        peak = self._peak()
        under_way, begun, wall = Pool(MOST_OPEN), time.monotonic(), time.time()
        for arrival in arrivals(self.scenario, peak, self.data):
            due = begun + arrival.due_s
            gevent.sleep(max(due - time.monotonic(), 0))
            under_way.spawn(self._ask, arrival, due, wall + arrival.due_s)
        under_way.join(self.scenario.over_s)
        for arrival, due, due_wall in self._open.values():  # they must not be missing from the figures
            reply = Reply(Reading(due))
            reply.reading.fail("never ended", time.monotonic())
            self._note(reply, arrival, 0, due_wall, 0.0)
        raise StopUser

    def _peak(self) -> float:
        """Return the answers a second of callers who ask again at once, without those of the first seconds; 0 where nobody asks."""
        wanted = self.scenario.peak
        if wanted is None:
            return 0.0
        begun, wall, ended = time.monotonic(), time.time(), list[float]()
        random, mix = Random(self.scenario.seed), self.scenario.mix

        def again() -> None:
            while (now := time.monotonic()) < begun + wanted.seconds:
                (kind,) = random.choices(list(mix), list(mix.values()))
                reply = self._ask(Arrival(now - begun, PEAK, kind), now, wall + now - begun)
                if reply.reading.error is None:
                    ended.append(time.monotonic() - begun)
                else:
                    gevent.sleep(AGAIN_S)

        callers = [gevent.spawn(again) for _ in range(wanted.at_once)]
        gevent.joinall(callers, timeout=wanted.seconds + self.scenario.over_s)
        gevent.killall(callers)
        return sum(wanted.warm_s <= end < wanted.seconds for end in ended) / (wanted.seconds - wanted.warm_s)

    def _ask(self, arrival: Arrival, due: float, due_wall: float) -> Reply:
        lag_s, number = time.monotonic() - due, next(self._asked)
        self._open[number] = arrival, due, due_wall
        asks: dict[str, Callable[[Caller, Arrival, int, float], Reply]] = {
            "chat": self._chat,
            "responses": self._responses,
            "search": self._search,
            "embeddings": self._embeddings,
            "upload": self._upload,
        }
        reply = asks[arrival.kind](self.caller(number % len(self.keys)), arrival, number, due)
        del self._open[number]
        self._note(reply, arrival, number, due_wall, lag_s)
        return reply

    def _note(self, reply: Reply, arrival: Arrival, number: int, due_wall: float, lag_s: float) -> None:
        known = {"turn": 0, "stage": arrival.stage, "kind": arrival.kind, "tokens": arrival.tokens}
        self.record(reply, due_wall, lag_s, tenant=number % len(self.keys), **known)

    def _chat(self, caller: Caller, arrival: Arrival, number: int, due: float) -> Reply:
        messages = [{"role": "user", "content": padded(question(number), arrival.prompt_tokens)}]
        most = arrival.tokens or self.scenario.max_tokens
        body = {"model": self.model, "messages": messages, "stream": True, "max_tokens": most}
        return caller.stream("/v1/chat/completions", body, Reading(due))

    def _responses(self, caller: Caller, arrival: Arrival, number: int, due: float) -> Reply:
        most = arrival.tokens or self.scenario.max_tokens
        body = {"model": self.model, "input": padded(question(number), arrival.prompt_tokens), "stream": True, "max_output_tokens": most}
        return caller.stream("/v1/responses", body, Following(due))

    def _search(self, caller: Caller, arrival: Arrival, number: int, due: float) -> Reply:
        store = self._store(caller, number % len(self.keys))
        return caller.plain("POST", f"/v1/vector_stores/{store}/search", "search", due, {"query": question(number)})

    def _embeddings(self, caller: Caller, arrival: Arrival, number: int, due: float) -> Reply:
        return caller.plain("POST", "/v1/embeddings", "embeddings", due, {"model": "headrace-embed", "input": question(number)})

    def _upload(self, caller: Caller, arrival: Arrival, number: int, due: float) -> Reply:
        """Add a page to the store, and look until it is ingested: that is the time that counts."""
        place = f"/v1/vector_stores/{self._store(caller, number % len(self.keys))}/files"
        reply = caller.plain("POST", "/v1/files", "upload", due, form=page(number))
        if reply.status != 200:
            return reply
        file_id = reply.body["id"]
        reply = caller.plain("POST", place, "attach", due, {"file_id": file_id})
        while reply.status == 200 and reply.body["status"] == "in_progress" and time.monotonic() < due + SEARCHABLE_S:
            gevent.sleep(LOOK_S)
            reply = caller.plain("GET", f"{place}/{file_id}", "ingested?", due)
        if reply.status == 200 and reply.body["status"] != "completed":
            reply.reading.fail(f"upload {reply.body['status']}", time.monotonic())
        return reply

    def _store(self, caller: Caller, tenant: int) -> str:
        """The vector store of a tenant: the first it has, or one that is made."""
        if tenant not in self._stores:
            found = caller.plain("GET", "/v1/vector_stores", "stores", time.monotonic())
            stores = (found.body or {}).get("data") or []
            if not stores:
                stores = [caller.plain("POST", "/v1/vector_stores", "store", time.monotonic(), {"name": "load"}).body]
            if not stores[0]:
                return "none"  # what is asked of it fails, and is told
            self._stores[tenant] = stores[0]["id"]
        return self._stores[tenant]
