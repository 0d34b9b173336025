"""Whether a passage says what a sentence says, judged by their words; pure and without a model."""

import re
from collections.abc import Sequence

from deployments.core.types import Passage

SUPPORTED = 0.65
"""Least score of a citation; read off some 200 sentences that a small model wrote, half of them invented."""
WORDS_SHARE = 0.75
"""What the words count in the score; the rest is for pairs of neighbouring words, which tell a quotation from a bag of its words."""
MIN_WORDS = 3
"""Different content words a sentence must share with the passage."""
WINDOW = 3
"""Neighbouring sentences of a passage that may support one sentence together."""
TOKEN = re.compile(r"[^\W\d_]\w*(?:\.\w+)*|\d+(?:[.,]\d+)*|_\w+")
SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")
LINK = re.compile(r"\]\([^()\s]*\)|https?://\S+")
CODE = re.compile(r"`([^`\n]+)`")
NUMBERING = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+")
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
SUFFIXES = ("ations", "ation", "ingly", "ings", "ing", "edly", "ed", "ies", "es", "ly", "s", "e", "y")
REFUSAL = re.compile(
    r"\b(?:(?:could|can|do|did|does|was|is|are|were)(?: ?not|n['\u2019]t)|cannot|unable to|no)\b[^.]{0,40}"
    r"\b(?:find|found|know|answer|mention\w*|contain\w*|information|sources?|provided?|documents?)\b|\b(?:sorry|apologi[sz]e)\b",
    re.IGNORECASE,
)
"""An answer that says there is no answer is about the sources, not from them."""
STOP = frozenset(
    """
    a about e.g i.e above after again all also am an and any are as at be because been before being below between both but by can could
    did do does doing don down during each etc few for from further get gets had has have having he her here hers him his how i if
    in into is it its itself just let like ll may me might more most must my no nor not now of off on once one only or other our
    out over own per s same shall she should so some such t than that the their them then there these they this those through to
    too under until up us use used uses using very via want was way we well were what when where which while who whom why will
    with within without would you your yours
    """.split()
)


class Words:
    """The content words of a text: weights by stem, pairs of neighbours, and the names and numbers among them."""

    def __init__(self, text: str):
        self.weights: dict[str, float] = {}
        self.pairs: set[tuple[str, str]] = set()
        self.names: set[str] = set()
        self.code = {plain(span) for span in CODE.findall(text)}
        before = None
        for match in TOKEN.finditer(LINK.sub("] ", NUMBERING.sub("", text))):
            word = match[0].lower()
            if word in STOP:
                continue
            named = match[0][0].isdigit() or "_" in word or "." in word or bool(HUMP.search(match[0]))
            word = word if named else stem(word)
            # Names and numbers say most, short words least.
            self.weights[word] = 2.0 if named else 1.0 if len(word) > 3 else 0.7
            if named:
                self.names.add(word)
            if before is not None:
                self.pairs.add((before, word))
            before = word


def plain(code: str) -> str:
    """A piece of code as it is compared: small letters, no spaces, and no call or attribute signs at its ends."""
    return "".join(code.lower().split()).strip("().")


def stem(word: str) -> str:
    """`word` without a common English ending; at least three letters stay."""
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


class Evidence:
    """The passages an answer may cite."""

    def __init__(self, passages: Sequence[Passage]):
        self._texts = [Text(passage) for passage in passages]

    def find(self, sentence: str) -> int | None:
        """The passage that supports the sentence, as its place in the list; None where none does. Earlier passages win ties."""
        words = Words(sentence)
        if len(words.weights) < MIN_WORDS or REFUSAL.search(sentence):
            return None
        scores = [text.support(words) for text in self._texts]
        best = max(range(len(scores)), key=lambda index: scores[index], default=None)
        return best if best is not None and scores[best] >= SUPPORTED else None


class Text:
    """One passage, prepared for many sentences."""

    def __init__(self, passage: Passage):
        heading = " ".join((passage.title, *passage.chunk.headings))
        sentences = [sentence for sentence in SENTENCE.split(passage.chunk.text) if sentence.strip()]
        self._whole = Words(f"{heading}\n{passage.chunk.text}")
        self._plain = plain(passage.chunk.text)
        self._windows = [Words(" ".join((heading, *sentences[at : at + WINDOW]))).weights for at in range(len(sentences))]

    def support(self, words: Words) -> float:
        """How far the passage says what the words say, 0..1; 0 where it lacks a name, number or piece of code, or shares too few words."""
        if not words.names <= self._whole.weights.keys() or not all(code in self._plain for code in words.code):
            return 0.0
        window = max(self._windows, default={}, key=lambda held: sum(weight for word, weight in words.weights.items() if word in held))
        shared = [word for word in words.weights if word in window]
        if len(shared) < MIN_WORDS:
            return 0.0
        share = sum(words.weights[word] for word in shared) / sum(words.weights.values())
        pairs = len(words.pairs & self._whole.pairs) / len(words.pairs) if words.pairs else 0.0
        return WORDS_SHARE * share + (1 - WORDS_SHARE) * pairs
