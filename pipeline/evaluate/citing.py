"""`make bench-citations`: citations, abridged passages and unanswerable questions, measured on mtRAG-UN."""

import sys
from argparse import ArgumentParser
from itertools import chain
from pathlib import Path

from deployments.core.config import Settings
from deployments.embedder.model import load
from pipeline.evaluate import abridging, attribution, refusing
from pipeline.evaluate.embeddings import Embeddings
from pipeline.evaluate.references import References


def main() -> None:
    """Measure, and print a line for each result."""
    parser = ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder that holds mtrag_un")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where vectors are kept for the next run")
    given = parser.parse_args()
    settings = Settings(data_dir=given.reports)
    embeddings = Embeddings(given.reports / "vectors", settings.embedder.revision, load(settings).encode)
    references = References(given.data / "mtrag_un", embeddings)
    for line in chain(attribution.report(references), abridging.report(references), refusing.report(references)):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
