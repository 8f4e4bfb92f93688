"""Runs an external graph as it came, to compare with."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from training.export.onnx_model import session_of
from training.export.operator import Floats
from training.importing.from_onnx.probing import Form, Layout, Probe, Time, feed_of


class Original:
    """A graph that reads each sequence by itself, from its initial state.

    Args:
        proto: the graph, with the states among its inputs that `layout` names.
        probe: the names of its inputs and outputs.
        layout: how its tensors lie.
        one_hot: how many symbols it reads as one-hot values, if it does.
    """

    def __init__(
        self, proto: onnx.ModelProto, probe: Probe, layout: Layout, *, one_hot: int | None
    ) -> None:
        self._session = session_of(proto.SerializeToString())
        inputs = {value.name for value in self._session.get_inputs()}
        self._states = [state for state in layout.states if state.input in inputs]
        self._probe, self._layout, self._one_hot = probe, layout, one_hot

    def run(self, x: NDArray[Any]) -> Floats:
        """Map sequences (batch, time, …) to predictions (batch, time, width) or (batch, width)."""
        if self._one_hot is not None:
            x = np.eye(self._one_hot, dtype=np.float32)[x]
        return np.concatenate([self._row(x[[row]]) for row in range(len(x))])

    def _row(self, x: NDArray[Any]) -> Floats:
        """One sequence (1, time, …), at once or step by step as the graph takes it."""
        state = {
            part.input: np.full(np.insert(part.shape, part.batch_axis, 1), part.initial, np.float32)
            for part in self._states
        }
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
