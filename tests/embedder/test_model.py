import sys

import numpy as np
import pytest

from deployments.core.config import Settings
from deployments.core.sections import Precision
from deployments.embedder.model import Encodes, load, prepare
from deployments.embedder.tokens import MAX_TOKENS, Tokens, tokens, wheel

TEXTS = ["How do I declare an optional query parameter?", "CORS", "", "日本語のテキスト", "word " * 600, "a lone \ud800 surrogate"]


def with_precision(settings: Settings, precision: Precision) -> Settings:
    return settings.model_copy(update={"embedder": settings.embedder.model_copy(update={"precision": precision})})


def test_vectors_are_unit_length_float32_in_the_order_of_the_texts(encoder: Encodes):
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), encoder.dimensions)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_text_has_the_same_vector_whatever_it_is_encoded_with(settings: Settings, precision: Precision):
    encoder = load(with_precision(settings, precision))
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-5)


def test_similar_texts_are_closer_than_unrelated_ones(encoder: Encodes):
    bread, loaf, cookies = encoder.encode(["baking a loaf of bread", "how to bake bread", "setting a cookie in an HTTP response"])
    assert bread @ loaf > 0.6 > 0.3 > bread @ cookies


def test_text_over_the_limit_of_the_model_is_cut_off(encoder: Encodes):
    start = "one two three four five six seven eight nine ten " * 40
    first, second = encoder.encode([start + "zebra " * 500, start + "engine " * 500])
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("int8", 0.98)])
def test_the_written_graph_gives_the_vectors_of_sentence_transformers(settings: Settings, precision: Precision, least: float):
    import logging

    logging.getLogger("transformers").setLevel(logging.ERROR)
    other = load(settings.model_copy(update={"embedder": settings.embedder.model_copy(update={"model": str(wheel())})}))
    encoder = load(with_precision(settings, precision))
    assert other.dimensions == encoder.dimensions
    assert (other.encode(TEXTS) * encoder.encode(TEXTS)).sum(axis=1).min() > least


def test_lengths_are_what_the_model_reads(encoder: Encodes):
    assert encoder.lengths(["", "hello world", "word " * 600]) == [2, 4, MAX_TOKENS]


def test_the_export_is_done_once(settings: Settings, encoder: Encodes):
    before = prepare(settings).stat().st_mtime_ns
    assert prepare(settings).stat().st_mtime_ns == before
    assert not [path for path in (settings.data_dir / "models").iterdir() if path.suffix != ".onnx"]


def test_counting_tokens_needs_no_torch():
    import subprocess

    script = "import sys; from deployments.embedder.tokens import tokens; from deployments.core.config import Settings; "
    script += "assert tokens(Settings()).count('hello world') == 2; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_tokens_are_counted_whole_and_without_special_tokens(settings: Settings):
    counter = tokens(settings)
    assert counter.count("") == 0
    assert counter.count("hello world") == 2
    assert counter.count("word " * 1000) == 1000
    assert len(Tokens(wheel()).encode(["word " * 1000])[0].ids) == MAX_TOKENS
