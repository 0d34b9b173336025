"""JSON schemas (draft 2020-12) as they are run: in time linear in what is checked, without fetching anything."""

import jsonschema_rs
import msgspec

_REGEX_BYTES = 1 << 20
"""Size of one compiled pattern."""


def validator(schema: bytes) -> jsonschema_rs.Draft202012Validator:
    """What checks values against an encoded schema, formats included; raises ValueError for one that is none, or that refers elsewhere.

    Patterns are those of the `regex` crate, which has neither look-around nor back-references and so no runaway
    (https://docs.rs/regex/latest/regex/#untrusted-input).
    """
    patterns = jsonschema_rs.RegexOptions(size_limit=_REGEX_BYTES, dfa_size_limit=_REGEX_BYTES)
    return jsonschema_rs.Draft202012Validator(msgspec.json.decode(schema), pattern_options=patterns, validate_formats=True, offline=True)
