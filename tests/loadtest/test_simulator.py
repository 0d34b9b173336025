"""The simulator looks like OpenAI, keeps its times, and fails exactly as told."""

import http.client
import json
import socket
import time
from collections.abc import Callable
from statistics import median

import pytest
from openai import APIConnectionError, APIStatusError, APITimeoutError, BadRequestError, RateLimitError

from tests.loadtest.conftest import ITL_S, TOKENS, TTFT_S, Simulator, wait_until


def ask(text: str) -> list[dict[str, str]]:
    """One user message."""
    return [{"role": "user", "content": text}]


def numbered(count: int) -> str:
    """The text of an answer of so many words."""
    return " ".join(f"w{index}" for index in range(count))


class Raw:
    """A streamed request whose bytes are read as they come."""

    def __init__(self, simulator: Simulator, model: str, text: str = "hello") -> None:
        body = json.dumps({"model": model, "messages": ask(text), "stream": True}).encode()
        self.socket = socket.create_connection(("127.0.0.1", simulator.port), timeout=5)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)
        self.data = b""

    def read_until(self, count: int, needle: bytes = b'"content":"w', stop: bytes = b"\0") -> bool:
        """Read until `needle` was seen so often; false when the body ended first."""
        while self.data.count(needle) + self.data.count(b'"content":" w') < count and stop not in self.data:
            received = self.socket.recv(65536)
            if not received:
                return False
            self.data += received
        return True


def test_a_streamed_answer_has_openais_shape(simulator: Simulator) -> None:
    with simulator.client() as client:
        chunks = list(
            client.chat.completions.create(model="sim", messages=ask("hello"), stream=True, stream_options={"include_usage": True})
        )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:-1])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == numbered(TOKENS)
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == TOKENS


def test_an_answer_goes_on_behind_a_last_message_of_the_assistants(simulator: Simulator) -> None:
    begun = [*ask("hello"), {"role": "assistant", "content": "w0 w1"}]
    with simulator.client() as client:
        chunks = list(client.chat.completions.create(model="sim", messages=begun, stream=True))
    assert "w0 w1" + "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == numbered(TOKENS)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look_up"}}])
def test_a_function_that_must_be_called_is_called(simulator: Simulator, choice: object) -> None:
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    with (
        simulator.client() as client,
        client.chat.completions.stream(model="sim", messages=ask("hello"), tools=tools, tool_choice=choice) as stream,
    ):
        answer = stream.get_final_completion().choices[0]
    assert [(call.function.name, call.function.arguments) for call in answer.message.tool_calls or ()] == [("look_up", '{"w0":0}')]
    assert answer.finish_reason == "tool_calls"


