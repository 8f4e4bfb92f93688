"""Heads: small graphs that turn predictions into what a caller asked for.

Every head works row by row, so a row's answer does not depend on its neighbours. Shapes: n
rows, v tokens in the vocabulary.
"""

import numpy as np
import onnx
from onnx import helper

from models.errors import ModelError
from models.graph import FLOAT, INT32, INT64, IR_VERSION, GraphBuilder
from models.manifest import Manifest
from models.pruning import prune

LOWEST_TEMPERATURE = 1e-3


def token_heads(vocabulary: int) -> dict[str, bytes]:
    """The heads of a model that predicts logits (n, v): argmax, top_k, probabilities, sample."""
    return {
        "argmax": _argmax(vocabulary),
        "top_k": _top_k(vocabulary),
        "probabilities": _probabilities(vocabulary),
        "sample": _sample(vocabulary),
    }


def value_heads(proto: onnx.ModelProto, manifest: Manifest) -> dict[str, bytes]:
    """The head of a model that predicts a distribution: its quantile function.

    ``proto`` has no local functions (they are inlined).

    ``prediction (n, 1, width), levels (n, k) -> quantiles (n, 1, k)``. A draw is the quantile
    at a uniformly random level.

    Raises:
        ModelError: the quantiles hang on something besides prediction and levels.
    """
    if manifest.quantiles is None:
        raise ModelError("a distribution without quantiles has no head")
    graph = prune(
        proto.graph,
        outputs=[manifest.quantiles.output],
        inputs=[manifest.prediction.output, manifest.quantiles.levels],
    )
    width = manifest.prediction.width
    for value, shape in (
        (graph.input[0], ("n", 1, width)),
        (graph.input[1], ("n", "k")),
        (graph.output[0], ("n", 1, "k")),
    ):
        value.CopyFrom(helper.make_tensor_value_info(value.name, FLOAT, shape))
    model = helper.make_model(
        graph,
        opset_imports=proto.opset_import,
        ir_version=max(proto.ir_version, IR_VERSION),
    )
    return {"quantiles": model.SerializeToString()}


def _argmax(vocabulary: int) -> bytes:
    builder = GraphBuilder()
    logits = builder.input("logits", FLOAT, ["n", vocabulary])
    token = builder.node("ArgMax", logits, axis=1, keepdims=0)
    builder.node("Cast", token, output="argmax", to=INT32)
    builder.output("argmax", INT32, ["n"])
    return builder.model("argmax").SerializeToString()


def _top_k(vocabulary: int) -> bytes:
    builder = GraphBuilder()
    logits = builder.input("logits", FLOAT, ["n", vocabulary])
    k = builder.input("k", INT64, [1])
    probabilities = builder.node("Softmax", logits, axis=1)
    builder.nodes_with("TopK", probabilities, k, outputs=["top_probabilities", "indices"], axis=1)
    builder.node("Cast", "indices", output="top_tokens", to=INT32)
    builder.output("top_tokens", INT32, ["n", "k"])
    builder.output("top_probabilities", FLOAT, ["n", "k"])
    return builder.model("top_k").SerializeToString()


def _probabilities(vocabulary: int) -> bytes:
    builder = GraphBuilder()
    logits = builder.input("logits", FLOAT, ["n", vocabulary])
    builder.node("Softmax", logits, output="probabilities", axis=1)
    builder.output("probabilities", FLOAT, ["n", vocabulary])
    return builder.model("probabilities").SerializeToString()


def _sample(vocabulary: int) -> bytes:
    """Invert the cumulative distribution of the tokens that top-k and top-p leave.

    ``temperature, top_p, uniform (n, 1) float32, top_k (n, 1) int64``. Nucleus (top-p) sampling
    keeps a token while the probability of all likelier ones is below p: Holtzman et al., "The
    Curious Case of Neural Text Degeneration", 2020.
    """
    builder = GraphBuilder()
    logits = builder.input("logits", FLOAT, ["n", vocabulary])
    temperature = builder.input("temperature", FLOAT, ["n", 1])
    top_k = builder.input("top_k", INT64, ["n", 1])
    top_p = builder.input("top_p", FLOAT, ["n", 1])
    uniform = builder.input("uniform", FLOAT, ["n", 1])

    floor = builder.constant(LOWEST_TEMPERATURE)
    scaled = builder.node("Div", logits, builder.node("Max", temperature, floor))
    builder.nodes_with(
        "TopK", scaled, builder.constant([vocabulary]), outputs=["sorted", "tokens"], axis=1
    )  # most likely first
    probabilities = builder.node("Softmax", "sorted", axis=1)
    axis = builder.constant(np.array(1, np.int64))
    likelier = builder.node("CumSum", probabilities, axis, exclusive=1)
    rank = builder.constant(np.arange(vocabulary, dtype=np.int64)[None, :])
    kept = builder.node(
        "And", builder.node("Less", rank, top_k), builder.node("Less", likelier, top_p)
    )
    mass = builder.node("Where", kept, probabilities, builder.constant(0.0))
    cumulative = builder.node("CumSum", mass, axis)
    total = builder.node("ReduceMax", cumulative, axes=[1], keepdims=1)
    below = builder.node("LessOrEqual", cumulative, builder.node("Mul", uniform, total))
    axes = builder.constant([1])
    picked = builder.node("ReduceSum", builder.node("Cast", below, to=INT64), axes, keepdims=1)
    # Rounding may leave the target at the total itself: stay within the tokens kept.
    count = builder.node("ReduceSum", builder.node("Cast", kept, to=INT64), axes, keepdims=1)
    last = builder.node("Sub", count, builder.constant([1]))
    picked = builder.node("Min", picked, last)
    token = builder.node("GatherElements", "tokens", picked, axis=1)  # (n, 1)
    token = builder.node("Squeeze", token, axes)
    builder.node("Cast", token, output="sample", to=INT32)
    builder.output("sample", INT32, ["n"])
    return builder.model("sample").SerializeToString()
