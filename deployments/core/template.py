"""Templates of prompts: text with `{{name}}` where a variable goes. Pure.

There is no language in them: a name between double braces is replaced, once, by the text it stands for, and what a variable says is
never read as a template. Raises InvalidRequest for whatever else there is.
"""

import re
from collections.abc import Mapping

from deployments.core.errors import ContextTooLong, InvalidRequest
from deployments.core.estimate import estimate
from deployments.core.inert import inert

MAX_TEMPLATE_CHARS = 16_384
MAX_PLACEHOLDERS = 64
"""Places in one template; with the bound on each variable, that of what they can become."""
MAX_VARIABLE_CHARS = 16_384

_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
_PLACE = re.compile(r"(?<!\{)\{\{(" + _NAME + r")\}\}(?!\})")
_VARIABLE = re.compile(_NAME)
_SHOWN = 64
"""Characters of a name that a message repeats."""


def placeholders(template: str) -> frozenset[str]:
    """The variables of a template that may be kept; raises InvalidRequest naming `template`."""
    if not template.strip():
        raise _wrong("a template says something")
    if len(template) > MAX_TEMPLATE_CHARS:
        raise _wrong(f"a template has at most {MAX_TEMPLATE_CHARS} characters")
    names = _PLACE.findall(template)
    if len(names) > MAX_PLACEHOLDERS:
        raise _wrong(f"a template has at most {MAX_PLACEHOLDERS} placeholders")
    left = _PLACE.sub(" ", template)
    if "{{" in left or "}}" in left:
        raise _wrong("a placeholder is {{name}}: a letter or _, then up to 63 letters, digits or _, and nothing else between the braces")
    return frozenset(names)


def render(template: str, variables: Mapping[str, str], budget_tokens: int) -> str:
    """The template with its variables in place, each inert; raises InvalidRequest or ContextTooLong, naming the parameter."""
    wanted = frozenset(_PLACE.findall(template))
    if strange := sorted(variables.keys() - wanted):
        raise InvalidRequest(f"the prompt has no variable '{strange[0][:_SHOWN]}'", param=_param(strange[0]), code="unknown_variable")
    if missing := sorted(wanted - variables.keys()):
        raise InvalidRequest(f"the prompt needs the variable '{missing[0]}'", param=_param(missing[0]), code="missing_required_parameter")
    for name, value in variables.items():
        if len(value) > MAX_VARIABLE_CHARS:
            message = f"a variable has at most {MAX_VARIABLE_CHARS} characters"
            raise InvalidRequest(message, param=_param(name), code="invalid_value")
    safe = {name: inert(value) for name, value in variables.items()}
    text = _PLACE.sub(lambda place: safe[place[1]], template)
    if estimate(text) > budget_tokens:
        raise ContextTooLong(f"the prompt with its variables is longer than {budget_tokens} tokens", param="prompt")
    return text


def _param(name: str) -> str:
    return f"prompt.variables.{name}" if _VARIABLE.fullmatch(name) else "prompt.variables"


def _wrong(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="template", code="invalid_template")
