"""A portable model on ONNX Runtime, run as the manifest says: whole, in chunks, step by step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from models.manifest import Manifest

Tensors = dict[str, NDArray[Any]]

_INTEGERS = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}


class Input(Protocol):
    """What an open graph says of one of its inputs."""

    name: str
    type: str
    shape: list[Any]


class Opened(Protocol):
    """An open graph, in this process or in another."""

    def get_inputs(self) -> Sequence[Input]:
        """What it takes."""
        ...

    def run(self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Run it once."""
        ...


class OnnxModel:
    """Chunks of steps, with the state handed in and out.

    Args:
        proto: the model.
        manifest: its manifest.
        open_graph: what opens it, where that is not to be done in this process.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        manifest: Manifest,
        *,
        open_graph: "Callable[[bytes], Opened] | None" = None,
    ) -> None:
        self.manifest = manifest
        self._session = (open_graph or session_of)(proto.SerializeToString())
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        named = [manifest.prediction.output, *(state.output for state in manifest.states)]
        if manifest.quantiles is not None:
            named.append(manifest.quantiles.output)
        self._outputs = list(dict.fromkeys(named))  # a state may be the prediction, too

    def initial_state(self, batch: int) -> Tensors:
        """The state before the first step."""
        return {state.input: state.batched_start(batch) for state in self.manifest.states}

    def run(
        self,
        x: NDArray[Any],
        state: Tensors,
        *,
        lengths: NDArray[np.int32] | None = None,
        levels: NDArray[np.float32] | None = None,
    ) -> tuple[Tensors, Tensors]:
        """Run a chunk ``(batch, time, …)``; return its outputs by name, and the next state."""
        batch, time = x.shape[:2]
        manifest = self.manifest
        feed = {manifest.input.name: fitted(x, self._inputs[manifest.input.name].shape), **state}
        if manifest.lengths is not None:
            feed[manifest.lengths] = np.full(batch, time) if lengths is None else lengths
        if manifest.quantiles is not None:
            half = np.full((batch, 1), 0.5, np.float32)
            feed[manifest.quantiles.levels] = half if levels is None else levels
        for name, array in feed.items():
            if (integer := _INTEGERS.get(self._inputs[name].type)) is not None:
                feed[name] = array.astype(integer)
        found = dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        return found, {part.input: found[part.output] for part in manifest.states}

    def whole(self, x: NDArray[Any], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """Predictions for whole sequences of these lengths."""
        outputs, _ = self.run(x, self.initial_state(len(x)), lengths=lengths)
        return outputs[self.manifest.prediction.output]

    def step_by_step(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Predictions ``(batch, time, width)``, one step after the other."""
        state = self.initial_state(len(x))
        predictions = []
        for step in range(x.shape[1]):
            outputs, state = self.run(x[:, step : step + 1], state)
            found = outputs[self.manifest.prediction.output]
            predictions.append(found.reshape(len(x), 1, -1))
        return np.concatenate(predictions, axis=1)


def session_of(model: bytes, *, log_level: int = 3) -> ort.InferenceSession:
    """A quiet session on one thread; ``log_level`` 4 leaves out failed runs too."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = log_level
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def fitted(x: NDArray[Any], shape: list[Any]) -> NDArray[Any]:
    """One step without its time axis, where the graph has none."""
    return x[:, 0] if len(shape) < x.ndim and x.shape[1] == 1 else np.ascontiguousarray(x)
