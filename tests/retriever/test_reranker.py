"""Tiny CrossEncoders, built here: one of random weights, and one that counts the word `wheel`."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from deployments.core.config import Retriever as Limits
from deployments.core.config import Settings
from deployments.core.types import Chunk, Principal, Query, Source
from deployments.retriever.reranker import Reranker
from deployments.retriever.search import Hit
from deployments.retriever.service import Retriever
from tests.fakes import FakeEmbeds

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "wheel", "water", "bread", "the", "mill"]
WHEEL = WORDS.index("wheel")
OURS = Principal("ours", "key", frozenset())


def save(folder: Path, weights: bool) -> Path:
    """A model of one layer and eight dimensions; with `weights` the mean of its tokens decides, and only `wheel` is not nought."""
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        num_labels=1,
        layer_norm_eps=1.0 if weights else 1e-12,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    if weights:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            for name, module in model.named_modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.weight.fill_(1)
                if name.endswith(("self.value", "attention.output.dense", "pooler.dense")):
                    module.weight.copy_(torch.eye(8))
            model.bert.embeddings.word_embeddings.weight[WHEEL, 0] = 9
            model.classifier.weight[0, 0] = 3
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def hit(number: int, text: str) -> Hit:
    return Hit(f"f{number}", "", "", Chunk(0, text, (), 0, len(text), 5), 0.5)


HITS = [hit(0, "the bread"), hit(1, "the water wheel"), hit(2, "wheel wheel wheel"), hit(3, "the mill")]


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    return save(tmp_path, weights=True)


async def test_the_model_decides_the_order(counting: Path):
    scores = await Reranker(str(counting), 20).scores("the mill", HITS)
    assert sorted(scores, key=lambda key: -scores[key])[:2] == [("f2", 0), ("f1", 0)]
    assert scores["f0", 0] == pytest.approx(scores["f3", 0])
    assert all(0 <= score <= 1 for score in scores.values())


async def test_no_more_candidates_are_read_than_are_allowed(counting: Path):
    reranker = Reranker(str(counting), 2)
    assert set(await reranker.scores("the mill", HITS)) == {("f0", 0), ("f1", 0)}
    assert await reranker.scores("the mill", []) == {}


async def test_the_event_loop_goes_on_while_a_model_of_any_weights_reads(tmp_path: Path):
    reranker = Reranker(str(save(tmp_path, weights=False)), 100)
    reading = asyncio.gather(*(reranker.scores("the mill", HITS * 25) for _ in range(4)))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100
    first, *others = await reading
    assert all(other == first for other in others)


async def test_a_search_is_in_the_order_of_the_configured_model(counting: Path, tmp_path: Path):
    settings = Settings(data_dir=tmp_path, retriever=Limits(reranker=str(counting), min_similarity=-1))
    retriever = Retriever(settings)
    for one in HITS:
        await retriever.replace(OURS, "store", Source(one.file_id), [one.chunk], FakeEmbeds.vector(one.chunk.text)[None])
    found = await retriever.search(Query(OURS, "store", "the bread", FakeEmbeds.vector("the bread")))
    assert [passage.file_id for passage in found[:2]] == ["f2", "f1"]
    assert [passage.score for passage in found] == sorted((passage.score for passage in found), reverse=True)


def test_without_one_torch_stays_out_of_memory():
    code = """
import sys
from deployments.core.config import Settings
from deployments.retriever.service import Retriever
Retriever(Settings())
sys.exit("torch" in sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