def test_usage_is_sent_only_when_asked_for(simulator: Simulator) -> None:
    with simulator.client() as client:
        chunks = list(client.chat.completions.create(model="sim", messages=ask("hello"), stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_a_whole_answer_has_openais_shape(simulator: Simulator) -> None:
    with simulator.client() as client:
        answer = client.chat.completions.create(model="sim", messages=ask("hello"))
    assert answer.choices[0].message.content == numbered(TOKENS)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + TOKENS


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_ends_the_answer(simulator: Simulator, field: str) -> None:
    with simulator.client() as client:
        answer = client.chat.completions.create(model="sim", messages=ask("hello"), extra_body={field: 3})
    assert answer.choices[0].message.content == numbered(3)
    assert answer.choices[0].finish_reason == "length"


def test_models_and_health_answer(simulator: Simulator) -> None:
    with simulator.client() as client:
        assert [model.id for model in client.models.list()] == ["sim"]
    connection = http.client.HTTPConnection("127.0.0.1", simulator.port)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


def test_one_connection_carries_many_requests(simulator: Simulator) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", simulator.port)
    body = json.dumps({"model": "sim@tokens=2,itl=0", "messages": ask("hello"), "stream": True})
    for _ in range(3):
        connection.request("POST", "/v1/chat/completions", body)
        assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
    connection.close()


def test_pipelined_requests_are_answered_in_order(simulator: Simulator) -> None:
    raw = Raw(simulator, "sim@tokens=2,itl=0")
    raw.socket.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    raw.read_until(99, stop=b'"status":"ok"')
    assert raw.data.index(b"[DONE]") < raw.data.index(b'"status":"ok"')
    raw.socket.close()


def test_echo_gives_back_the_last_user_message(simulator: Simulator) -> None:
    text = 'Grüße, 世界 👩‍👩‍👧\n  "quoted" \\ back\u2028slash\t'
    messages = [{"role": "user", "content": "no"}, {"role": "user", "content": [{"type": "text", "text": text}]}]
    with simulator.client() as client:
        chunks = list(client.chat.completions.create(model="sim@echo,itl=1", messages=messages, stream=True))
    parts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(parts) == text
    assert sum(bool(part) for part in parts) == 8


def test_tokens_are_never_early_and_usually_on_time(simulator: Simulator) -> None:
    lateness: list[float] = []
    for _ in range(20):
        begun = time.monotonic()
        raw = Raw(simulator, "sim")
        late: list[float] = []
        for index in range(TOKENS):
            raw.read_until(index + 1)
            late.append(time.monotonic() - begun - TTFT_S - index * ITL_S)
        raw.socket.close()
        assert min(late) > -0.001
        lateness.append(median(late))
        if lateness[-1] < 0.003:
            return
    pytest.fail(f"half of the tokens were late by {min(lateness):.4f} s in the best of 20 answers")


def test_the_same_seed_draws_the_same_answers(spawn: Callable[..., Simulator]) -> None:
    options = ("--ttft-ms", "1", "--itl-ms", "0.1", "--tokens", "30", "--tokens-sigma", "0.7", "--error", "0.3")
    runs: list[list[str]] = []
    for seed in ("7", "7", "8"):
        simulator = spawn("--seed", seed, *options)
        outcomes: list[str] = []
        with simulator.client() as client:
            for _ in range(12):
                try:
                    answer = client.chat.completions.create(model="sim", messages=ask("hello"))
                    outcomes.append(str(answer.usage and answer.usage.completion_tokens))
                except APIStatusError as error:
                    outcomes.append(f"status {error.status_code}")
        runs.append(outcomes)
    assert runs[0] == runs[1] != runs[2]
    assert "status 503" in runs[0]
    assert len(set(runs[0])) > 5


def test_an_error_has_a_status_an_envelope_and_a_retry_after(simulator: Simulator) -> None:
    with simulator.client() as client, pytest.raises(RateLimitError) as caught:
        client.chat.completions.create(model="sim@error=429:2", messages=ask("hello"), stream=True)
    assert caught.value.response.headers["retry-after"] == "2"
    assert caught.value.code == "simulated"


def test_a_fault_can_be_limited_to_the_first_requests(simulator: Simulator) -> None:
    statuses: list[int] = []
    with simulator.client() as client:
        for _ in range(3):
            try:
                client.chat.completions.create(model="sim@error=500,times=2", messages=ask("[[marker:twice]]"))
                statuses.append(200)
            except APIStatusError as error:
                statuses.append(error.status_code)
    assert statuses == [500, 500, 200]


def test_a_cut_answer_ends_without_its_end(simulator: Simulator) -> None:
    texts: list[str] = []
    with simulator.client() as client:
        stream = client.chat.completions.create(model="sim@cut=5", messages=ask("[[marker:cut]]"), stream=True)
        with pytest.raises(APIConnectionError):
            texts.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(texts) == numbered(5)
    entry = simulator.entry("cut")
    assert (entry["reason"], entry["tokens_sent"]) == ("cut", 5)


def test_a_cut_whole_answer_fails(simulator: Simulator) -> None:
    with simulator.client() as client, pytest.raises(APIConnectionError):
        client.chat.completions.create(model="sim@cut", messages=ask("hello"))


def test_a_hanging_answer_sends_nothing(simulator: Simulator) -> None:
    with simulator.client() as client, pytest.raises(APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(model="sim@hang", messages=ask("[[marker:hang]]"), stream=True)
    entry = simulator.entry("hang")
    assert (entry["reason"], entry["tokens_sent"], entry["last_write"]) == ("cancelled", 0, None)


def test_a_stalled_answer_falls_silent(simulator: Simulator) -> None:
    raw = Raw(simulator, "sim@stall=4", "[[marker:stall]]")
    assert raw.read_until(4)
    raw.socket.settimeout(0.1)
    with pytest.raises(TimeoutError):
        raw.read_until(5)
    raw.socket.close()
    entry = simulator.entry("stall")
    assert (entry["reason"], entry["tokens_sent"]) == ("cancelled", 4)


def test_a_malformed_event_is_followed_by_the_rest(simulator: Simulator) -> None:
    raw = Raw(simulator, "sim@malformed=3,tokens=5,itl=0")
    raw.read_until(99, stop=b"0\r\n\r\n")
    raw.socket.close()
    events = [line for line in raw.data.split(b"\n") if line.startswith(b"data: {")]
    broken: list[int] = []
    for index, event in enumerate(events):
        try:
            json.loads(event[6:])
        except ValueError:
            broken.append(index)
    assert broken == [4]  # after the role and three words
    assert raw.data.count(b'"content":"w') + raw.data.count(b'"content":" w') == 5
    assert b"[DONE]" in raw.data


def test_faults_can_be_set_while_it_runs(spawn: Callable[..., Simulator]) -> None:
    simulator = spawn("--ttft-ms", "1", "--itl-ms", "1", "--tokens", "3")

    question = json.dumps({"model": "sim", "messages": ask("hello")}).encode()

    def statuses(faults: bytes) -> list[int]:
        found: list[int] = []
        for path, body in (("/sim/faults", faults), ("/v1/chat/completions", question)):
            connection = http.client.HTTPConnection("127.0.0.1", simulator.port)
            connection.request("POST", path, body)
            found.append(connection.getresponse().status)
            connection.close()
        return found

    assert statuses(b'{"error": 1.0, "status": 429}') == [200, 429]
    assert statuses(b'{"explode": 1.0}') == [400, 429]
    assert statuses(b"{}") == [200, 200]


def test_an_unknown_wish_is_refused(simulator: Simulator) -> None:
    with simulator.client() as client, pytest.raises(BadRequestError, match="cannot read 'explode=1'"):
        client.chat.completions.create(model="sim@explode=1", messages=ask("hello"))


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model":"sim"}', b'{"model":"sim","messages":[1]}'])
def test_what_is_no_chat_request_is_refused(simulator: Simulator, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", simulator.port)
    connection.request("POST", "/v1/chat/completions", body)
    assert connection.getresponse().status == 400
    connection.close()


def test_stats_tell_when_a_client_was_last_written_to(simulator: Simulator) -> None:
    raw = Raw(simulator, "sim@tokens=1000", "[[marker:gone]]")
    assert raw.read_until(5)
    raw.socket.close()
    left = time.monotonic()
    entry = simulator.entry("gone")
    assert entry["reason"] == "cancelled"
    assert 5 <= entry["tokens_sent"] < 1000
    assert entry["started"] < entry["last_write"] <= entry["ended"]
    assert abs(entry["ended"] - left) < 1.0


def test_stats_count_until_reset(simulator: Simulator) -> None:
    with simulator.client() as client:
        client.chat.completions.create(model="sim@tokens=2,itl=0", messages=ask("hello"))
    wait_until(lambda: simulator.stats()["open"] == 0, "quiet")
    assert simulator.stats()["completed"] >= 1
    simulator.reset()
    stats = simulator.stats()
    assert (stats["total"], stats["completed"], stats["tokens"], stats["ended"]) == (0, 0, 0, [])


def test_a_client_that_stops_reading_loses_nothing(simulator: Simulator) -> None:
    raw = Raw(simulator, "sim@tokens=20000,ttft=0,itl=0", "[[marker:slow]]")
    time.sleep(0.2)
    assert simulator.stats()["open"] == 1
    raw.read_until(10**9, stop=b"0\r\n\r\n")
    raw.socket.close()
    words = [json.loads(line[6:]) for line in raw.data.split(b"\n") if line.startswith(b'data: {"id"')]
    text = "".join(word["choices"][0]["delta"].get("content") or "" for word in words)
    assert text == numbered(20000)
