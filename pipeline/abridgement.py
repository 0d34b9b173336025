"""Passages cut to a token budget: the sentences that speak most to a question, in their order; pure and without a model."""

import math
import re
from collections.abc import Iterator, Sequence

import msgspec

from deployments.core.types import Passage
from pipeline.support import SENTENCE, Asked, Words

EARLIER_WEIGHT = 0.5
"""What the words of earlier questions count beside those of the last: a short follow-up names nothing itself."""
NEIGHBOUR_WEIGHT = 0.5
"""What the better of its two neighbours counts for a sentence."""
RANK_WEIGHT = 0.3
"""What the best passage's sentences are given; the one at place n (from 0) gives 1 / (1 + 0.2 n) of it. The search has seen meaning."""
RANK_FALL = 0.2
PROSE_BONUS = 0.4
"""For ending like a sentence: menus, captions and crumbs of navigation do not."""
PLACE_COST = 0.01
"""What each sentence before it in its passage costs a sentence, for at most ten."""
EARLIER = 2
"""Earlier questions that are looked at."""
ENDS = (".", "!", "?", ":")
SHORT_CHARS = 60
LENGTH_POWER = 0.1
"""Long sentences take more of the budget than they are worth: scores are divided by their length to this power."""
BLOCK = re.compile(r"^(?:(?P<fence>```+|~~~+).*?(?:^(?P=fence)[^\n]*(?:\n|\Z)|\Z)|(?:[ \t]*\|[^\n]*(?:\n|\Z))+)", re.DOTALL | re.MULTILINE)
"""Code in fences and tables: kept whole or left out."""
HEADING = re.compile(r"#{1,6}\s")


class Piece(msgspec.Struct, frozen=True):
    """A sentence, a heading or a whole block of the passage at that place, with the white space behind it.

    `above` is the place of the heading over it, among all pieces.
    """

    passage: int
    text: str
    tokens: float
    above: int | None
    heads: bool = False


def abridge(question: str, passages: Sequence[Passage], limit_tokens: int, earlier: Sequence[str] = ()) -> tuple[Passage, ...]:
    """The passages within `limit_tokens`: as they are where they fit, else with the sentences that speak most to the question.

    Sentences stay in order, each once, under the heading above them; code blocks and tables are whole or not there, and a passage of
    which nothing is left is not there either. `earlier` are the questions before. Texts that are cut are no spans of their documents.
    """
    if sum(passage.chunk.tokens for passage in passages) <= limit_tokens:
        return tuple(passages)
    pieces = _pieces(passages)
    kept: dict[int, list[str]] = {}
    for place in sorted(_choose(pieces, _scores(question, earlier, pieces), limit_tokens)):
        kept.setdefault(pieces[place].passage, []).append(pieces[place].text)
    return tuple(shortened(passages[number], "".join(texts).strip()) for number, texts in kept.items())


def _pieces(passages: Sequence[Passage]) -> list[Piece]:
    pieces: list[Piece] = []
    for number, passage in enumerate(passages):
        above = None
        each = passage.chunk.tokens / (len(passage.chunk.text) or 1)
        for text in _split(passage.chunk.text):
            heads = bool(HEADING.match(text))
            pieces.append(Piece(number, text, each * len(text), None if heads else above, heads))
            above = len(pieces) - 1 if heads else above
    return pieces


def _split(text: str) -> Iterator[str]:
    at = 0
    for block in BLOCK.finditer(text):
        yield from _sentences(text[at : block.start()])
        yield block[0]
        at = block.end()
    yield from _sentences(text[at:])


def _sentences(text: str) -> Iterator[str]:
    at = 0
    for gap in SENTENCE.finditer(text):
        if text[at : gap.start()].strip():
            yield text[at : gap.end()]
            at = gap.end()
    if text[at:].strip():
        yield text[at:]


def _scores(question: str, earlier: Sequence[str], pieces: Sequence[Piece]) -> list[float]:
    held = [Words(piece.text).weights for piece in pieces]
    last, before = Asked(question, held), Asked(" ".join(earlier[-EARLIER:]), held)
    shares = [last.share(words) + EARLIER_WEIGHT * before.share(words) for words in held]
    scores: list[float] = []
    place = 0
    for at, piece in enumerate(pieces):
        place = place + 1 if at and pieces[at - 1].passage == piece.passage else 0
        beside = [shares[next] for next in (at - 1, at + 1) if 0 <= next < len(pieces) and pieces[next].passage == piece.passage]
        score = shares[at] + NEIGHBOUR_WEIGHT * max(beside, default=0.0) + RANK_WEIGHT / (1 + RANK_FALL * piece.passage)
        score += PROSE_BONUS * piece.text.rstrip().endswith(ENDS) - PLACE_COST * min(place, 10)
        scores.append(score / (SHORT_CHARS + len(piece.text)) ** LENGTH_POWER)
    return scores


def _choose(pieces: Sequence[Piece], scores: Sequence[float], limit_tokens: int) -> set[int]:
    """The places of what is kept."""
    kept: set[int] = set()
    said: set[str] = set()
    left = float(limit_tokens)
    for at in sorted(range(len(pieces)), key=lambda at: -scores[at]):
        piece = pieces[at]
        key = " ".join(piece.text.lower().split())
        wanted = {place for place in (at, piece.above) if place is not None and place not in kept}
        cost = sum(pieces[place].tokens for place in wanted)
        if not piece.heads and key not in said and cost <= left:
            said.add(key)
            kept |= wanted
            left -= cost
    return kept


def shortened(passage: Passage, text: str) -> Passage:
    """The passage with a part of its text, and that part of its tokens."""
    tokens = math.ceil(passage.chunk.tokens * len(text) / (len(passage.chunk.text) or 1))
    return msgspec.structs.replace(passage, chunk=msgspec.structs.replace(passage.chunk, text=text, tokens=tokens))
