"""Builds the vocabulary that prompts are counted with out of the GGUF file that answers them; once, at set-up."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from gguf import GGUFReader
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from deployments.core.config import Settings
from deployments.core.tokenizer import Frame
from deployments.generator.llama import find_model

_logger = logging.getLogger("headrace")

_CONTROL = 3
"""`tokenizer.ggml.token_type` of tokens that no text turns into."""

_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
"""Pre-tokenizers that take digits one by one."""


def build(settings: Settings) -> None:
    """Make the vocabulary of the embedded model; doing so again costs nothing. Without one, tokens are estimated by bytes."""
    path = settings.vocabulary
    if path is None or path.exists():
        return
    model = find_model(settings.generator)
    reader = GGUFReader(str(model))

    def read(name: str) -> Any:
        field = reader.fields.get(f"tokenizer.{name}")
        return field.contents() if field else None

    if read("ggml.model") != "gpt2":
        _logger.warning("%s has a vocabulary of the kind '%s': prompts are counted by bytes", model.name, read("ggml.model"))
        return
    vocabulary = _bpe(read)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    template = read("chat_template")
    if template:
        path.with_suffix(".frame.json").write_bytes(msgspec.json.encode(_frame(template, vocabulary)))
    unfinished = path.with_suffix(".part")
    vocabulary.save(str(unfinished))
    unfinished.rename(path)


def _bpe(read: Callable[[str], Any]) -> Tokenizer:
    words: Sequence[str] = read("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in read("ggml.merges")]
    vocabulary = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges))
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if read("ggml.pre") in _SINGLE_DIGITS:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    vocabulary.pre_tokenizer = pre_tokenizers.Sequence(steps)  # type: ignore[assignment]
    kinds = read("ggml.token_type") or ()
    vocabulary.add_special_tokens([AddedToken(word) for word, kind in zip(words, kinds, strict=False) if kind == _CONTROL])
    return vocabulary


def _frame(template: str, vocabulary: Tokenizer) -> Frame:
    """What the template adds, seen by rendering it."""
    rendered = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)

    def tokens(*roles: str) -> int:
        messages = [{"role": role, "content": "x"} for role in roles]
        text = rendered.render(messages=messages, add_generation_prompt=True, bos_token="", eos_token="")
        return len(vocabulary.encode(text, add_special_tokens=False).ids)

    try:
        short, long, plain = tokens("system", "user"), tokens("system", "user", "assistant", "user"), tokens("user")
    except TemplateError as error:
        _logger.warning("the chat template can not be rendered: %s", error)
        return Frame()
    each = (long - short) // 2 - 1
    once = short - 2 * (each + 1)
    return Frame(once, each, plain - once - each - 1)
