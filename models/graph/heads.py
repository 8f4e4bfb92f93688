"""Heads: small graphs that turn predictions into what a caller asked for.

Every head works row by row, so a row's answer does not depend on its neighbours. Shapes: n
rows, v tokens in the vocabulary, or labels.
"""

import numpy as np
import onnx
from onnx import helper

from models.errors import ModelError
from models.graph.builder import FLOAT, INT32, INT64, IR_VERSION, GraphBuilder
from models.graph.pruning import prune
from models.manifest import Manifest, PredictionKind

LOWEST_TEMPERATURE = 1e-3
MOST_SUMMED_BY_PRODUCT = 128
"""Up to this many tokens a product with a triangle of ones is faster than CumSum."""


def heads_of(proto: onnx.ModelProto, manifest: Manifest) -> dict[str, bytes]:
    """The heads of whatever a model predicts; ``proto`` has no local functions.

    Raises:
        ModelError: see `value_heads`.
    """
    match manifest.prediction.kind:
        case PredictionKind.LOGITS:
            return token_heads(manifest.prediction.width)
        case PredictionKind.LABELS:
            return label_heads(manifest.prediction.width)
        case PredictionKind.DISTRIBUTION:
            return value_heads(proto, manifest)
        case PredictionKind.RAW:
            return {}


def label_heads(labels: int) -> dict[str, bytes]:
    """The heads of a model that scores labels (n, v): argmax, top_k, probabilities."""
    return {
        "argmax": _argmax(labels),
        "top_k": _top_k(labels),
        "probabilities": _probabilities(labels),
    }


def token_heads(vocabulary: int) -> dict[str, bytes]:
    """The heads of a model that predicts logits (n, v).

    argmax, top_k, probabilities, and two that draw: ``sample`` from all tokens, and
    ``sample_filtered`` from those that top-k and top-p leave.
    """
    return {
        **label_heads(vocabulary),
        "sample": _sample(vocabulary, filtered=False),
        "sample_filtered": _sample(vocabulary, filtered=True),
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


def _sample(vocabulary: int, *, filtered: bool) -> bytes:
    builder = GraphBuilder()
    logits = builder.input("logits", FLOAT, ["n", vocabulary])
    uniform = builder.input("uniform", FLOAT, ["n", 1])
    sampling_inputs(builder, filtered=filtered)
    token = add_draw(builder, logits, uniform, vocabulary=vocabulary, filtered=filtered)
    builder.node("Cast", token, output="sample", to=INT32)
    builder.output("sample", INT32, ["n"])
    return builder.model("sample").SerializeToString()


def sampling_inputs(builder: GraphBuilder, *, filtered: bool) -> None:
    """Declare a row's sampling parameters: temperature (n, 1), and top_k, top_p if filtered."""
    builder.input("temperature", FLOAT, ["n", 1])
    if filtered:
        builder.input("top_k", INT64, ["n", 1])
        builder.input("top_p", FLOAT, ["n", 1])


def add_draw(
    builder: GraphBuilder, logits: str, uniform: str, *, vocabulary: int, filtered: bool
) -> str:
    """Draw a token from logits (n, v) at uniform (n, 1) in (0, 1): (n,) int64.

    The parameters are those of `sampling_inputs`. It inverts the cumulative distribution, over
    the vocabulary in its own order, or sorted and cut where ``filtered``. Nucleus (top-p)
    sampling keeps a token while the probability of all likelier ones is below p: Holtzman et al.,
    "The Curious Case of Neural Text Degeneration", 2020.
    """
    floor = builder.constant(LOWEST_TEMPERATURE)
    scaled = builder.node("Div", logits, builder.node("Max", "temperature", floor))
    aside = builder.constant([1])
    if not filtered:
        probabilities = builder.node("Softmax", scaled, axis=1)
        picked = _inverted(builder, probabilities, uniform, vocabulary=vocabulary)
        return builder.node("Squeeze", picked, aside)
    ordered, tokens = builder.fresh("ordered"), builder.fresh("tokens")
    builder.nodes_with(
        "TopK", scaled, builder.constant([vocabulary]), outputs=[ordered, tokens], axis=1
    )  # most likely first
    probabilities = builder.node("Softmax", ordered, axis=1)
    likelier = _running_sum(builder, probabilities, vocabulary=vocabulary, exclusive=True)
    rank = builder.constant(np.arange(vocabulary, dtype=np.int64)[None, :])
    kept = builder.node(
        "And", builder.node("Less", rank, "top_k"), builder.node("Less", likelier, "top_p")
    )
    mass = builder.node("Where", kept, probabilities, builder.constant(0.0))
    picked = _inverted(builder, mass, uniform, vocabulary=vocabulary)
    return builder.node("Squeeze", builder.node("GatherElements", tokens, picked, axis=1), aside)


def _inverted(builder: GraphBuilder, mass: str, uniform: str, *, vocabulary: int) -> str:
    """The first place where the running sum of mass (n, v) reaches the uniform share: (n, 1).

    A place without mass is never the first to reach anything, and the last one reaches it all.
    """
    cumulative = _running_sum(builder, mass, vocabulary=vocabulary)
    total = builder.node("Gather", cumulative, builder.constant([vocabulary - 1]), axis=1)
    below = builder.node("Less", cumulative, builder.node("Mul", uniform, total))
    count = builder.node(
        "ReduceSum", builder.node("Cast", below, to=FLOAT), builder.constant([1]), keepdims=1
    )
    return builder.node("Cast", count, to=INT64)


def _running_sum(builder: GraphBuilder, x: str, *, vocabulary: int, exclusive: bool = False) -> str:
    """Sums along each row of x (n, v), up to and with each place, or before it."""
    if vocabulary > MOST_SUMMED_BY_PRODUCT:
        axis = builder.constant(np.array(1, np.int64))
        return builder.node("CumSum", x, axis, exclusive=int(exclusive))
    ones = np.ones((vocabulary, vocabulary), np.float32)
    return builder.node("MatMul", x, builder.constant(np.triu(ones, 1 if exclusive else 0)))
