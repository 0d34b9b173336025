"""The faults that fit one machine, in the order of the list, with what is expected of each and what must hold."""

from loadtest.chaos import backends, crowds, kills
from loadtest.chaos.account import Goal
from loadtest.chaos.answer import Kind
from loadtest.chaos.backends import spoilt
from loadtest.chaos.kills import kill, refusing
from loadtest.chaos.load import STEADY, Plan
from loadtest.chaos.proxy import End
from loadtest.chaos.scene import Fault, sizes
from loadtest.chaos.soak import soak
from loadtest.chaos.stack import LONG, LONG_WORDS, SLOTS

FAST = Plan(rate_s=10)
"""What the breaker lets through at first is a small part of so many answers, and the slots hold them while each waits a second."""

GROUNDED = Plan(rate_s=6, model="headrace")
"""Answers from passages, which need every stage."""

OVERLOAD = Plan(rate_s=10 * SLOTS / 4, model=LONG, words=LONG_WORDS, mix=(Kind.CHAT,))
"""Ten times what the slots can hold."""

RESUMED, FAILOVER, HELD = "typed error, or goes on from the log", "another backend goes on", "closed; the others notice nothing"

FAULTS = (
    Fault("1", "generator killed", kill("generator"), RESUMED, Goal(recovery_s=5), 50),
    Fault("2", "embedder or retriever killed", kill("embedder", "retriever"), "asked again, or 503", Goal(5, 0.01), 30, GROUNDED),
    Fault("3", "edge killed", kill("edge"), "resumed; outage ≤ 1 s", Goal(recovery_s=1), 30),
    Fault("3s", "Serve's ingress killed", kill("Serve's ingress"), "the fallback takes over, resumed", Goal(recovery_s=5), 30),
    Fault("3g", "gateway killed", kill("gateway"), "resumed", Goal(recovery_s=5), 30),
    Fault("4", "Serve's controller killed", kill("Serve's controller"), "nothing is noticed", Goal(1, 0.0), 10),
    Fault("5", "raylet or GCS killed", kill("raylet", "GCS"), "503 until all is back, then resumed", Goal(recovery_s=60), 5),
    Fault("6", "Valkey killed", kill("Valkey"), "streams stall and go on", Goal(3, 0.001), 20),
    Fault("7", "Valkey hangs for 5 s", kills.stop_valkey, "streams stall and go on", Goal(3, 0.001), 10),
    Fault(
        "7m",
        "Valkey out of memory",
        refusing(on=("CONFIG", "SET", "maxmemory", "1mb"), off=("CONFIG", "SET", "maxmemory", "268435456")),
        "streams go on, new ones wait or 503",
        Goal(3, 0.001),
        10,
    ),
    Fault(
        "7r",
        "Valkey read-only",
        refusing(on=("REPLICAOF", "127.0.0.1", "1"), off=("REPLICAOF", "NO", "ONE")),
        "streams go on, new ones wait or 503",
        Goal(3, 0.001),
        10,
    ),
    Fault("8", "backend refuses connections", backends.refused, FAILOVER, Goal(1, 0.0), 20, FAST),
    Fault("9", "backend says nothing", spoilt(hang=1.0, timed=True), FAILOVER, Goal(2, 0.0), 20, FAST),
    Fault("10", "backend stalls within an answer", spoilt(stall=1.0, timed=True), FAILOVER, Goal(2, 0.0), 20, FAST),
    Fault("11", "backend: 429, Retry-After 2 s", spoilt(error=1.0, status=429, retry_after_s=2), FAILOVER, Goal(1, 0.0), 20, FAST),
    Fault("11x", "backend: 429, Retry-After 1e9 s", spoilt(error=1.0, status=429, retry_after_s=1e9), FAILOVER, Goal(1, 0.0), 20, FAST),
    Fault("12", "backend: bursts of 503", spoilt(error=1.0, status=503), FAILOVER, Goal(1, 0.0), 20, FAST),
    Fault("12b", "backend: bursts of 500", spoilt(error=0.5, status=500), FAILOVER, Goal(1, 0.0), 20, FAST),
    Fault("13", "backend breaks off", spoilt(cut=1.0), FAILOVER, Goal(1, 0.0), 50, FAST),
    Fault("13w", "backend reset on the wire", backends.cut_on_the_wire(End.CUT), FAILOVER, Goal(1, 0.0), 50, FAST),
    Fault("13h", "backend half-closed on the wire", backends.cut_on_the_wire(End.HALF_CLOSE), FAILOVER, Goal(1, 0.0), 50, FAST),
    Fault("14", "garbage in a backend's answer", spoilt(malformed=1.0), FAILOVER, Goal(1, 0.0), 20, FAST),
    Fault(
        "15", "clients leave in mid-answer", crowds.leave, "cancelled to the backend", Goal(1, 0.0), 1, STEADY, sizes(usual=100, full=1000)
    ),
    Fault(
        "16",
        "clients leave before the first token",
        crowds.leave_early,
        "cancelled, slots free",
        Goal(2, 0.0),
        1,
        STEADY,
        sizes(usual=100, full=500),
    ),
    Fault("17", "slow readers", crowds.read_slowly, "bounded memory, or cut", Goal(1, 0.0), 1, STEADY, sizes(usual=20, full=20)),
    Fault("18", "slow senders", crowds.send_slowly, HELD, Goal(1, 0.0), 1, STEADY, sizes(usual=500, full=2000)),
    Fault("19", "idle WebSockets", crowds.sit_idle, "they stay, and cost little", Goal(1, 0.0), 1, STEADY, sizes(usual=2000, full=2000)),
    Fault("20", "WebSockets that flood", crowds.flood, HELD, Goal(1, 0.0), 10, STEADY, sizes(usual=50_000, full=1_000_000)),
    Fault("33", "edge reloaded", kills.reload_edge, "nothing is noticed", Goal(1, 0.0), 10),
    Fault("33d", "application deployed again", kills.redeploy, "nothing is noticed", Goal(1, 0.0), 10),
    Fault("34", "gateway out of file descriptors", kills.exhaust_files, "refused, no crash", Goal(recovery_s=5), 5),
    Fault("35", "ten times the load", crowds.overload, "503 with a time to come back", Goal(), 3, OVERLOAD),
    Fault(
        "36",
        "WebSockets back after a gateway's death",
        crowds.come_back,
        "all back ≤ 30 s",
        Goal(30),
        3,
        STEADY,
        sizes(usual=1000, full=5000),
    ),
    Fault("37", "soak", soak, "nothing grows", Goal(1, 0.001), 1, STEADY, sizes(usual=60, full=1800)),
    Fault(
        "gate",
        "slow senders, idle sockets, slow readers at once",
        crowds.all_slow,
        HELD,
        Goal(1, 0.0),
        1,
        STEADY,
        sizes(usual=500, full=2000),
    ),
)
"""Numbers are those of the list; a letter behind one tells its variants apart."""

ELSEWHERE = {
    "8 (DNS), 11 (dates)": "tests/generator/test_faults.py, 400 answers each",
    "14": "tests/generator/test_sse.py, 1,000 spoilt streams",
    "15": "tests/integration/test_leavers.py, 1,000 clients",
    "20": "tests/integration/test_floods.py, 20 times each of seven floods",
    "35": "tests/integration/test_fairness.py, 60 s",
}
"""What is measured by tests of its own, with a large N."""


def chosen(names: str) -> list[Fault]:
    """Return the faults with these numbers, comma-separated, in that order, or all; ValueError where one is unknown.

    A number without a letter means all its variants.
    """
    if not names:
        return list(FAULTS)
    wanted = names.split(",")
    if unknown := [name for name in wanted if not any(_is(fault, name) for fault in FAULTS)]:
        raise ValueError(f"no fault {', '.join(unknown)}; there are {', '.join(fault.number for fault in FAULTS)}")
    return [fault for name in wanted for fault in FAULTS if _is(fault, name)]


def _is(fault: Fault, name: str) -> bool:
    return fault.number == name or fault.number.rstrip("abcdefghijklmnopqrstuvwxyz") == name
