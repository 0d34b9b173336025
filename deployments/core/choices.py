"""What a turn is answered with in place of what is configured."""

from collections.abc import Sequence
from typing import Literal

import msgspec

Kind = Literal["prompt", "model", "retrieval"]
"""What may be chosen: the version of a prompt, the backend that is asked first, a setting of retrieval."""
Arm = Literal["control", "variant"]
"""The two sides of a canary."""


class Choice(msgspec.Struct, frozen=True):
    """One thing that is chosen: `subject` is the prompt or the setting, `value` the version, backend or number.

    `value` is "" for the control of a canary, which changes nothing. `arm` and `weight` (the variant's share of turns) are those of the
    `canary` that runs, if one does; `session` tells those turns apart, by a keyed digest, that are on one side together.
    """

    kind: Kind
    subject: str
    value: str
    canary: str = ""
    arm: Arm = "control"
    weight: float = 0.0
    session: str = ""


def chosen(choices: Sequence[Choice], kind: Kind, subject: str) -> str:
    """What was chosen, the last of several; "" where it is as configured."""
    return next((one.value for one in reversed(choices) if one.value and (one.kind, one.subject) == (kind, subject)), "")


def arms(choices: Sequence[Choice]) -> dict[str, str]:
    """The arm of each canary among them."""
    return {one.canary: one.arm for one in choices if one.canary}
