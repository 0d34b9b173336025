"""A CrossEncoder reads question and passage together: slower than any vector, and a better judge; loaded where configured only."""

import asyncio
from collections.abc import Sequence

import torch
from sentence_transformers import CrossEncoder

from deployments.retriever.chunk import embedded_text
from deployments.retriever.search import Hit, Key


class Reranker:
    """One model on one torch thread, one question at a time; `candidates` bounds the passages it reads for one."""

    def __init__(self, model: str, candidates: int):
        torch.set_num_threads(1)
        self._model = CrossEncoder(model, device="cpu", num_labels=1, activation_fn=torch.nn.Sigmoid())
        self._candidates = candidates
        self._turn = asyncio.Lock()

    async def scores(self, question: str, hits: Sequence[Hit]) -> dict[Key, float]:
        """How well each of the first hits answers the question, 0..1; the event loop stays free meanwhile."""
        read = hits[: self._candidates]
        if not read:
            return {}
        pairs = [(question, embedded_text(hit.title, hit.chunk)) for hit in read]
        async with self._turn:
            scores = await asyncio.to_thread(self._model.predict, pairs, show_progress_bar=False)
        return {hit.key: float(score) for hit, score in zip(read, scores, strict=True)}
