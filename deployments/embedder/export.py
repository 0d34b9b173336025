"""Turns a sentence-transformers model into one ONNX file, once.

Run as `python -m deployments.embedder.export FOLDER FILE`: a process of its own, so that torch never enters the embedder.
"""

import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sentence_transformers import SentenceTransformer

OPSET = 17


class Pipeline(torch.nn.Module):
    """A sentence-transformers model as a function of two tensors."""

    def __init__(self, model: SentenceTransformer):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Unit-length vectors (n, dimensions) of token ids and mask, both (n, tokens)."""
        vectors = self.model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
        return torch.nn.functional.normalize(vectors, p=2, dim=1)


def export(folder: Path, file: Path) -> None:
    """Write the model of `folder` to `file`; the file appears whole or not at all."""
    pipeline = Pipeline(SentenceTransformer(str(folder), device="cpu")).eval()
    ids = torch.tensor([[101, 2054, 102], [101, 2129, 102]])
    axes = {"ids": {0: "n", 1: "tokens"}, "mask": {0: "n", 1: "tokens"}, "vectors": {0: "n"}}
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent) as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about tracing; tests compare its vectors with torch's
        written = Path(temporary) / file.name
        torch.onnx.export(
            pipeline,
            (ids, torch.ones_like(ids)),
            str(written),
            dynamo=False,
            opset_version=OPSET,
            input_names=["ids", "mask"],
            output_names=["vectors"],
            dynamic_axes=axes,
        )
        written.replace(file)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
