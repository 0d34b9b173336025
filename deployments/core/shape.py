"""The shape that a caller wants an answer in JSON to have."""

import msgspec


class Schema(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an answer in JSON has to look like: a JSON schema, encoded, checked and bounded, under its OpenAI name.

    A `held` answer is shown to nobody before it is whole, so that a wrong one can be asked for once more.
    """

    name: str
    schema: bytes
    strict: bool = False
    description: str | None = None
    held: bool = False
