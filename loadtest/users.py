"""The users of the load tests: they stream answers, read them to the last event, and write down what they saw."""

import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from locust import FastHttpUser, task
from locust.env import Environment

from loadtest.journal import Journal, Row
from loadtest.questions import question
from loadtest.scenario import load
from loadtest.streaming import Events, Reading, order


@dataclass(slots=True)
class Reply:
    """What came back for one request."""

    reading: Reading
    status: int = 0
    request_id: str | None = None
    retry_after: bool = False


class ChatUser(FastHttpUser):
    """Asks through the chat API, over one connection of its own."""

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
        self.number = next(ChatUser.numbers)
        self.scenario_name: str = options.scenario
        self.scenario = load(options.scenario)
        self.journal = Journal(Path(options.journal))
        self.model: str = options.model or self.scenario.model
        keys = [Path(path).read_text().strip() for path in options.key_file] or ["none"]
        self.tenant = self.number % len(keys)
        self.bearer = f"Bearer {keys[self.tenant]}"
        self.due = time.time()

    def ask(self, messages: list[dict[str, str]], turn: int) -> Reading:
        """Stream one answer, and report it in the rows TTFT, ITL and E2E and in the journal."""
        started = time.time()
        body: dict[str, object] = {"model": self.model, "messages": messages, "stream": True, "max_tokens": self.scenario.max_tokens}
        reply = self._stream(body)
        self._fire(reply.reading)
        self.journal.append(self._row(reply, started, turn))
        return reply.reading

    def _stream(self, body: dict[str, object]) -> Reply:
        reply, events = Reply(Reading(sent=time.monotonic())), Events()
        reading = reply.reading
        # The automatic row of a streamed request is the time to its headers; no gate looks at it.
        with self.client.request(
            "POST",
            "/v1/chat/completions",
            name="chat (headers)",
            json=body,
            headers={"authorization": self.bearer},
            stream=True,
            catch_response=True,
        ) as response:
            reply.status = response.status_code
            headers = {str(name).lower(): str(value) for name, value in (response.headers or {}).items()}
            if response.status_code != 200:  # 0 is no connection; then there is no stream to read
                reading.end(time.monotonic(), f"status {response.status_code}")
                reply.retry_after = "retry-after-ms" in headers
                response.failure(f"status {response.status_code}")
                return reply
            reply.request_id = headers.get("x-request-id")
            try:
                # readline returns each line as it comes; iter_lines() would gather 1,024 bytes first.
                while line := response.stream.readline(b"\n"):
                    for data in events.feed(line):
                        reading.read(data, time.monotonic())
            except Exception as error:  # leaving the block with it would report it in no row
                reading.end(time.monotonic(), type(error).__name__)
                response.failure(repr(error))
            else:
                reading.end(time.monotonic())
                response.success()
        return reply

    def _fire(self, reading: Reading) -> None:
        fire, name = self.environment.events.request.fire, self.scenario_name
        if reading.ttft is not None:
            fire(request_type="TTFT", name=name, response_time=1000 * reading.ttft, response_length=0, exception=None, context={})
        if reading.gaps:
            mean = 1000 * sum(reading.gaps) / len(reading.gaps)
            fire(request_type="ITL", name=name, response_time=mean, response_length=0, exception=None, context={})
        failure = None if reading.error is None else RuntimeError(reading.error)
        total = 1000 * (reading.e2e or 0.0)
        length = len(reading.text.encode())
        fire(request_type="E2E", name=name, response_time=total, response_length=length, exception=failure, context={})

    def _row(self, reply: Reply, started: float, turn: int) -> Row:
        reading = reply.reading
        found = order(reading.text) if reading.error is None else None
        return Row(
            scenario=self.scenario_name,
            user=f"{type(self).__name__}-{self.number}",
            tenant=self.tenant,
            turn=turn,
            t_scheduled=self.due,
            t_start=started,
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
        )


class Asker(ChatUser):
    """Asks one question after the other on a fixed beat, whether or not the service keeps up (an open loop)."""

    def wait_time(self) -> float:
        """Return the seconds to the next beat; none when it has passed already."""
        self.due += self.scenario.pace_s
        return max(self.due - time.time(), 0.0)

    @task
    def turn(self) -> None:
        """Ask a question of its own."""
        self.ask([{"role": "user", "content": question(self.number * 10_000 + int(self.due))}], 0)


class Talker(ChatUser):
    """Holds conversations: each turn sends everything said so far, as a chat page does."""

    def wait_time(self) -> float:
        """Return the seconds of thought before the next turn."""
        self.due = time.time() + self.scenario.pace_s
        return self.scenario.pace_s

    def on_start(self) -> None:
        """Begin with nothing said."""
        self.said: list[dict[str, str]] = []

    @task
    def turn(self) -> None:
        """Say one thing and hear the answer; a conversation that is over or broken begins anew."""
        number = len(self.said) // 2
        self.said.append({"role": "user", "content": question(self.number * 10_000 + number)})
        reading = self.ask(self.said, number)
        self.said.append({"role": "assistant", "content": reading.text})
        if reading.error is not None or number + 1 >= self.scenario.turns:
            self.said = []
