"""Does the exported graph compute what the network computes? Else nothing is published."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.manifest import Manifest
from training.errors import ParityError
from training.families.task import HeldOut, Task
from training.networks.recurrent import RecurrentNetwork

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
    """Compare network and graph on held-out data: whole and, where it streams, step by step."""
    held_out = task.held_out()
    expected = _by_torch(task.network.eval().cpu(), held_out)
    model = OnnxModel(proto, manifest)
    found = [_whole(model, held_out)]
    if manifest.is_streamable:
        found.append(_step_by_step(model, held_out))
    nats = task.nats(expected, held_out)
    kept = _valid(held_out, expected)  # (predictions, width)
    size = kept.abs().amax(dim=0).clamp(min=1e-12)  # (width,)
    return Parity(
        nats=max(abs(task.nats(prediction, held_out) - nats) for prediction in found),
        relative=max(
            float(((_valid(held_out, prediction) - kept).abs() / size).max())
            for prediction in found
        ),
    )


def _by_torch(network: nn.Module, held_out: HeldOut) -> Tensor:
    """What the network predicts: (rows, time, width), or (rows, width) for whole sequences."""
    with torch.no_grad():
        if isinstance(network, RecurrentNetwork):
            prediction, _ = network(held_out.steps, network.initial_state(len(held_out.steps)))
        else:
            prediction = network(held_out.steps, held_out.row_lengths)
    assert isinstance(prediction, Tensor), "networks predict tensors"
    return prediction


def _whole(model: OnnxModel, held_out: HeldOut) -> Tensor:
    rows = len(held_out.steps)
    lengths = held_out.row_lengths.numpy().astype(np.int32)
    outputs, _ = model.run(held_out.steps.numpy(), model.initial_state(rows), lengths=lengths)
    return torch.from_numpy(outputs[model.manifest.prediction.output])


def _step_by_step(model: OnnxModel, held_out: HeldOut) -> Tensor:
    state = model.initial_state(len(held_out.steps))
    single = []
    for step in range(held_out.steps.shape[1]):
        outputs, state = model.run(held_out.steps[:, step : step + 1].numpy(), state)
        single.append(outputs[model.manifest.prediction.output])
    return torch.from_numpy(np.concatenate(single, axis=1))


def _valid(held_out: HeldOut, prediction: Tensor) -> Tensor:
    """The predictions that count, (predictions, width): none after the end of a row."""
    if prediction.ndim == 2:
        return prediction
    places = torch.arange(prediction.shape[1])
    return prediction[places < held_out.row_lengths[:, None]]


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
