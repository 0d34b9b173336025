"""Holds a model of llama.cpp to given sentences, by a grammar (GBNF, https://github.com/ggml-org/llama.cpp/tree/master/grammars)."""

import json
from collections.abc import Sequence

from deployments.core.errors import StreamInterrupted

PICKS = 3
"""Sentences in an answer."""
CHOICES = 2
"""Sentences between which the model chooses at each step: the best that are left."""
GAP = "\n\n"
"""What stands between two of them."""


def quoting(sentences: Sequence[str], picks: int = PICKS, said: str = "") -> str:
    """A grammar whose texts are `picks` of the sentences, each once and a paragraph each, chosen among the first that are left.

    It holds for what comes after `said`; raises StreamInterrupted where that is no beginning of such a text.
    """
    rules = [f"s{number} ::= {_literal(sentence)}" for number, sentence in enumerate(sentences)]
    return "\n".join([f"root ::= {_rest(sentences, list(range(len(sentences))), picks, said)}", *rules])


def _rest(sentences: Sequence[str], left: list[int], picks: int, said: str) -> str:
    """What may follow after `said`."""
    if not said:
        return _pick(left, picks)
    for number in left[:CHOICES]:
        text, rest = sentences[number], [other for other in left if other != number]
        more = picks > 1 and bool(rest)
        text += GAP if more else ""
        if text.startswith(said):
            return _literal(text[len(said) :]) + (f" ({_pick(rest, picks - 1)})" if more else "")
        if said.startswith(text):
            return _rest(sentences, rest, picks - 1, said[len(text) :])
    raise StreamInterrupted("a quotation broke off")


def _pick(left: Sequence[int], picks: int) -> str:
    options: list[str] = []
    for number in left[:CHOICES]:
        rest = [other for other in left if other != number]
        more = picks > 1 and bool(rest)
        options.append(f's{number} "\\n\\n" ({_pick(rest, picks - 1)})' if more else f"s{number}")
    return " | ".join(options)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
