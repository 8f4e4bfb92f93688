"""Does the exported graph compute what the network computes? Else nothing is published."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from models.manifest import Manifest
from training.errors import ParityError
from training.tasks import Task

MAX_NATS = 1e-4
MAX_RELATIVE = 1e-3

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far the exported graph is from the network on held-out data."""

    nats: float
    """Difference of the mean loss: the larger of whole sequence and step by step."""
    relative: float
    """Largest difference of a prediction, relative to the largest prediction of its column."""


class OnnxModel:
    """An exported model on ONNX Runtime: chunks of steps, with the state handed in and out."""

    def __init__(self, proto: onnx.ModelProto, manifest: Manifest) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.manifest = manifest
        self._session = ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def initial_state(self, batch: int) -> Tensors:
        """The state before the first step."""
        return {
            state.input: np.full((batch, *state.shape), state.initial, np.float32)
            for state in self.manifest.states
        }

    def run(
        self,
        x: NDArray[Any],
        state: Tensors,
        *,
        lengths: NDArray[np.int32] | None = None,
        levels: NDArray[np.float32] | None = None,
    ) -> tuple[Tensors, Tensors]:
        """Run a chunk ``(batch, time, …)``; return all outputs by name, and the next state."""
        batch, time = x.shape[:2]
        feed = {self.manifest.input.name: x, **state}
        if self.manifest.lengths is not None:
            full = np.full(batch, time, np.int32)
            feed[self.manifest.lengths] = full if lengths is None else lengths
        if self.manifest.quantiles is not None:
            half = np.full((batch, 1), 0.5, np.float32)
            feed[self.manifest.quantiles.levels] = half if levels is None else levels
        found = dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        return found, {part.input: found[part.output] for part in self.manifest.states}


def measure(task: Task, proto: onnx.ModelProto, manifest: Manifest) -> Parity:
    """Compare network and graph on held-out data, whole and step by step."""
    inputs = task.held_out()  # (1, time + 1, …)
    steps = inputs[:, :-1]
    network = task.network.eval().cpu()
    with torch.no_grad():
        expected, _ = network(steps, network.initial_state(1))  # (1, time, width)
    model = OnnxModel(proto, manifest)
    name = manifest.prediction.output
    whole = model.run(steps.numpy(), model.initial_state(1))[0][name]
    state = model.initial_state(1)
    single = []
    for step in range(steps.shape[1]):
        outputs, state = model.run(steps[:, step : step + 1].numpy(), state)
        single.append(outputs[name])
    nats = task.nats(expected, inputs)
    size = expected.abs().amax(dim=(0, 1)).clamp(min=1e-12)  # (width,)
    found = [torch.from_numpy(whole), torch.from_numpy(np.concatenate(single, axis=1))]
    return Parity(
        nats=max(abs(task.nats(prediction, inputs) - nats) for prediction in found),
        relative=max(float(((prediction - expected).abs() / size).max()) for prediction in found),
    )


def require(parity: Parity) -> None:
    """Refuse a graph that is not the network.

    Raises:
        ParityError: the difference is above `MAX_NATS` or `MAX_RELATIVE`, or not a number.
    """
    if not (parity.nats <= MAX_NATS and parity.relative <= MAX_RELATIVE):
        raise ParityError(
            f"not published: the exported graph differs from the network by {parity.nats:.2g} nats "
            f"(at most {MAX_NATS:g}) and {parity.relative:.2g} of the predictions' size "
            f"(at most {MAX_RELATIVE:g}); the run folder keeps the checkpoint"
        )
