"""To whose account a model call goes."""

import msgspec

OK, STOPPED = "ok", "stopped"
"""How an attempt ends that does not fail: as the backend wanted, or as its reader had enough."""


class Account(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asked, and what for: a key and its user, the model that was named, the route that was taken, and the prompt (id@version)."""

    key_id: str = ""
    user: str = ""
    model: str = ""
    route: str = ""
    prompt: str = ""


class Attempt(msgspec.Struct, frozen=True):
    """One call of a backend: how it ended (`OK`, `STOPPED`, or the code of an error), tokens read and written, and their cost.

    The cost is in billionths of the money that the backend's costs are in.
    """

    backend: str
    outcome: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    nano_cost: int = 0
