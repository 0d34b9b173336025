"""Loads the embedding model: ONNX for the embedded one, sentence-transformers for any other."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distribution
from os import pathsep
from pathlib import Path
from threading import Lock
from typing import Protocol, cast

import numpy as np
import onnxruntime

from deployments.core.config import Settings, environment
from deployments.core.types import Vectors
from deployments.embedder.tokens import WHEEL, Tokens, clean, wheel

EXPORT_TIMEOUT_S = 300


class Encodes(Protocol):
    """Text to vectors, synchronously and from any thread."""

    dimensions: int

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit-length float32 vectors of shape (len(texts), dimensions); each text is cut at the model's limit."""
        ...


class OnnxEncoder:
    """An exported model on one onnxruntime thread.

    Against sentence-transformers on one torch thread: a query in 5.0 instead of 10.0 ms, the same vectors (cosine > .999999), and no
    torch in memory.
    """

    def __init__(self, file: Path, tokens: Tokens):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._tokens = tokens
        self.dimensions = self.encode(["warm up"]).shape[1]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See Encodes; the limit is 256 tokens."""
        encodings = self._tokens.encode(texts)
        ids = np.zeros((len(encodings), max(len(encoding) for encoding in encodings)), np.int64)
        mask = np.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding)] = encoding.ids
            mask[row, : len(encoding)] = 1
        return cast(Vectors, self._session.run(["vectors"], {"ids": ids, "mask": mask})[0])


class TorchEncoder:
    """Any sentence-transformers model on one torch thread, one call at a time: its tokenizer is not safe to share."""

    def __init__(self, model: str):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(1)
        self._model = SentenceTransformer(model)
        self._lock = Lock()
        self.dimensions = self.encode(["warm up"]).shape[1]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See Encodes."""
        with self._lock:
            vectors = self._model.encode(
                [clean(text) for text in texts], normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
            )
        return cast(Vectors, vectors).astype(np.float32, copy=False)


def prepare(settings: Settings) -> Path:
    """The ONNX file of the embedded model, exported if it is not there yet (about 10 s, once); raises CalledProcessError."""
    file = settings.data_dir.resolve() / "models" / f"{WHEEL}-{distribution(WHEEL).version}.onnx"
    if not file.is_file():
        command = [sys.executable, "-m", "deployments.embedder.export", str(wheel()), str(file)]
        # The child gets our import path: a Serve replica's code need not lie in its working directory.
        subprocess.run(
            command, check=True, timeout=EXPORT_TIMEOUT_S, capture_output=True, env=environment(PYTHONPATH=pathsep.join(sys.path))
        )
    return file


def load(settings: Settings) -> Encodes:
    """The configured model, warm."""
    if settings.embedder.model == "embedded":
        return OnnxEncoder(prepare(settings), Tokens(wheel()))
    return TorchEncoder(settings.embedder.model)
