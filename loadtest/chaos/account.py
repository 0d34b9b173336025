"""Sums up what the clients of one fault saw: what was lost or repeated, and how long it took until new answers came again."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from loadtest.chaos.answer import Answer, Attempt, Fate, Kind
from loadtest.figures import percentile


@dataclass(frozen=True, slots=True)
class Measure:
    """One more figure of a fault, and the bound it must keep, if any."""

    name: str
    value: float
    limit: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is on the right side of its bound."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def recovery(attempts: Iterable[Attempt], struck: float) -> float | None:
    """Return the seconds from a fault to the first new answer behind the last new one that failed; None when none came any more.

    A fault that no attempt noticed has the time of the next answer, its TTFT included.
    """
    later = [each for each in attempts if each.sent >= struck]
    since = max((each.sent for each in later if not each.good), default=struck)
    good = [each.ended for each in later if each.good and each.sent >= since]
    return min(good) - struck if good else None


@dataclass(slots=True)
class Trial:
    """One injection: the answers that were asked for around it, how long the service was away, and what else was measured."""

    answers: Sequence[Answer]
    recovery_s: float | None
    measures: Sequence[Measure] = ()


@dataclass(slots=True)
class Sum:
    """All trials of one fault."""

    trials: list[Trial] = field(default_factory=list[Trial])
    broken: str = ""
    """Why the fault could not be injected."""

    @property
    def answers(self) -> list[Answer]:
        """Those of every trial."""
        return [answer for trial in self.trials for answer in trial.answers]

    @property
    def fates(self) -> Counter[Fate]:
        """How many answers had which end."""
        return Counter(answer.fate for answer in self.answers)

    @property
    def silent(self) -> int:
        """Answers that ended as if whole, and are not."""
        return self.fates[Fate.SILENT]

    @property
    def lost(self) -> int:
        """Answers of a kind that is resumed without an end."""
        return self.fates[Fate.LOST]

    @property
    def duplicated(self) -> int:
        """Words read twice."""
        return sum(answer.duplicated for answer in self.answers)

    @property
    def resumed(self) -> int:
        """Whole answers that took more than one connection."""
        return sum(answer.fate is Fate.WHOLE and answer.connections > 1 for answer in self.answers)

    @property
    def hushed(self) -> int:
        """Connections of resumable answers that ended properly before the answer did, which only a client that counts events notices."""
        return sum(answer.hushed for answer in self.answers if answer.kind is not Kind.CHAT)

    @property
    def errors(self) -> float:
        """The share of all answers that neither was whole nor was refused with a time to come back."""
        bad = sum(self.fates[fate] for fate in (Fate.FAILED, Fate.ERROR, Fate.CUT, Fate.LOST, Fate.SILENT))
        return bad / max(len(self.answers), 1)

    @property
    def codes(self) -> Counter[str]:
        """Why answers failed: codes of typed errors, and statuses that are no refusals."""
        return Counter(answer.error or str(answer.status) for answer in self.answers if answer.fate in (Fate.FAILED, Fate.ERROR))

    def recovered(self, percent: float) -> float | None:
        """Return a percentile of the recovery times in seconds; None when one trial never came back, or there was none."""
        times = [trial.recovery_s for trial in self.trials]
        known = [time for time in times if time is not None]
        return percentile(known, percent) if known and len(known) == len(times) else None

    @property
    def measures(self) -> list[Measure]:
        """Each further figure once, with the worst of its trials."""
        found: dict[str, Measure] = {}
        for measure in (each for trial in self.trials for each in trial.measures):
            known = found.get(measure.name)
            if known is None or (measure.value < known.value if measure.at_least else measure.value > known.value):
                found[measure.name] = measure
        return list(found.values())


@dataclass(frozen=True, slots=True)
class Goal:
    """What must hold of a fault; nothing may be lost, repeated or cut silently in any case."""

    recovery_s: float | None = None
    errors: float | None = None
    """Share of answers that may end otherwise than whole or refused."""

    def missed(self, found: Sum) -> list[str]:
        """Return what did not hold, in words."""
        if found.broken:
            return [found.broken]
        said = [f"{count} {name}" for name, count in _counts(found).items() if count]
        longest = found.recovered(100)
        if self.recovery_s is not None and (longest is None or longest > self.recovery_s):
            said.append("not back" if longest is None else f"{longest:.2f} s instead of {self.recovery_s:g}")
        if self.errors is not None and found.errors > self.errors:
            said.append(f"{found.errors:.2%} errors instead of {self.errors:.2%}")
        return said + [f"{each.name} {each.value:.4g} instead of {each.limit:.4g}" for each in found.measures if not each.met]

    @property
    def text(self) -> str:
        """The goal in words."""
        back = [f"back ≤ {self.recovery_s:g} s"] if self.recovery_s is not None else []
        return ", ".join(back + ([f"errors ≤ {self.errors:.1%}"] if self.errors is not None else [])) or "nothing lost"


def _counts(found: Sum) -> dict[str, int]:
    return {"silently truncated": found.silent, "lost": found.lost, "duplicated": found.duplicated}
