"""Documentation as a collection: pages cut as ingestion cuts them, questions about them, and their later versions."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

from deployments.core.config import Settings
from deployments.embedder.tokens import tokens
from deployments.retriever.chunk import chunk
from deployments.retriever.parse import parse
from deployments.retriever.search import vocabulary
from pipeline.evaluate.collections import Collection, Document, Question, lines


class Cutter:
    """Cuts a page into the documents of a collection, one a passage."""

    def __init__(self, settings: Settings):
        self._cut = partial(chunk, limit_tokens=settings.retriever.chunk_tokens, count=tokens(settings).count)

    def cut(self, page: str, content: str, version: str = "", created_at: int = 0) -> list[Document]:
        """The passages of a page; `version` tells those of one version from another's."""
        document = parse(content.encode(), page)
        return [
            Document(f"{page}#{one.number}{version}", _path(document.title, one.headings), one.text, page + version, created_at)
            for one in self._cut(document)
        ]


def documentation(folder: Path, questions: Path, cutter: Cutter) -> tuple[Collection, list[str]]:
    """The pages of a folder with questions whose right pages are known, and questions that none of them answers."""
    pages = {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*.md"))}
    documents = tuple(one for page, content in pages.items() for one in cutter.cut(page, content))
    known = {str(number): row for number, row in enumerate(lines(questions / "fastapi_docs.jsonl"))}
    relevant = {name: {one.id for one in documents if one.file_id in row["pages"]} for name, row in known.items()}
    asked = {name: Question(row["question"]) for name, row in known.items()}
    foreign = [row["question"] for row in lines(questions / "off_topic.jsonl")]
    return Collection("documentation", documents, asked, relevant), foreign


def versions(folder: Path, cutter: Cutter) -> Collection:
    """Passages of a documentation that were changed later, before and after; the question is the path of the section.

    Its answer is the newer one. The older ones are as old as the first change.
    """
    changes = list(lines(folder / "doc_changes.jsonl"))
    first = _seconds(changes[0]["time"])
    old: dict[str, Document] = {}
    new: dict[str, Document] = {}
    for change in changes:
        for page, text in ((one["path"], one.get("text")) for one in change["changes"]):
            before = folder / "base" / page
            if text and page.endswith(".md") and before.is_file():
                for one, other in _changed(
                    cutter.cut(page, before.read_text(), "@old", first), cutter.cut(page, text, "@new", _seconds(change["time"]))
                ):
                    old[one.title], new[other.title] = one, other
    questions = {title: Question(title.replace(" > ", " ")) for title in new}
    documents = (*old.values(), *new.values())
    return Collection("versions", documents, questions, {title: {one.id} for title, one in new.items()})


def _changed(before: list[Document], after: list[Document]) -> Iterator[tuple[Document, Document]]:
    """The passages under the same headings, one before and one after, whose words differ."""
    for one in before:
        same = [other for other in after if other.title == one.title]
        if len(same) == 1 and sum(other.title == one.title for other in before) == 1 and vocabulary(same[0].text) != vocabulary(one.text):
            yield one, same[0]


def _path(title: str, headings: tuple[str, ...]) -> str:
    return " > ".join([title, *(heading for heading in headings if heading != title)])


def _seconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp())
