"""Small graphs of somebody else's: each has one peculiarity."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from models.graph.builder import FLOAT, INT64, GraphBuilder
from models.manifest import Manifest, Prediction, PredictionKind, State, TokensInput, ValuesInput
from models.repository import Model
from tests.recurrent import Case, char_case

WIDTH = 2
TABLE_ROWS = 4
VALUES = ValuesInput(name="x", features=("a", "b"))


def foreign_case(
    change: Callable[[GraphBuilder, str, str], str] = lambda graph, x, s: s,
    *,
    batch: int | str = "batch",
    finish: Callable[[GraphBuilder, str, str], str] = lambda graph, x, s: s,
) -> Case:
    """A sum that decays, of rows of two values: ``s' = s / 2 + x``, and predicts ``s'``.

    Args:
        change: makes the peculiarity, from x and s, both (batch, 2), to another s.
        batch: the length of the first axis.
        finish: the same with s', whatever is predicted then.
    """
    graph = GraphBuilder()
    x = graph.input("x", FLOAT, [batch, WIDTH])
    s = graph.input("s", FLOAT, [batch, WIDTH])
    half = graph.node("Mul", change(graph, x, s), graph.constant(0.5))
    new = graph.node("Add", half, x)
    graph.node("Identity", finish(graph, x, new), output="y")
    graph.node("Identity", new, output="s_next")
    graph.output("y", FLOAT, [batch, WIDTH])
    graph.output("s_next", FLOAT, [batch, WIDTH])
    manifest = Manifest(
        name="sums",
        input=VALUES,
        states=(State(input="s", output="s_next", shape=(WIDTH,)),),
        prediction=Prediction(output="y", kind=PredictionKind.RAW, width=WIDTH),
    )
    return _case(graph.model("sums"), manifest)


def lookup_case() -> Case:
    """Reads the first value as the number of a row in a table of 4: others it cannot read."""

    def finish(graph: GraphBuilder, x: str, s: str) -> str:
        first = graph.node("Gather", x, graph.constant(np.array(0, np.int64)), axis=1)
        first = graph.node("Squeeze", first, graph.constant([1]))
        index = graph.node("Cast", first, to=INT64)
        table = graph.constant(np.zeros((TABLE_ROWS, WIDTH), np.float32))
        graph.nodes_with("Gather", table, index, outputs=["row"], name="table")
        return graph.node("Add", s, "row")

    return foreign_case(finish=finish)


def mixing_case() -> Case:
    """Turns the signs of all rows where their sum is above 0."""

    def change(graph: GraphBuilder, x: str, s: str) -> str:
        total = graph.node("ReduceSum", x, keepdims=0)
        above = graph.node("Greater", total, graph.constant(0.0))
        return graph.node("Where", above, graph.node("Neg", s), s)

    return foreign_case(change)


def poisoned_case() -> Case:
    """Adds to all rows nought times their sum: which is no number where one overflows."""

    def change(graph: GraphBuilder, x: str, s: str) -> str:
        total = graph.node("ReduceSum", graph.node("Mul", x, graph.constant(1e3)), keepdims=1)
        return graph.node("Add", s, graph.node("Mul", total, graph.constant(0.0)))

    return foreign_case(change)


def ruined_case() -> Case:
    """Loses its state to values above some 1e36: infinity less infinity."""

    def change(graph: GraphBuilder, x: str, s: str) -> str:
        large = graph.node("Mul", x, graph.constant(200.0))
        return graph.node("Add", s, graph.node("Sub", large, large))

    return foreign_case(change)


def random_case() -> Case:
    """Drops some of its state by chance."""

    def change(graph: GraphBuilder, x: str, s: str) -> str:
        noise = graph.node("RandomUniformLike", x)
        return graph.node("Mul", s, noise)

    return foreign_case(change)


def chunked_case(peculiarity: str | None = None) -> Case:
    """A running sum of whole chunks that knows its lengths.

    Args:
        peculiarity: ``cuts``: adds the number of steps of the chunk to the state; ``padding``: the
            largest of a row's steps counts, whether it is one or pads; ``rows``: the chunk's mean.
    """
    graph = GraphBuilder()
    x = graph.input("x", FLOAT, ["batch", "time", WIDTH])
    lengths = graph.input("n", INT64, ["batch"])
    s = graph.input("s", FLOAT, ["batch", WIDTH])
    axis = graph.constant([1])
    sums = graph.node("CumSum", x, graph.constant(np.array(1, np.int64)))
    y = graph.node("Add", sums, graph.node("Unsqueeze", s, axis))
    match peculiarity:
        case "cuts":
            steps = graph.node("Cast", graph.node("Unsqueeze", lengths, axis), to=FLOAT)
            y = graph.node("Add", y, graph.node("Unsqueeze", steps, axis))
        case "padding":
            shape = graph.node("Shape", x, start=1, end=2)
            longest = graph.node("Sub", graph.node("Cast", shape, to=FLOAT), graph.constant(1.0))
            own = graph.node("Cast", graph.node("Unsqueeze", lengths, axis), to=FLOAT)
            idle = graph.node("Sub", graph.node("Add", longest, graph.constant(1.0)), own)
            y = graph.node("Add", y, graph.node("Unsqueeze", idle, axis))
        case "rows":
            y = graph.node("Add", y, graph.node("ReduceMean", x, axes=[0], keepdims=1))
    last = graph.node("Unsqueeze", graph.node("Sub", lengths, graph.constant([1])), axis)
    graph.node("Identity", y, output="y")
    graph.node("GatherND", y, last, output="s_next", batch_dims=1)
    graph.output("y", FLOAT, ["batch", "time", WIDTH])
    graph.output("s_next", FLOAT, ["batch", WIDTH])
    manifest = Manifest(
        name="sums",
        input=VALUES,
        lengths="n",
        states=(State(input="s", output="s_next", shape=(WIDTH,)),),
        prediction=Prediction(output="y", kind=PredictionKind.RAW, width=WIDTH),
    )
    return _case(graph.model("sums"), manifest)


def embedding_case(*, rows: int, vocabulary: int) -> Case:
    """A state of looked up rows, whose table has as many as its vocabulary, or not."""
    graph = GraphBuilder()
    tokens = graph.input("tokens", INT64, ["batch"])
    s = graph.input("s", FLOAT, ["batch", WIDTH])
    table = np.arange(rows * WIDTH, dtype=np.float32).reshape(rows, WIDTH)
    row = graph.node("Gather", graph.constant(table, "embedding"), tokens)
    graph.node("Add", graph.node("Mul", s, graph.constant(0.5)), row, output="s_next")
    graph.node("Identity", "s_next", output="y")
    graph.output("y", FLOAT, ["batch", WIDTH])
    graph.output("s_next", FLOAT, ["batch", WIDTH])
    manifest = Manifest(
        name="symbols",
        input=TokensInput(vocabulary=tuple(f"v{number}" for number in range(vocabulary))),
        states=(State(input="s", output="s_next", shape=(WIDTH,)),),
        prediction=Prediction(output="y", kind=PredictionKind.RAW, width=WIDTH),
    )
    return _case(graph.model("symbols"), manifest)


def _case(proto: onnx.ModelProto, manifest: Manifest) -> Case:
    model = Model(
        name=manifest.name,
        version=1,
        manifest=manifest,
        proto=proto,
        fingerprint="f",
        path=Path(f"{manifest.name}.onnx"),
    )
    return Case(network=char_case().network, model=model)


def whole_lookup(rows: int, vocabulary: int) -> Model:
    """Whole sequences of symbols, looked up one by one."""
    graph = GraphBuilder()
    tokens = graph.input("tokens", INT64, ["batch", "time"])
    table = graph.constant(np.arange(rows * WIDTH, dtype=np.float32).reshape(rows, WIDTH))
    graph.nodes_with("Gather", table, tokens, outputs=["y"], name="table")
    graph.output("y", FLOAT, ["batch", "time", WIDTH])
    manifest = Manifest(
        name="symbols",
        input=TokensInput(vocabulary=tuple(chr(97 + number) for number in range(vocabulary))),
        states=(),
        prediction=Prediction(output="y", kind=PredictionKind.RAW, width=WIDTH),
    )
    return _case(graph.model("symbols"), manifest).model


def named(case: Case, name: str) -> Case:
    """The same under another name."""
    manifest = case.manifest.model_copy(update={"name": name})
    return replace(case, model=replace(case.model, name=name, manifest=manifest))
