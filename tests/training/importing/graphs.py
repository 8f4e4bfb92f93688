"""Small graphs as other people write them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.graph.builder import FLOAT

HIDDEN, WIDTH = 4, 3
EMPTY: Mapping[str, NDArray[Any]] = MappingProxyType({})


def weights(*shape: int, seed: int = 3) -> NDArray[np.float32]:
    """Some numbers of about the size that weights have."""
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def value(name: str, shape: Sequence[int | str] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """A declared input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def made(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, NDArray[Any]],
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of these."""
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return helper.make_model(
        helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), tensors),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )


def cell(**constants: NDArray[Any]) -> onnx.ModelProto:
    """A cell without any recurrent operator: s_out = tanh([x, s] A), y = s_out K."""
    nodes = [
        helper.make_node("Concat", ["x", "s"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "A"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["s_out"]),
        helper.make_node("MatMul", ["s_out", "K"], ["y"]),
    ]
    given = {"A": weights(WIDTH + HIDDEN, HIDDEN), "K": weights(HIDDEN, 2)}
    return made(
        nodes,
        [value("x", ["b", WIDTH]), value("s", ["b", HIDDEN])],
        [value("y", ["b", 2]), value("s_out", ["b", HIDDEN])],
        given | constants,
    )


def of_cell(x: NDArray[np.float32], start: NDArray[Any]) -> NDArray[np.float32]:
    """What `cell` predicts after each step, (steps, 2)."""
    a, k, found = weights(WIDTH + HIDDEN, HIDDEN), weights(HIDDEN, 2), []
    state = start
    for step in x:
        state = np.tanh(np.concatenate([step, state]) @ a)
        found.append(state @ k)
    return np.array(found, np.float32)


def gru(
    *start: onnx.NodeProto, layout: int = 0, constants: Mapping[str, NDArray[Any]] = EMPTY
) -> onnx.ModelProto:
    """A GRU that keeps its state to itself, after nodes that make ``h0``, if there are any."""
    first = "x" if layout else "by_time"
    before = [] if layout else [helper.make_node("Transpose", ["x"], ["by_time"], perm=[1, 0, 2])]
    own = ["", "h0"] if start or "h0" in constants else []
    nodes = [
        *before,
        *start,
        helper.make_node(
            "GRU", [first, "W", "R", "B", *own], ["all", "last"], hidden_size=HIDDEN, layout=layout
        ),
        helper.make_node("Squeeze", ["all", "directions"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["y"], perm=[0, 1, 2] if layout else [1, 0, 2]),
    ]
    given = {
        "W": weights(1, 3 * HIDDEN, WIDTH),
        "R": weights(1, 3 * HIDDEN, HIDDEN, seed=4),
        "B": weights(1, 6 * HIDDEN, seed=5),
        "directions": np.array([2 if layout else 1]),
    }
    outputs = [value("y", ["b", "t", HIDDEN])]
    return made(nodes, [value("x", ["b", "t", WIDTH])], outputs, given | dict(constants))


def of_gru(x: NDArray[np.float32], start: NDArray[Any]) -> NDArray[np.float32]:
    """What `gru` predicts after each step, (steps, HIDDEN), by the formulas of the operator."""
    w, r = weights(1, 3 * HIDDEN, WIDTH)[0], weights(1, 3 * HIDDEN, HIDDEN, seed=4)[0]
    bias = weights(1, 6 * HIDDEN, seed=5)[0]
    (wz, wr, wh), (rz, rr, rh) = np.split(w, 3), np.split(r, 3)
    bz, br, bh, cz, cr, ch = np.split(bias, 6)
    h, found = start.astype(np.float64), []
    for step in x.astype(np.float64):
        z = 1 / (1 + np.exp(-(wz @ step + rz @ h + bz + cz)))
        reset = 1 / (1 + np.exp(-(wr @ step + rr @ h + br + cr)))
        new = np.tanh(wh @ step + rh @ (reset * h) + bh + ch)
        h = (1 - z) * new + z * h
        found.append(h)
    return np.array(found, np.float32)


def spread(constant: str) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """Nodes that repeat a constant (1, 1, HIDDEN) for every row of the batch, as ``h0``."""
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["one", "rows", "hidden"], ["wanted"], axis=0),
        helper.make_node("Expand", [constant, "wanted"], ["h0"]),
    ]
    return nodes, {"one": np.array([1]), "hidden": np.array([HIDDEN])}
