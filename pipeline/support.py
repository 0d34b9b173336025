"""Whether a passage says what a sentence says, judged by their words; pure and without a model."""

import math
import re
from collections.abc import Sequence

from deployments.core.types import Passage

SUPPORTED = 0.62
"""Part of a sentence's weight that must be found in the passage."""
MIN_WORDS = 3
"""Different content words a sentence must share with the passage."""
TOKEN = re.compile(r"[^\W\d_]\w*(?:\.\w+)*|\d+(?:[.,]\d+)*|_\w+")
LINK = re.compile(r"\]\([^()\s]*\)|https?://\S+")
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
SUFFIXES = ("ations", "ation", "ingly", "ings", "ing", "edly", "ed", "ies", "es", "ly", "s", "e", "y")
REFUSAL = re.compile(
    r"\b(?:(?:could|can|do|did|does|was|is|are|were)(?: ?not|n['’]t)|cannot|unable to|no)\b[^.]{0,40}"
    r"\b(?:find|found|know|answer|mention\w*|contain\w*|information|sources?|provided?|documents?)\b|\b(?:sorry|apologi[sz]e)\b",
    re.IGNORECASE,
)
"""An answer that says there is no answer is about the sources, not from them."""
STOP = frozenset(
    "a about above after again all also am an and any are as at be because been before being below between both but by can could did do does "
    "doing don down during each etc few for from further get gets had has have having he her here hers him his how i if in into is it its "
    "itself just let like ll ll may me might more most must my no nor not now of off on once one only or other our out over own per s same "
    "shall she should so some such t than that the their them then there these they this those through to too under until up us use used "
    "uses using very via want was way we well were what when where which while who whom why will with within without would you your yours".split()
)


def features(text: str) -> dict[str, float]:
    """The content words of a text as stems, each with its weight: identifiers and numbers count more, short words less."""
    found: dict[str, float] = {}
    for match in TOKEN.finditer(LINK.sub("] ", text)):
        word = match[0]
        low = word.lower()
        if low in STOP:
            continue
        if word[0].isdigit():
            found[low] = 1.5
        elif "_" in word or "." in word or HUMP.search(word):
            found[low] = 2.0
        else:
            found[stem(low)] = 1.0 if len(low) > 4 else 0.7
    return found


def stem(word: str) -> str:
    """`word` without a common English ending; at least three letters stay."""
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


class Evidence:
    """The passages an answer may cite."""

    def __init__(self, passages: Sequence[Passage]):
        self._texts = [features(" ".join((p.title, *p.chunk.headings, p.chunk.text))) for p in passages]
        counts: dict[str, int] = {}
        for text in self._texts:
            for word in text:
                counts[word] = counts.get(word, 0) + 1
        self._rarity = {word: math.log(1 + len(self._texts) / count) / math.log(1 + len(self._texts)) for word, count in counts.items()}

    def find(self, sentence: str) -> int | None:
        """The passage that supports the sentence, as its place in the list; None where none does. Earlier passages win ties."""
        words = features(sentence)
        if len(words) < MIN_WORDS or REFUSAL.search(sentence):
            return None
        scores = [self._score(words, text) for text in self._texts]
        best = max(range(len(scores)), key=lambda index: scores[index], default=None)
        return best if best is not None and scores[best] >= SUPPORTED else None

    def _score(self, words: dict[str, float], text: dict[str, float]) -> float:
        shared = [word for word in words if word in text]
        if len(shared) < MIN_WORDS:
            return 0.0
        weight = {word: own * self._rarity.get(word, 1.0) for word, own in words.items()}
        return sum(weight[word] for word in shared) / sum(weight.values())
