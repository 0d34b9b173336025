"""Writes docs/configuration.md from the settings tree: `python -m tests.configuration`."""

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from deployments.core.config import Settings
from deployments.core.sections import Section

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

_INTRODUCTION = """# Configuration

Every setting of headrace, from `deployments/core/config.py` and `sections.py` beside it; a test keeps this page and the code the same
(`python -m tests.configuration` writes it).

Settings are the `args` of the application in a Serve config file (`pipeline/configs/laptop.yaml`); unknown names are an error. A variable
wins over the file: `HEADRACE_PORT=9000`, or with two underscores for a part, `HEADRACE_GENERATOR__BASE_URL=http://127.0.0.1:9000/v1`.
Keep secrets in variables.
"""


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, _table("Top level", Settings, "")]
    parts += [
        _table(f"`{name}`", field.annotation, f"{name}.", field.default)
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    ]
    return "\n".join(parts)


def _table(title: str, model: type[BaseModel], prefix: str, value: Any = None) -> str:
    said = (model.__doc__ or "").strip().split("\n\n")[0]
    rows = [f"| `{name}` | {shown} | {words} |" for name, shown, words in _rows(model, prefix, value)]
    return "\n".join([f"## {title}", said, "", "| Setting | Default | What it is |", "|---|---|---|", *rows, ""])


def _rows(model: type[BaseModel], prefix: str, value: Any) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name, field in model.model_fields.items():
        default = getattr(value, name) if value is not None else field.default
        if isinstance(default, Section):
            if prefix:
                rows += _rows(type(default), f"{prefix}{name}.", default)
            continue
        rows.append((f"{prefix}{name}", _show(field, default), re.sub(r"\s+", " ", field.description or "")))
    return rows


def _show(field: FieldInfo, default: Any) -> str:
    if default is None:
        return "none"
    return f"`{default.get_secret_value() if isinstance(default, SecretStr) else default}`"


if __name__ == "__main__":
    PAGE.write_text(page())
