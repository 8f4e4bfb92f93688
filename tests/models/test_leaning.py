"""Graphs with fewer operators compute what they did."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.graph.builder import FLOAT, INT32, INT64, GraphBuilder
from models.graph.leaning.rewriting import lean, lean_model
from service.engine.execution.runtime import open_session

coefficients = st.lists(st.floats(0.125, 4, width=32), min_size=2, max_size=5)


def run(model: bytes, **feeds: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    found: list[NDArray[np.float32]] = open_session(model).run(None, feeds)
    return found


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


def horner(graph: GraphBuilder, x: str, parts: Sequence[float]) -> str:
    """As training exports it, lowest power first."""
    *lower, value = (graph.constant(float(part)) for part in parts)
    while lower:
        value = graph.node("Add", graph.node("Mul", value, x), lower.pop())
    return value


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(coefficients, coefficients), min_size=2, max_size=4), st.integers(0, 9))
def test_quotients_of_polynomials_keep_their_bits(
    quotients: list[tuple[list[float], list[float]]], seed: int
) -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["n", "k"])
    for number, (above, below) in enumerate(quotients):
        shifted = graph.node("Sub", "x", graph.constant(float(number)))
        top, bottom = horner(graph, shifted, above), horner(graph, shifted, below)
        graph.node("Div", top, bottom, output=f"y_{number}")
        graph.output(f"y_{number}", FLOAT, ["n", "k"])
    before = graph.model("quotients").SerializeToString()
    after = lean_model(before)
    assert operators(after).count("Div") == 1
    x = np.random.default_rng(seed).uniform(0, 9, (5, 3)).astype(np.float32)
    for mine, theirs in zip(run(after, x=x), run(before, x=x), strict=True):
        assert np.array_equal(mine, theirs, equal_nan=True)


def test_a_quotient_that_hangs_on_another_stays_behind_it() -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["n"])
    parts = [1.0, 2.0, 0.5]
    first = graph.node("Div", horner(graph, "x", parts), horner(graph, "x", parts[1:]))
    graph.node("Div", horner(graph, first, parts), horner(graph, first, parts[1:]), output="y")
    graph.output("y", FLOAT, ["n"])
    before = graph.model("chain").SerializeToString()
    assert operators(lean_model(before)) == operators(before)


def sliced(graph: GraphBuilder, x: str, start: int, stop: int, output: str) -> None:
    bounds = [graph.constant([bound]) for bound in (start, stop, 1)]
    graph.node("Slice", x, *bounds, output=output)
    graph.output(output, FLOAT, ["n", stop - start])


def test_what_was_put_together_and_cut_again_is_neither() -> None:
    graph = GraphBuilder()
    for name in ("a", "b", "c"):
        graph.input(name, FLOAT, ["n", 2])
    whole = graph.node("Concat", "a", "b", "c", axis=-1)
    sliced(graph, whole, 2, 4, "middle")
    sliced(graph, whole, 1, 3, "between")
    before = graph.model("cuts").SerializeToString()
    after = lean_model(before)
    assert sorted(operators(after)) == ["Concat", "Identity", "Slice"]
    a, b, c = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    for mine, theirs in zip(run(after, a=a, b=b, c=c), run(before, a=a, b=b, c=c), strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        ([(0, 2), (2, 4)], "Split"),
        ([(0, 1), (1, 4)], "Slice"),  # parts of two sizes cannot be recorded
        ([(0, 2), (1, 3)], "Slice"),
        ([(0, 2)], "Slice"),
        ([(0, 1), (1, 2), (2, 3)], "Slice"),
    ],
)
def test_equal_parts_of_all_are_one_split(cuts: list[tuple[int, int]], expected: str) -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["n", 4])
    doubled = graph.node("Add", "x", "x")
    for number, (start, stop) in enumerate(cuts):
        sliced(graph, doubled, start, stop, f"y_{number}")
    before = graph.model("parts").SerializeToString()
    after = lean_model(before)
    assert set(operators(after)) - {"Add", "Identity"} == {expected}
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for mine, theirs in zip(run(after, x=x), run(before, x=x), strict=True):
        assert np.array_equal(mine, theirs)


def test_two_outputs_may_come_to_one_tensor() -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["n", 4])
    doubled = graph.node("Add", "x", "x")
    for number, (start, stop) in enumerate([(0, 2), (2, 4), (0, 2)]):
        sliced(graph, doubled, start, stop, f"y_{number}")
    after = lean_model(graph.model("twice").SerializeToString())
    assert operators(after).count("Split") == 1
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    first, second, again = run(after, x=x)
    assert np.array_equal(np.hstack([first, second]), 2 * x)
    assert np.array_equal(again, first)


@pytest.mark.parametrize("height", [1, 5])
def test_a_count_becomes_an_int32_at_once(height: int) -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["n", 1])
    wide = graph.node("Squeeze", graph.node("Cast", "x", to=INT64), graph.constant([1]))
    graph.node("Cast", wide, output="count", to=INT32)
    graph.output("count", INT32, ["n"])
    after = lean_model(graph.model("count").SerializeToString())
    assert operators(after).count("Cast") == 1
    x = 1e5 * np.arange(height, dtype=np.float32)[:, None]
    (count,) = run(after, x=x)
    assert str(count.dtype) == "int32"
    assert count.tolist() == x[:, 0].tolist()


def test_bounds_of_all_parts_are_applied_to_the_whole() -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["n", 4])
    for number, part in enumerate(graph.split("x", 2)):
        low, high = (graph.constant(float(bound)) for bound in (-1 - number, 2 + number))
        graph.node("Clip", part, low, high, output=f"y_{number}")
        graph.output(f"y_{number}", FLOAT, ["n", 2])
    before = graph.model("bounds").SerializeToString()
    after = lean_model(before)
    assert "Clip" not in operators(after)
    x = np.linspace(-9, 9, 40, dtype=np.float32).reshape(10, 4)
    for mine, theirs in zip(run(after, x=x), run(before, x=x), strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("decades", [0, 30])
def test_logarithms_are_those_that_asinh_stood_for(decades: int) -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["n"])
    graph.input("p", FLOAT, ["n"])
    half = graph.constant(0.5)
    inverse = graph.node("Reciprocal", "x")
    graph.node("Asinh", graph.node("Mul", graph.node("Sub", "x", inverse), half), output="log")
    low = graph.node("Div", graph.node("Sub", "x", "p"), "p")
    high = graph.node("Div", graph.node("Add", "x", "p"), "x")
    product = graph.node("Mul", graph.node("Mul", low, high), half)
    graph.node("Asinh", product, output="change")
    for name in ("log", "change"):
        graph.output(name, FLOAT, ["n"])
    after = lean_model(graph.model("logarithms").SerializeToString())
    assert "Asinh" not in operators(after)
    dice = np.random.default_rng(1)
    x, p = np.exp(dice.uniform(-decades, decades, (2, 500))).astype(np.float32)
    x += np.float32(1e-6)
    log, change = run(after, x=x, p=p)
    exact = x.astype(np.float64), p.astype(np.float64)
    np.testing.assert_allclose(log, np.log(exact[0]), rtol=1e-6)
    np.testing.assert_allclose(change, np.log(exact[0]) - np.log(exact[1]), rtol=1e-6, atol=1e-12)


def test_an_output_hangs_on_what_it_is_written_over() -> None:
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["n", 1])
    graph.input("last", FLOAT, ["n", 1])
    path = graph.node("Concat", "last", "x", axis=1)
    sliced(graph, path, 1, 2, "last_next")
    proto = graph.model("last")
    found = lean(proto.graph, after={"last_next": "last"})
    read = {name for node in found.node for name in node.input}
    assert {"x", "last"} <= read
    proto.graph.CopyFrom(found)
    x, last = np.random.default_rng(2).normal(size=(2, 3, 1)).astype(np.float32)
    assert np.array_equal(run(proto.SerializeToString(), x=x, last=last)[0], x)


def test_a_graph_with_others_inside_is_left_alone() -> None:
    inside = [GraphBuilder(prefix) for prefix in ("then.", "else.")]
    for branch in inside:
        branch.output(branch.node("Identity", "sum"), FLOAT, ["n"])
    graph = GraphBuilder()
    graph.input("x", FLOAT, ["n"])
    graph.node("Add", "x", graph.constant(0.0), output="sum")
    always = graph.constant(np.array(True))
    bodies = {
        f"{name}_branch": body.graph(name)
        for name, body in zip(("then", "else"), inside, strict=True)
    }
    graph.node("If", always, output="y", **bodies)
    graph.output("y", FLOAT, ["n"])
    proto = graph.model("branches").graph
    assert lean(proto) is proto
