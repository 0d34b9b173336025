"""A BERT encoder with mean pooling as an ONNX graph, in fp32 or with int8 matrix products.

Written node by node, because what torch exports spends a third of its time on masks. There is none here: only texts of as many tokens go
together, and onnxruntime computes attention without a mask in pieces that fit the cache. In int8 each weight column has a scale, and so
has each *token*: the usual dynamic quantisation takes one scale for a whole batch, so that a text's vector depends on its neighbours (by
up to .009 of cosine, measured); here it depends on the text alone. Activations are quantised as in LLM.int8 (arXiv 2208.07339, section
2.1, "vector-wise").
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from deployments.core.sections import Precision

OPSET = 17
MICROSOFT = "com.microsoft"
"""Operators of onnxruntime."""
ZERO = 128
"""The zero point of activations: onnxruntime multiplies unsigned by signed bytes fastest."""


@dataclass(frozen=True)
class Shape:
    """What config.json says of the encoder."""

    layers: int
    heads: int
    epsilon: float


def export(folder: Path, file: Path, precision: Precision) -> None:
    """Write the sentence-transformers model of `folder` (a BERT with mean pooling) to `file`, which appears whole or not at all."""
    told = json.loads((folder / "config.json").read_text())
    shape = Shape(told["num_hidden_layers"], told["num_attention_heads"], told["layer_norm_eps"])
    model = Graph(load_file(folder / "model.safetensors"), shape, precision).model()
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent) as temporary:
        written = Path(temporary) / file.name
        written.write_bytes(model.SerializeToString())
        written.replace(file)


@dataclass
class Graph:
    """Nodes and weights as they are added; every method returns the name of what it computes."""

    weights: Mapping[str, NDArray[np.float32]]
    shape: Shape
    precision: Precision
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict[str, onnx.TensorProto])

    def model(self) -> onnx.ModelProto:
        """The whole: `ids` (n, tokens), without padding, to unit-length `vectors` (n, dimensions)."""
        hidden = self._embedding()
        for layer in range(self.shape.layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden)
        mean = self.add("ReduceMean", hidden, axes=[1], keepdims=0)
        self.add("LpNormalization", mean, output="vectors", axis=-1, p=2)
        given = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "tokens"])]
        dimensions = self.weights["embeddings.word_embeddings.weight"].shape[1]
        made = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", dimensions])
        graph = helper.make_graph(self.nodes, "encoder", given, [made], list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)], ir_version=8)

    def add(self, operator: str, *inputs: str, output: str = "", domain: str = "", **attributes: int | float | list[int]) -> str:
        """One operator."""
        name = output or f"{operator}.{len(self.nodes)}"
        node = helper.make_node(operator, inputs, [name], name, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def constant(self, name: str, value: object) -> str:
        """A value that the model holds."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def _embedding(self) -> str:
        words = self.add("Gather", self._weight("embeddings.word_embeddings.weight"), "ids")
        # Every text is of type 0.
        places = self.weights["embeddings.position_embeddings.weight"] + self.weights["embeddings.token_type_embeddings.weight"][0]
        tokens = self.add("Slice", self.add("Shape", "ids"), self.constant("one", np.array([1])), self.constant("two", np.array([2])))
        near = self.add("Slice", self.constant("places", places), self.constant("zero", np.array([0])), tokens)
        return self._normalised("embeddings.LayerNorm", self.add("Add", words, near))

    def _layer(self, name: str, hidden: str) -> str:
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self.weights[f"{part}.weight"] for part in parts])
        bias = self.constant(f"{name}.qkv.bias", np.concatenate([self.weights[f"{part}.bias"] for part in parts]))
        product = self._product(f"{name}.qkv", weight, hidden)
        pieces = [f"{name}.{part}" for part in "qkv"]
        self.nodes.append(helper.make_node("Split", [product], pieces, axis=-1))
        mixed = self.add("MultiHeadAttention", *pieces, bias, domain=MICROSOFT, num_heads=self.shape.heads)
        attended = self._linear(f"{name}.attention.output.dense", mixed)
        hidden = self._normalised(f"{name}.attention.output.LayerNorm", self.add("Add", attended, hidden))
        wide = self._product(f"{name}.wide", self.weights[f"{name}.intermediate.dense.weight"], hidden)
        wide = self.add("BiasGelu", wide, self._weight(f"{name}.intermediate.dense.bias"), domain=MICROSOFT)
        narrow = self._linear(f"{name}.output.dense", wide)
        return self._normalised(f"{name}.output.LayerNorm", self.add("Add", narrow, hidden))

    def _normalised(self, name: str, value: str) -> str:
        scale, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self.add("LayerNormalization", value, scale, bias, axis=-1, epsilon=self.shape.epsilon)

    def _linear(self, name: str, value: str) -> str:
        return self.add("Add", self._product(name, self.weights[f"{name}.weight"], value), self._weight(f"{name}.bias"))

    def _product(self, name: str, weight: NDArray[np.float32], value: str) -> str:
        """`value` times the transposed weight."""
        if self.precision == "fp32":
            return self.add("MatMul", value, self.constant(f"{name}.weight.T", np.ascontiguousarray(weight.T)))
        scale = (np.abs(weight).max(axis=1) / 127).astype(np.float32)
        whole = np.ascontiguousarray(np.rint(weight / scale[:, None]).T.astype(np.int8))
        largest = self.add("ReduceMax", self.add("Abs", value), axes=[-1], keepdims=1)
        unit = self.add("Div", value, largest)
        step, zero = self.constant("step", np.float32(1 / 127)), self.constant("middle", np.uint8(ZERO))
        bytes_ = self.add("QuantizeLinear", unit, step, zero)
        weights = self.constant(f"{name}.int8", whole), step, self.constant(f"{name}.scale", scale), zero
        return self.add("Mul", self.add("MatMulIntegerToFloat", bytes_, *weights, domain=MICROSOFT), largest)
