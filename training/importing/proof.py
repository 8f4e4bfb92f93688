"""Does what is published compute what the source computes? Else nothing is published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.compile.arena import compile_model
from models.compile.serving import PREDICTION, ServingGraph, read_rows, write_rows
from models.compile.stateless import compile_stateless
from models.manifest import Manifest, TokensInput, fingerprint
from models.repository import Model
from training.errors import ParityError
from training.export.onnx_model import OnnxModel, Opened, fitted, session_of
from training.export.operator import Floats

MAX_RELATIVE = 1e-4
ROWS, STEPS = 3, 12
LENGTHS = np.array([STEPS, 1, 7], np.int32)

Open = Callable[[bytes], Opened]
"""Opens a graph, in this process or in another."""
Source = Callable[[NDArray[Any]], Floats]
"""Maps whole sequences (batch, time, …) to predictions, each from the initial state."""


def sample_inputs(manifest: Manifest, *, seed: int = 0) -> NDArray[Any]:
    """Random sequences that a model takes, ``(ROWS, STEPS, …)``."""
    rng = np.random.default_rng(seed)
    if isinstance(manifest.input, TokensInput):
        return rng.integers(0, len(manifest.input.vocabulary), (ROWS, STEPS))
    return rng.normal(size=(ROWS, STEPS, manifest.input.width)).astype(np.float32)


def prove(
    proto: onnx.ModelProto, manifest: Manifest, source: Source, *, open_graph: Open = session_of
) -> float:
    """Run the model in every way it can be served, and compare each with its source.

    Whole, step by step and as a ragged batch in the portable graph; single steps, and chunks where
    it takes them, in the graphs it is compiled to.

    Several sequences, each against the source's run of that sequence alone, all from the start
    that the manifest says.

    Returns the largest difference relative to the largest prediction.

    Raises:
        ParityError: a difference is above `MAX_RELATIVE`.
        ModelError: it cannot be compiled.
    """
    x = sample_inputs(manifest)
    ends = [source(x[[row], :length]) for row, length in enumerate(LENGTHS)]
    whole = source(x)
    portable = OnnxModel(proto, manifest, open_graph=open_graph)
    gaps: dict[str, float] = {}
    full = np.full(ROWS, STEPS, np.int32)
    if manifest.lengths is not None or not manifest.is_streamable:
        gaps["whole sequences"] = _gap(portable.whole(x, full), whole)
    if manifest.lengths is not None:
        ragged = portable.whole(x, LENGTHS)
        gaps["sequences of different length"] = max(
            _gap(_of_row(ragged, row, length, manifest), found[0])
            for row, (length, found) in enumerate(zip(LENGTHS, ends, strict=True))
        )
    if not manifest.is_streamable:
        graph = compile_stateless(as_model(proto, manifest))
        compiled = OnnxModel(
            onnx.load_from_string(graph.graph), graph.manifest, open_graph=open_graph
        )
        gaps["whole sequences, as served"] = _gap(compiled.whole(x, full), whole)
    if manifest.is_streamable:
        found = portable.step_by_step(x)  # (rows, steps, width)
        gaps["single steps"] = _gap_of_steps(found, whole, ends)
        served = compile_model(as_model(proto, manifest))
        found = served_steps(served, x, open_graph=open_graph)
        gaps["single steps, as served"] = _gap_of_steps(found, whole, ends)
        if manifest.lengths is not None:
            chunk = served_chunk(served, x, LENGTHS, open_graph=open_graph)
            gaps["chunks, as served"] = max(
                _gap(row, found[0, -1]) for row, found in zip(chunk, ends, strict=True)
            )
    for where, gap in gaps.items():
        if not gap <= MAX_RELATIVE:
            raise ParityError(
                f"not published: in {where} the imported model differs from its source by "
                f"{gap:.2g} of the predictions' size (at most {MAX_RELATIVE:g}): it would not be "
                "served as what it is"
            )
    return max(gaps.values())


def served_steps(graph: ServingGraph, x: NDArray[Any], *, open_graph: Open = session_of) -> Floats:
    """The predictions ``(batch, steps, width)`` of single steps through the compiled graph."""
    session = open_graph(graph.step or graph.chunk)
    arena = _arena(graph, len(x))
    predictions = []
    for step in range(x.shape[1]):
        feed = _served_feed(graph, session, x[:, step : step + 1], np.ones(len(x), np.int32))
        prediction, arena = _advance(graph, session, feed, arena)
        predictions.append(prediction)
    return np.stack(predictions, axis=1)


def served_chunk(
    graph: ServingGraph,
    x: NDArray[Any],
    lengths: NDArray[np.int32],
    *,
    open_graph: Open = session_of,
) -> Floats:
    """The last prediction of each row ``(batch, width)`` of one ragged chunk."""
    session = open_graph(graph.chunk)
    prediction, _ = _advance(
        graph, session, _served_feed(graph, session, x, lengths), _arena(graph, len(x))
    )
    return prediction


def as_model(proto: onnx.ModelProto, manifest: Manifest) -> Model:
    """A model that is not published yet."""
    return Model(
        name=manifest.name,
        version=1,
        manifest=manifest,
        proto=proto,
        fingerprint=fingerprint(proto),
        path=Path(manifest.name),
    )


def _arena(graph: ServingGraph, rows: int) -> dict[str, NDArray[Any]]:
    """Tensors of which row ``n * siblings`` is the n-th session's, in the initial state."""
    return {
        tensor.input: np.repeat(tensor.start[np.newaxis], rows * tensor.siblings, axis=0)
        for tensor in graph.arena
    }


