"""The model backends that may answer a turn, and what is done where one breaks off."""

from typing import Literal

import msgspec

Contract = Literal["continue", "restart", "fail"]
"""What is done where a backend breaks off within an answer: another goes on behind it, another begins anew and what it says again is
dropped, or the answer fails."""


class Upstream(msgspec.Struct, frozen=True):
    """One model backend. `key` names the secret to show it; lower ranks are asked first, equal ones by weight."""

    name: str
    base_url: str
    model: str
    key: str = ""
    rank: int = 0
    weight: float = 1.0
    region: str = ""
    max_ongoing: int = 1 << 20
    continues: bool = True
    """Whether it goes on with a last message of the assistant."""
