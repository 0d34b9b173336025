"""Decides by code which passage supports which sentence of an answer, while it streams; sans-I/O.

The model's word counts for nothing: markers it writes are dropped, ours appear only where a sentence's words are found in a passage.
"""

import re
from collections.abc import Sequence

from deployments.core.types import Citation, Generation, Passage
from pipeline.support import Evidence

MAX_SENTENCE_CHARS = 2000
"""A longer sentence is not cited; only this much of it is kept."""
MAX_FILES = 3
"""Documents cited in one answer."""
MARKER = re.compile(r"\[\^?\d{1,2}(?:[,;] ?\d{1,2}){0,5}\]")
PARTIAL = re.compile(r"\[(?:\^?(?:\d{1,2}(?:[,;] ?\d{1,2}){0,5}(?:[,;] ?)?)?)?")
ENDED = re.compile(r"[.!?…][\"'”\u2019)\]*_`]*$")
ABBREVIATED = re.compile(r"(?:\b(?:e\.g|i\.e|vs|cf|dr|mr|mrs|ms|prof|no|fig|approx|ca|al|[a-z])|^\W*\d{1,3})\.$", re.IGNORECASE)
PART = re.compile(r"[^\s\[`]+|.", re.DOTALL)
"""What is taken in one step: a word, or a character that may mean something."""
UNCITED = re.compile(r"\s*(?:#|\||```|~~~|>\s*$)")
"""Lines that take no marker: headings, table rows, fences."""


class Verbatim:
    """Changes nothing: an answer without passages has nothing to cite, and JSON has no place for a marker; implements Relay."""

    def feed(self, text: str) -> list[str | Citation]:
        """The text as it is."""
        return [text]

    def flush(self) -> list[str | Citation]:
        """Nothing is held back."""
        return []


def cite(generation: Generation) -> "CitationFilter | Verbatim":
    """The filter for one model call."""
    if not generation.passages or generation.sampling.owes_json:
        return Verbatim()
    return CitationFilter(generation.passages, generation.citation_urls)


class CitationFilter:
    """Passes an answer on and puts ` [n]` and a Citation behind each sentence that a passage supports; implements Relay.

    Text goes out with the feed that brought it; held back are only white space at its end and what may become a marker of the model's.
    Sentences end at `.!?` before white space (not before a small letter, nor after an abbreviation) and at line ends; scripts that
    write no spaces are cited by the line. Numbers count from 1 in the order of first citation.
    """

    def __init__(self, passages: Sequence[Passage], urls: Sequence[str]):
        self._passages = passages
        self._urls = urls
        self._evidence = Evidence(passages)
        self._numbers: dict[int, int] = {}
        self._written = 0
        self._space = ""
        self._candidate = ""
        self._sentence = ""
        self._line = ""
        self._fence = ""
        self._in_code = False
        self._out: list[str | Citation] = []

    def feed(self, text: str) -> list[str | Citation]:
        """What may be written now that the model has written `text`."""
        for part in PART.findall(text):
            if self._candidate:
                for character in part:
                    self._take(character)
            else:
                self._take(part)
        return self._drain()

    def flush(self) -> list[str | Citation]:
        """What is left, with the citation of a last sentence that no white space ended."""
        self._release()
        if not self._fence and not UNCITED.match(self._line):
            self._cite()
        self._write(self._space)
        self._space = ""
        return self._drain()

    def _take(self, part: str) -> None:
        """Take a part of the text; it is one character where a candidate is held."""
        if self._candidate:
            if part == "]" and MARKER.fullmatch(self._candidate + part):
                self._candidate = self._space = ""
                return
            if PARTIAL.fullmatch(self._candidate + part):
                self._candidate += part
                return
            self._release()
        if part == "[" and not self._in_code and not self._fence:
            self._candidate = part
        elif part == "\n":
            self._end_line()
        elif part.isspace():
            self._space += part
            if len(self._space) > MAX_SENTENCE_CHARS:
                self._pass("")
        else:
            self._pass(part)

    def _release(self) -> None:
        """The candidate was no marker."""
        candidate, self._candidate = self._candidate, ""
        for character in candidate:
            if character.isspace():
                self._space += character
            else:
                self._pass(character)

    def _pass(self, part: str) -> None:
        """Write a word with the space held before it; a sentence that ended before that space is cited first."""
        if self._space and not self._fence and not self._in_code and self._ended(part[:1]):
            self._cite()
        if part == "`":
            self._in_code = not self._in_code
        piece, self._space = self._space + part, ""
        self._write(piece)
        self._line = (self._line + piece)[:MAX_SENTENCE_CHARS]
        self._sentence = (self._sentence + piece)[: MAX_SENTENCE_CHARS + 1]

    def _ended(self, following: str) -> bool:
        tail = self._sentence[-24:]
        return (
            bool(ENDED.search(tail))
            and not following.islower()
            and not (ABBREVIATED.search(tail if len(self._sentence) > 24 else self._sentence))
        )

    def _end_line(self) -> None:
        opened = self._line.lstrip()[:3]
        if self._fence:
            if self._line.strip().startswith(self._fence):
                self._fence = ""
        elif opened in ("```", "~~~"):
            self._fence = opened
        elif not UNCITED.match(self._line):
            self._cite()
        self._write(self._space + "\n")
        self._space = self._line = self._sentence = ""
        self._in_code = False

    def _cite(self) -> None:
        """Put a marker here if a passage supports the sentence that ends here; a new sentence begins."""
        sentence, self._sentence = self._sentence, ""
        if len(sentence) > MAX_SENTENCE_CHARS or UNCITED.match(self._line):
            return
        for found in self._evidence.find(sentence):
            if self._within_files(found):
                number = self._numbers.setdefault(found, len(self._numbers) + 1)
                marker = f"[{number}]"
                self._write(f" {marker}")
                end = self._written
                self._out.append(Citation(end - len(marker), end, number, self._urls[found], self._passages[found].title))

    def _within_files(self, found: int) -> bool:
        cited = {self._passages[index].file_id for index in self._numbers}
        return self._passages[found].file_id in cited or len(cited) < MAX_FILES

    def _write(self, text: str) -> None:
        if not text:
            return
        self._written += len(text)
        if self._out and isinstance(self._out[-1], str):
            self._out[-1] += text
        else:
            self._out.append(text)

    def _drain(self) -> list[str | Citation]:
        out, self._out = self._out, []
        return out