def _served_feed(
    graph: ServingGraph,
    session: Opened,
    x: NDArray[Any],
    lengths: NDArray[np.int32],
) -> dict[str, NDArray[Any]]:
    name = graph.manifest.input.name
    shapes = {value.name: value.shape for value in session.get_inputs()}
    feed: dict[str, NDArray[Any]] = {name: fitted(x, shapes[name])}
    if graph.manifest.lengths in shapes:
        feed[str(graph.manifest.lengths)] = lengths
    for siblings in {tensor.siblings for tensor in graph.arena}:
        rows = np.arange(len(x), dtype=np.int64) * siblings
        feed |= {read_rows(siblings): rows, write_rows(siblings): rows[:, None]}
    return {key: value for key, value in feed.items() if key in shapes}


def _advance(
    graph: ServingGraph,
    session: Opened,
    feed: dict[str, NDArray[Any]],
    arena: dict[str, NDArray[Any]],
) -> tuple[Floats, dict[str, NDArray[Any]]]:
    wanted = {value.name for value in session.get_inputs()}
    feed = feed | {name: array for name, array in arena.items() if name in wanted}
    # The prediction of a graph that does not write is nobody's state, and is not read again.
    kept = graph.arena if graph.in_place else graph.arena[:-1]
    prediction, *found = session.run([PREDICTION, *(tensor.output for tensor in kept)], feed)
    following = dict(arena)
    for tensor, new in zip(kept, found, strict=True):
        if graph.in_place:
            following[tensor.input] = new
        else:  # its rows, and not those of its siblings
            following[tensor.input] = arena[tensor.input].copy()
            following[tensor.input][:: tensor.siblings] = new
    return prediction, following


def _gap_of_steps(found: Floats, whole: Floats, ends: list[Floats]) -> float:
    """Of predictions after every step from the source's: each, or those after some steps."""
    if whole.ndim == 3:
        return _gap(found, whole)
    return max(
        _gap(found[row, length - 1], end[0])
        for row, (length, end) in enumerate(zip(LENGTHS, ends, strict=True))
    )


def _of_row(found: Floats, row: int, length: int, manifest: Manifest) -> Floats:
    return found[row, :length] if manifest.prediction.per_step else found[row]


def _gap(found: Floats, expected: Floats) -> float:
    if found.shape != expected.shape:
        return float("inf")
    size = max(float(np.abs(expected).max()), 1e-12)
    return float(np.abs(found - expected).max()) / size
