"""Admission in plain Python: what `admission.lua` must do, written a second time to be compared with it."""

import math
from dataclasses import dataclass, field
from typing import Any

LEASE_MS = 10_000
PERIOD_MS = 60_000


@dataclass
class Held:
    """A lease as the model holds it."""

    ask: dict[str, Any]
    state: str
    charged: int
    arrived: float
    due: float
    served: int = 0
    worked: float = 0.0

    @property
    def tenant(self) -> str:
        return self.ask["tenant"]

    @property
    def work(self) -> float:
        """What is reserved counts as written."""
        return self.ask["prompt"] * self.ask["w_in"] + max(self.served, self.charged - self.ask["prompt"]) * self.ask["w_out"]


@dataclass
class Model:
    """The state of admission and its four steps."""

    slots: int
    ageing_ms: float
    now: float = 0.0
    tats: dict[tuple[str, str], float] = field(default_factory=dict)
    leases: dict[str, Held] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    vt: dict[str, float] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)
    last_vt: float = 0.0
    used: dict[str, int] = field(default_factory=dict)
    recent: dict[str, float] = field(default_factory=dict)
    settled: dict[str, bool] = field(default_factory=dict)

    def admit(self, name: str, ask: dict[str, Any]) -> str:
        self.reap()
        tokens = ask["prompt"] + ask["most_output"]
        tenant = ask["tenant"]
        for rate in ask["rates"]:
            if (ask["requests"] if rate[3] == "r" else tokens) > rate[1]:
                return "never"
        for rate in ask["rates"]:
            cost = ask["requests"] if rate[3] == "r" else tokens
            if cost and self._after(tenant, rate, cost) - self.now - rate[2] > 0.001:
                return "rate"
        mine = [held for held in self.leases.values() if held.tenant == tenant]
        if len(mine) >= ask["concurrent"]["tenant"]:
            return "busy"
        waits = (bool(self.lines) and self._at(tenant) > 0) or not self._room(tenant)
        if waits and len(self.lines) >= ask["most_waiting"]:
            return "full"
        if (
            waits
            and sum(self.leases[one].tenant == tenant and self._class(one) == ask["class"] for one in self.lines)
            >= ask["most_waiting_each"]
        ):
            return "line"
        self._charge(tenant, ask["rates"], ask["requests"], tokens)
        held = self.leases[name] = Held(ask, "wait" if waits else "run", tokens, self.now, self.now + LEASE_MS)
        self._lift(tenant)
        if waits:
            self.lines.append(name)
            self._dispatch()
        else:
            self._start(name)
        return held.state

    def meter(self, name: str, served: int) -> tuple[str, int]:
        self.reap()
        if not (held := self.leases.get(name)):
            self._dispatch()
            return "gone", 0
        held.due = self.now + LEASE_MS
        held.served = max(held.served, served)
        state = held.state
        if state == "run":
            self._spend(held)
            need = held.ask["prompt"] + held.served - held.charged
            if need >= 0:
                block = held.ask["block"] * math.ceil((need + 1) / held.ask["block"])
                rates = [rate for rate in held.ask["rates"] if rate[3] == "t"]
                if any(block > rate[1] or self._after(held.tenant, rate, block) - self.now - rate[2] > 0.001 for rate in rates):
                    state = "over"
                else:
                    self._charge(held.tenant, held.ask["rates"], 0, block)
                    held.charged += block
        self._dispatch()
        return state, held.charged

    def settle(self, name: str, prompt: int, served: int) -> bool:
        known = self.settled.get(name, name in self.leases)
        if name in self.leases:
            self._finish(name, prompt, served)
        if known or served == 0:
            self.settled[name] = known
        self.reap()
        self._dispatch()
        return known

    def reap(self) -> None:
        for name in sorted((one for one, held in self.leases.items() if held.due <= self.now), key=lambda one: self.leases[one].due):
            held = self.leases[name]
            self._finish(name, held.ask["prompt"] if held.served else 0, held.served)

    def _after(self, tenant: str, rate: tuple[str, int, int, str], cost: int) -> float:
        return max(self.tats.get((tenant, rate[0]), 0.0), self.now) + cost * rate[2] / rate[1]

    def _charge(self, tenant: str, rates: list[tuple[str, int, int, str]], requests: int, tokens: int) -> None:
        for rate in rates:
            cost = requests if rate[3] == "r" else tokens
            if cost > 0:
                self.tats[tenant, rate[0]] = self._after(tenant, rate, cost)
            elif cost:
                self.tats[tenant, rate[0]] = self.tats.get((tenant, rate[0]), 0.0) + cost * rate[2] / rate[1]
        self.used[tenant] = self.used.get(tenant, 0) + tokens

    def _finish(self, name: str, prompt: int, served: int) -> None:
        held = self.leases.pop(name)
        self._charge(held.tenant, held.ask["rates"], 0, prompt + served - held.charged)
        if held.state == "run":
            held.ask = held.ask | {"prompt": prompt}
            held.served, held.charged = served, prompt + served
            self._spend(held)
        else:
            self.lines.remove(name)
        if not any(other.tenant == held.tenant for other in self.leases.values()):
            self.last_vt = self.vt.get(held.tenant, 0.0)
            self.active.discard(held.tenant)
            self.recent[held.tenant] = self.now
            if not self.active:
                self.vt, self.last_vt = {}, 0.0

    def _running(self) -> int:
        return sum(held.state == "run" for held in self.leases.values())

    def _at(self, tenant: str) -> int:
        return sum(held.state == "run" and held.tenant == tenant for held in self.leases.values())

    def _room(self, tenant: str) -> bool:
        """One slot is left free for each tenant that was here within ten seconds."""
        if self._running() >= self.slots or self._at(tenant) == 0:
            return self._running() < self.slots
        held = sum(self.now - left <= 10_000 for left in self.recent.values())
        return self._running() < self.slots - min(held, self.slots // 2)

    def _class(self, name: str) -> str:
        return self.leases[name].ask["class"]

    def _lift(self, tenant: str) -> None:
        if tenant not in self.active:
            least = min((self.vt[one] for one in self.active), default=self.last_vt)
            self.vt[tenant] = max(self.vt.get(tenant, 0.0), least)
            self.active.add(tenant)
            self.recent.pop(tenant, None)

    def _spend(self, held: Held) -> None:
        self.vt[held.tenant] = self.vt.get(held.tenant, 0.0) + (held.work - held.worked) / held.ask["weight"]
        held.worked = held.work

    def _start(self, name: str) -> None:
        held = self.leases[name]
        held.state = "run"
        self._spend(held)

    def _dispatch(self) -> None:
        while self.lines and self._running() < self.slots:
            if not (name := self._next()):
                return
            self.lines.remove(name)
            self._start(name)

    def _next(self) -> str | None:
        classes = sorted({self._class(name) for name in self.lines})
        for lower in classes[1:]:
            oldest = min((name for name in self.lines if self._class(name) == lower), key=lambda one: (self.leases[one].arrived, one))
            if self.now - self.leases[oldest].arrived > self.ageing_ms and self._room(self.leases[oldest].tenant):
                return oldest
        first = [name for name in self.lines if self._class(name) == classes[0]]
        tenants = sorted({self.leases[name].tenant for name in first}, key=lambda one: (self.vt[one], one))
        tenant = next((one for one in tenants if self._room(one)), None)
        return next((name for name in first if self.leases[name].tenant == tenant), None)
