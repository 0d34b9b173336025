"""Whether a passage says what a sentence says, judged by their words; pure and without a model."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache

from deployments.core.types import Passage

SUPPORTED = 0.55
"""Least score of a citation; tuned by `make bench-citations`, with a foreign sentence beside each own one."""
NEAR = 0.7
"""What part of the best passage's score makes another one a source, too."""
MOST = 3
"""Passages cited for one sentence."""
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
        for token in TOKEN.findall(LINK.sub("] ", NUMBERING.sub("", text))):
            word = token.lower()
            if word in STOP:
                continue
            named = (not word.isalpha() and (word[0].isdigit() or "_" in word or "." in word)) or bool(HUMP.search(token))
            if named:
                self.names.add(word)
            else:
                word = stem(word)
            # Names and numbers say most, short words least.
            self.weights[word] = 2.0 if named else 1.0 if len(word) > 3 else 0.7
            if before is not None:
                self.pairs.add((before, word))
            before = word


class Asked:
    """A question's words, weighted by their rarity among some texts: a word that none of them holds weighs most."""

    def __init__(self, question: str, held: Sequence[Mapping[str, float]]):
        asked = Words(question).weights
        rarity = {word: math.log(1 + len(held) / (0.5 + sum(word in words for words in held))) for word in asked}
        whole = sum(rarity.values()) or 1.0
        self._parts = {word: weight / whole for word, weight in rarity.items()}

    def share(self, words: Mapping[str, float]) -> float:
        """What part of the question the words hold, 0..1."""
        return sum(part for word, part in self._parts.items() if word in words)


def plain(code: str) -> str:
    """A piece of code as it is compared: small letters, no spaces, and no call or attribute signs at its ends."""
    return "".join(code.lower().split()).strip("().")


@lru_cache(maxsize=16384)
def stem(word: str) -> str:
    """`word` without a common English ending; at least three letters stay. Kept, as a language has few words."""
    if not word.endswith(SUFFIXES):
        return word
    return next((word[: -len(suffix)] for suffix in SUFFIXES if word.endswith(suffix) and len(word) - len(suffix) >= 3), word)


class Evidence:
    """The passages an answer may cite; they are read when the first sentence asks."""

    def __init__(self, passages: Sequence[Passage]):
        self._passages = passages

    @cached_property
    def _texts(self) -> list["Text"]:
        return [Text(passage) for passage in self._passages]

    def find(self, sentence: str) -> list[int]:
        """The passages that support the sentence, as places in the list, best first; [] where none does. Earlier passages win ties."""
        return best(self.scores(sentence))

    def scores(self, sentence: str) -> list[float]:
        """How far each passage supports the sentence, 0..1; all 0 for one that says little, or that there is no answer."""
        words = Words(sentence)
        if len(words.weights) < MIN_WORDS or REFUSAL.search(sentence):
            return [0.0] * len(self._passages)
        return [text.support(words) for text in self._texts]


def best(scores: Sequence[float], supported: float = SUPPORTED, near: float = NEAR) -> list[int]:
    """The places of the scores that are high enough, and not far under the highest; highest first, at most MOST."""
    least = max(supported, near * max(scores, default=0.0))
    return sorted((place for place, score in enumerate(scores) if score >= least), key=lambda place: -scores[place])[:MOST]


class Text:
    """One passage, prepared for many sentences."""

    def __init__(self, passage: Passage):
        text = passage.chunk.text
        heading = Words("\n".join((passage.title, *passage.chunk.headings)))
        parts = [text] if passage.chunk.attributes else SENTENCE.split(text)  # the fields of a record are said in one sentence
        sentences = [Words(part) for part in parts if part.strip()]
        self._plain = plain(text)
        self._heading = heading.weights.keys()
        self._pairs = heading.pairs.union(*(sentence.pairs for sentence in sentences))
        self._places: dict[str, set[int]] = {word: set() for word in self._heading}
        """The sentences that each word is in."""
        for place, sentence in enumerate(sentences):
            for word in sentence.weights:
                self._places.setdefault(word, set()).add(place)

    def support(self, words: Words) -> float:
        """How far the passage says what the words say, 0..1; 0 where it lacks a name, number or piece of code, or shares too few words."""
        if not words.names <= self._places.keys() or not all(code in self._plain for code in words.code):
            return 0.0
        held = [(weight, self._places[word], word in self._heading) for word, weight in words.weights.items() if word in self._places]
        if len(held) < MIN_WORDS:
            return 0.0
        weight, count = self._window(held)
        if count < MIN_WORDS:
            return 0.0
        pairs = len(words.pairs & self._pairs) / len(words.pairs) if words.pairs else 0.0
        return WORDS_SHARE * weight / sum(words.weights.values()) + (1 - WORDS_SHARE) * pairs

    def _window(self, held: Sequence[tuple[float, set[int], bool]]) -> tuple[float, int]:
        """Weight and number of the words that are found together in neighbouring sentences, where these weigh most."""
        always = sum(weight for weight, _, titled in held if titled), sum(titled for _, _, titled in held)
        found: dict[int, tuple[float, int]] = {}
        for weight, places, titled in held:
            if not titled:
                for start in {place - back for place in places for back in range(WINDOW)}:
                    before = found.get(start, always)
                    found[start] = before[0] + weight, before[1] + 1
        return max(found.values(), default=always)
