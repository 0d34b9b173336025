"""`headrace ask`: one question, its answer as it is written, and its sources."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli.client import URL, Client, Refused, key, line, plain


@dataclass
class Answer:
    """What has come of an answer; sans-I/O."""

    text: str = ""
    finished: str = ""
    sources: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])

    def feed(self, chunk: dict[str, Any]) -> str:
        """Take a chunk; returns its text."""
        choices: list[dict[str, Any]] = chunk.get("choices") or []
        if not choices:
            return ""
        delta: dict[str, Any] = choices[0].get("delta") or {}
        piece = str(delta.get("content") or "")
        self.text += piece
        self.finished = str(choices[0].get("finish_reason") or self.finished)
        for annotation in delta.get("annotations") or ():
            self._cite(annotation["url_citation"])
        return piece

    def _cite(self, citation: dict[str, Any]) -> None:
        marker = self.text[citation["start_index"] : citation["end_index"]]
        self.sources.setdefault(marker, (str(citation["title"]), str(citation["url"])))


def write(console: Console, chunks: Iterable[dict[str, Any]]) -> Answer:
    """Print an answer as it comes; returns the whole."""
    answer = Answer()
    for chunk in chunks:
        if piece := plain(answer.feed(chunk)):
            console.out(piece, end="", highlight=False)
            console.file.flush()
    console.out("")
    return answer


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: Annotated[str, typer.Option(help="`headrace` answers from your documents, `headrace-direct` without them.")] = "headrace",
    url: Annotated[str, typer.Option(envvar="HEADRACE_URL", help="Where headrace answers.")] = URL,
    api_key: Annotated[
        str | None, typer.Option("--key", envvar="HEADRACE_API_KEY", help="API key; the demo tenant's if none is given.")
    ] = None,
) -> None:
    """Ask a question; the answer is shown as it is written, then its sources."""
    console = Console(highlight=False)
    try:
        with Client(url, key(api_key, url)) as client:
            answer = write(console, client.ask(question, model))
    except Refused as error:
        Console(stderr=True).print(Text(f"no answer: {error}", "red"), soft_wrap=True)
        raise typer.Exit(1) from None
    if answer.finished == "length":
        console.print(Text("(cut off: the answer reached its longest length)", "yellow"))
    if answer.sources:
        console.print()
    for marker, (title, link) in sorted(answer.sources.items(), key=lambda source: (len(source[0]), source[0])):
        console.print(Text(f"{line(marker)} {line(title)}  {line(link)}"), soft_wrap=True)
