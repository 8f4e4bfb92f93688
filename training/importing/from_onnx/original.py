"""Runs an external graph as it came: to compare with, and to see what its states start from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from models.graph.pruning import prune
from training.export.onnx_model import Opened
from training.export.operator import Floats
from training.importing.from_onnx.external import ExternalGraph
from training.importing.from_onnx.probing import Form, Layout, Probe, Time, feed_of
from training.importing.isolated.runtime import RefusedError, Runtime
from training.importing.starts import Initial, initial_of


class Original:
    """A graph that reads each sequence by itself, from its initial state.

    Args:
        session: the graph, open, with the states among its inputs that `layout` names.
        probe: the names of its inputs and outputs.
        layout: how its tensors lie.
        one_hot: how many symbols it reads as one-hot values, if it does.
    """

    def __init__(
        self, session: Opened, probe: Probe, layout: Layout, *, one_hot: int | None
    ) -> None:
        self._session = session
        inputs = {value.name for value in self._session.get_inputs()}
        self._states = [state for state in layout.states if state.input in inputs]
        self._probe, self._layout, self._one_hot = probe, layout, one_hot

    def run(self, x: NDArray[Any]) -> Floats:
        """Map sequences (batch, time, …) to predictions (batch, time, width) or (batch, width).

        Raises:
            RefusedError: the runtime stops in the middle of it.
        """
        if self._one_hot is not None:
            x = np.eye(self._one_hot, dtype=np.float32)[x]
        return np.concatenate([self._row(x[[row]]) for row in range(len(x))])

    def try_out(self) -> None:
        """Run one short sequence, to see that it can be.

        Raises:
            RefusedError: it cannot.
        """
        symbols, probe = self._one_hot or self._probe.symbols, self._probe
        shape = (1, 2) if symbols is not None else (1, 2, probe.width)
        self.run(np.zeros(shape, np.int64 if symbols is not None else np.float32))

    def _row(self, x: NDArray[Any]) -> Floats:
        """One sequence (1, time, …), at once or step by step as the graph takes it."""
        state = {part.input: part.batched_start(1) for part in self._states}
        at_once = x.shape[1] if self._layout.time is Time.MANY else 1
        outputs = [self._probe.prediction, *(part.output for part in self._states)]
        predictions = []
        for start in range(0, x.shape[1], at_once):
            laid = self._layout.laid(x[:, start : start + at_once])
            lengths = np.full(1, at_once, np.int64)
            feed = feed_of(self._probe, self._session, laid, lengths, state)
            found = self._session.run(outputs, feed)
            predictions.append(self._layout.rows(found[0], 1, at_once))
            state = {part.input: array for part, array in zip(self._states, found[1:], strict=True)}
        if self._layout.time is Time.MANY and self._layout.form is Form.WHOLE:
            return predictions[0]
        return np.concatenate(predictions, axis=1)


def found_start(graph: ExternalGraph, name: str, runtime: Runtime) -> Initial | None:
    """What every row of an operator's initial state ``name`` (1, batch, hidden) starts from.

    ``None`` where rows differ, or where it cannot be told.
    """
    if (constant := graph.constants.get(name)) is not None:
        return _of_each_row(numpy_helper.to_array(constant), axis=1)
    part = prune(graph.proto.graph, outputs=[name])
    read = {one for node in part.node for one in node.input}
    inputs = [value for value in part.input if value.name in read]
    del part.input[:]
    part.input.extend(inputs)
    part.output.append(onnx.ValueInfoProto(name=name))
    model = onnx.ModelProto(
        ir_version=graph.proto.ir_version, opset_import=graph.proto.opset_import, graph=part
    )
    found: set[Initial | None] = set()
    try:
        session = runtime.open(model)
        for sizes in ((2, 3), (3, 2)):  # batch and time, in one order or the other
            feed = {value.name: _zeros(graph, value.name, sizes) for value in inputs}
            found.add(_of_each_row(session.run([name], feed)[0], axis=1))
    except RefusedError:
        return None
    return found.pop() if len(found) == 1 else None


def default_start(array: NDArray[np.generic], shape: Sequence[int], axis: int) -> Initial | None:
    """What a state starts from whose input has a value of its own; ``None`` if its rows differ."""
    if array.ndim == len(shape) + 1:
        return _of_each_row(array, axis=axis)
    return initial_of(array) if list(array.shape) in ([], list(shape)) else None


def _of_each_row(array: NDArray[np.generic], *, axis: int) -> Initial | None:
    if axis >= array.ndim or not array.size or not np.isfinite(array).all():
        return None
    rows = np.moveaxis(array, axis, 0)
    return initial_of(rows[0]) if bool((rows == rows[0]).all()) else None


def _zeros(graph: ExternalGraph, name: str, sizes: Sequence[int]) -> NDArray[Any]:
    """Zeros of the type and, but for the first two axes, the shape that an input declares."""
    dims = graph.dims(name)
    shape = [*sizes, *(dim or 1 for dim in dims[2:])][: len(dims)]
    return np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(graph.dtype(name)))
