"""The sentences of the passages that speak most to a question; pure and without a model.

A model of 135 million parameters answers few questions rightly in its own words, so the embedded one answers in sentences of the
sources: code ranks them here, the model chooses among them and puts them in order.
"""

import re
from collections.abc import Iterator, Sequence

import msgspec

from deployments.core.types import Chunk, Passage
from pipeline.abridgement import shortened
from pipeline.support import MIN_WORDS, REFUSAL, SENTENCE, Asked, Words

LIMIT = 4
"""Sentences put before the model."""
MAX_CHARS = 320
"""A longer sentence is no quotation."""
PASSAGE_WEIGHT = 1.5
"""How much the passage's rank counts beside the share of the question's words that the sentence holds."""
HEADINGS_WEIGHT = 0.3
"""How much the question's words in the passage's headings count."""
PLACE_COST = 0.02
"""What each sentence before it in its passage costs a sentence."""
COLON_COST = 0.2
"""What it costs a sentence to announce something that is not quoted with it."""
FENCED = re.compile(r"^(```+|~~~+).*?(?:^\1|\Z)", re.DOTALL | re.MULTILINE)
LINKED = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)(?:\{[^}\n]*\})?")
LEAD = re.compile(r"^(?:[#>*+-]+|\d{1,3}[.)]|/{3,})\s+")
UNQUOTED = re.compile(r"(?:[|<{]|:::|/{3}|@\w)|.*</")
"""Tables, markup and directives."""


class Excerpt(msgspec.Struct, frozen=True):
    """A sentence of the passage at that place in the list."""

    passage: int
    text: str


def excerpts(question: str, passages: Sequence[Passage], limit: int = LIMIT) -> tuple[Excerpt, ...]:
    """The sentences that answer best, best first; () where the passages hold neither prose nor short records."""
    found = dict.fromkeys(Excerpt(number, text) for number, passage in enumerate(passages) for text in quotable(passage.chunk))
    held = [Words(excerpt.text).weights for excerpt in found]
    asked = Asked(question, held)
    headings = [asked.share(Words(" ".join((passage.title, *passage.chunk.headings))).weights) for passage in passages]
    places: dict[int, int] = {}
    scores: dict[Excerpt, float] = {}
    for excerpt, words in zip(found, held, strict=True):
        place = places[excerpt.passage] = places.get(excerpt.passage, -1) + 1
        score = asked.share(words) + PASSAGE_WEIGHT * passages[excerpt.passage].score + HEADINGS_WEIGHT * headings[excerpt.passage]
        scores[excerpt] = score - PLACE_COST * place - COLON_COST * excerpt.text.endswith(":")
    best = sorted(scores, key=lambda excerpt: -scores[excerpt])
    distinct: dict[str, Excerpt] = {}
    for excerpt in best:
        distinct.setdefault(excerpt.text, excerpt)
    return tuple(distinct.values())[:limit]


def quotable(chunk: Chunk) -> Iterator[str]:
    """What of a passage can stand alone: its sentences, or the fields of a record on one line."""
    if not chunk.attributes:
        yield from sentences(chunk.text)
    elif len(record := ", ".join(line.strip() for line in chunk.text.splitlines() if line.strip())) <= MAX_CHARS:
        yield record


def sentences(text: str) -> Iterator[str]:
    """The sentences of a passage that can stand alone: prose, not code, tables or headings; links are reduced to their words."""
    for piece in SENTENCE.split(LINKED.sub(r"\1", FENCED.sub("\n", text))):
        sentence = LEAD.sub("", piece.strip()).strip()
        if UNQUOTED.match(sentence) or sentence[-1:] not in ".!?:" or len(sentence) > MAX_CHARS:
            continue
        if sentence[:1].islower() or sentence.count("(") != sentence.count(")"):
            continue  # a part of a sentence
        if len(Words(sentence).weights) > MIN_WORDS and not REFUSAL.search(sentence):
            yield sentence


def compress(passages: Sequence[Passage], chosen: Sequence[Excerpt]) -> tuple[Passage, ...]:
    """The passages with nothing but their chosen sentences, in the order of the best of each."""
    texts: dict[int, list[str]] = {}
    for excerpt in chosen:
        texts.setdefault(excerpt.passage, []).append(excerpt.text)
    return tuple(shortened(passages[number], "\n".join(kept)) for number, kept in texts.items())
