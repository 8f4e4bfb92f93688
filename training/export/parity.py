"""Does the exported graph compute what the network computes? Else nothing is published."""

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from models.manifest import Manifest
from training.errors import ParityError
from training.export.onnx_model import OnnxModel
from training.families.task import HeldOut, Task
from training.networks.recurrent import RecurrentNetwork

MAX_NATS = 1e-4
MAX_RELATIVE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far the exported graph is from the network on held-out data."""

    nats: float
    """Difference of the mean loss: the larger of whole sequence and step by step."""
    relative: float
    """Largest difference of a prediction, relative to the largest prediction of its column."""


def measure(task: Task, proto: onnx.ModelProto, manifest: Manifest) -> Parity:
    """Compare network and graph on held-out data: whole and, where it streams, step by step."""
    held_out = task.held_out()
    expected = _by_torch(task.network.eval().cpu(), held_out)
    model = OnnxModel(proto, manifest)
    steps, lengths = held_out.steps.numpy(), held_out.row_lengths.numpy().astype(np.int32)
    found = [torch.from_numpy(model.whole(steps, lengths))]
    if manifest.is_streamable:
        found.append(torch.from_numpy(model.step_by_step(steps)))
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
