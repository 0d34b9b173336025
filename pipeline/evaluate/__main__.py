"""`python -m pipeline.evaluate DATA` measures how well passages are found; `--tune` chooses the weights of the fusion."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from deployments.core.config import Settings
from deployments.core.types import Message
from deployments.embedder.model import load
from deployments.retriever.fusion import VECTOR_SHARE, fuse
from deployments.retriever.ranking import select
from deployments.retriever.search import Hit
from pipeline.evaluate import collections, tasks
from pipeline.evaluate.collections import Collection
from pipeline.evaluate.embeddings import Embeddings
from pipeline.evaluate.finding import DEPTH, Found, find, names
from pipeline.evaluate.measures import Ranking, Score, gain, score
from pipeline.evaluate.pages import Cutter, documentation, versions
from pipeline.followup import asked, stands

SHARES = [number / 20 for number in range(21)]
Rankings = Mapping[str, Ranking]


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluate", description=__doc__)
    parser.add_argument("data", type=Path, help="the folder of public data sets; docs/data.md says where each comes from")
    parser.add_argument("--tune", action="store_true", help="try weights of the fusion on the tuning half of SciFact instead")
    parser.add_argument("--cache", type=Path, default=Path("reports/retrieval"), help="where embeddings are kept for the next run")
    parser.add_argument("--questions", type=Path, default=Path("tests/questions"))
    options = parser.parse_args()
    settings = Settings(data_dir=options.cache)
    embeddings = Embeddings(options.cache / "vectors", settings.embedder.revision, load(settings).encode)
    console = Console(width=140)
    if options.tune:
        tune(console, collections.scifact(options.data / "scifact"), embeddings)
        return
    claims, turns = collections.scifact(options.data / "scifact"), collections.mtrag(options.data / "mtrag_un")
    least = settings.retriever.min_similarity
    said, claimed = searched(turns, embeddings), searched(claims, embeddings)
    for collection, found in ((turns, said), *((half, claimed) for half in collections.halves(claims))):
        quality(console, collection, {name: found[name] for name in collection.questions}, least)
    conversations(console, turns, said, embeddings, least)
    cutter = Cutter(settings)
    justify(console, [tasks.duplicates(turns, embeddings)])
    justify(console, [tasks.recency(versions(options.data / "events_fastapi_docs", cutter), embeddings), tasks.ageless(claims, claimed)])
    pages, foreign = documentation(options.data / "docs_fastapi" / "docs", options.questions, cutter)
    known, strangers = searched(pages, embeddings), find(pages, {text: text for text in foreign}, embeddings)
    justify(console, tasks.long_document(pages, known))
    justify(console, tasks.grounding(pages, known, strangers, least))


def searched(collection: Collection, embeddings: Embeddings) -> dict[str, Found]:
    """What is found for the questions of a collection as they are."""
    return find(collection, {name: question.text for name, question in collection.questions.items()}, embeddings)


def quality(console: Console, collection: Collection, found: Mapping[str, Found], least: float) -> None:
    """Each search alone, both, and both with all that follows."""
    ways = rankings(collection, found)
    table = Table("search", "nDCG@10", "Recall@10", "Recall@100", "N", "empty", title=collection.name)
    for name, ranked in ways.items():
        table.add_row(name, *_cells(score(ranked, collection.relevant)))
    console.print(table)
    better = max(("vector", "text"), key=lambda name: score(ways[name], collection.relevant).ndcg10)
    difference, low, high = gain(ways["hybrid"], ways[better], collection.relevant)
    console.print(f"hybrid over {better} alone: {difference:+.4f} nDCG@10, 95 % of resamples {low:+.4f} to {high:+.4f}")
    difference, low, high = gain(ways["hybrid + extras"], ways["hybrid"], collection.relevant)
    console.print(f"extras over hybrid: {difference:+.4f}, {low:+.4f} to {high:+.4f}")
    difference, low, high = gain(ways["each text once"], ways["hybrid"], collection.relevant)
    console.print(f"each text once, as in prompts, over hybrid: {difference:+.4f}, {low:+.4f} to {high:+.4f}")
    console.print(f"prompts that the relevance cut leaves without a passage: {tasks.emptied(found, least)} of {len(found)}\n")


def hybrid(collection: Collection, one: Found) -> list[str]:
    """Both searches in one order, and nothing else."""
    return names(collection, [hit for hit, _ in fuse(one.nearest, one.matching)])


def rankings(collection: Collection, found: Mapping[str, Found]) -> dict[str, Rankings]:
    """The ways to rank what was found, by name; the extras are those of a result of ten, and of a hundred behind it.

    A search that somebody asks for finds copies of a text; a prompt gets each text once, which these judgements count as a loss.
    """

    def extras(one: Found, everything: bool) -> list[str]:
        fused = fuse(one.nearest, one.matching)
        picked = [[hit.chunk.number for hit in select(one.query(limit, everything=everything), fused, 0)] for limit in (10, DEPTH)]
        return [collection.documents[number].id for number in dict.fromkeys(number for numbers in picked for number in numbers)]

    return {
        "vector": {name: names(collection, one.nearest) for name, one in found.items()},
        "text": {name: names(collection, one.matching) for name, one in found.items()},
        "hybrid": {name: hybrid(collection, one) for name, one in found.items()},
        "hybrid + extras": {name: extras(one, everything=True) for name, one in found.items()},
        "each text once": {name: extras(one, everything=False) for name, one in found.items()},
    }


def conversations(console: Console, turns: Collection, said: Mapping[str, Found], embeddings: Embeddings, least: float) -> None:
    """Last turns as they are, all turns of the user joined, and ours; the tuning half is where the words that point back were chosen."""
    questions = turns.questions.items()
    ours = {name: asked(one.text, [Message(role, text) for role, text in one.history]) for name, one in questions}  # pyright: ignore[reportArgumentType]
    joined = {name: "\n".join([*(text for role, text in one.history if role == "user"), one.text]) for name, one in questions}
    by_text, by_meaning = (
        find(turns, {name: getattr(one, kind) for name, one in ours.items()}, embeddings) for kind in ("text", "meaning")
    )
    both = {name: msgspec.structs.replace(one, nearest=_unmatched(by_meaning[name].nearest)) for name, one in by_text.items()}
    ways = {"last turn": said, "joined turns": find(turns, joined, embeddings), "ours": both}
    for part in collections.halves(turns):
        table = Table("query", "nDCG@10", "Recall@10", "Recall@100", "N", "empty", title=f"{part.name}, hybrid")
        ranked = {way: {name: hybrid(turns, found[name]) for name in part.questions} for way, found in ways.items()}
        for way, ranking in ranked.items():
            table.add_row(way, *_cells(score(ranking, turns.relevant)))
        console.print(table)
        difference, low, high = gain(ranked["ours"], ranked["last turn"], turns.relevant)
        console.print(f"ours over the last turn: {difference:+.4f} nDCG@10, 95 % of resamples {low:+.4f} to {high:+.4f}")
        emptied = {way: tasks.emptied({name: found[name] for name in part.questions}, least) for way, found in ways.items()}
        console.print(f"prompts that the relevance cut leaves without a passage: {emptied}")
        console.print(f"rewritten: {sum(not stands(one.text) and bool(one.history) for one in part.questions.values())}\n")


def _unmatched(nearest: Sequence[Hit]) -> list[Hit]:
    """Hits of one search that go with the text search of another, which has not found them."""
    return [msgspec.structs.replace(hit, bm25=0.0) for hit in nearest]


def justify(console: Console, trials: Sequence[tasks.Trial]) -> None:
    """A step after the fusion on its own task."""
    for one in trials:
        console.print(f"{one.task}: {one.measure}, N={one.questions}: {one.without:.4g} without, {one.with_step:.4g} with")


def tune(console: Console, claims: Collection, embeddings: Embeddings) -> None:
    """nDCG@10 of the tuning half for each share that the cosine may have."""
    half, _ = collections.halves(claims)
    found = searched(half, embeddings)
    table = Table("vector share", "nDCG@10", title=f"{half.name}, N={len(found)}; now {VECTOR_SHARE}")
    for share in SHARES:
        ranked = {name: names(half, [hit for hit, _ in fuse(one.nearest, one.matching, share)]) for name, one in found.items()}
        table.add_row(f"{share:.2f}", f"{score(ranked, half.relevant).ndcg10:.4f}")
    console.print(table)


def _cells(result: Score) -> list[str]:
    means = [f"{value:.4f}" for value in (result.ndcg10, result.recall10, result.recall100)]
    return [*means, str(result.queries), str(result.empty)]


if __name__ == "__main__":
    main()
