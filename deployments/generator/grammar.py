"""Holds a model of llama.cpp to given sentences, by a grammar (GBNF, https://github.com/ggml-org/llama.cpp/tree/master/grammars)."""

import json
from collections.abc import Sequence

PICKS = 3
"""Sentences in an answer."""
CHOICES = 2
"""Sentences between which the model chooses at each step: the best that are left."""


def quoting(sentences: Sequence[str], picks: int = PICKS) -> str:
    """A grammar whose texts are `picks` of the sentences, each once and a paragraph each, chosen among the first that are left."""
    rules = [f"s{number} ::= {json.dumps(sentence, ensure_ascii=False)}" for number, sentence in enumerate(sentences)]
    return "\n".join([f"root ::= {_pick(range(len(sentences)), picks)}", *rules])


def _pick(left: Sequence[int], picks: int) -> str:
    options: list[str] = []
    for number in left[:CHOICES]:
        rest = [other for other in left if other != number]
        more = picks > 1 and bool(rest)
        options.append(f's{number} "\\n\\n" ({_pick(rest, picks - 1)})' if more else f"s{number}")
    return " | ".join(options)
