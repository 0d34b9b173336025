"""The built-in prompts: a file each, which is the version 1 of its name; a tenant may have versions of its own (`headrace prompts`)."""

from collections.abc import Mapping
from pathlib import Path

from deployments.core.prompts import BUILT_IN

SEEDS: Mapping[str, str] = {name: Path(__file__).with_name(f"{name}.txt").read_text().strip() for name in BUILT_IN}
"""`grounded` is for a turn with passages, `nothing_found` for one that found none, `summary` for what was said in a conversation."""
