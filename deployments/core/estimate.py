"""How long texts are in tokens, roughly, where no tokenizer of the model is at hand."""

CHARS_PER_TOKEN = 4
"""Characters of English text that make one token."""


def estimate(text: str) -> int:
    """How many tokens a text takes, roughly."""
    return len(text) // CHARS_PER_TOKEN
