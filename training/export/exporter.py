"""From a network to a portable ONNX model with its manifest.

The graph is written node by node from the weights, with the real recurrent ops, so that it depends
on no tracer. Batch and time are dynamic; every state output is the state after a row's last valid
step. Each op is one whose results do not depend on how many steps or rows run together (ONNX
Runtime, CPU, one thread): a chunk gives the bits of its single steps. (``Log`` and ``Softplus`` are
not such ops: their vector body and scalar tail differ. The plain ``RNN`` op is only close.)
"""

import onnx
import torch
from torch import nn

from models.manifest import Manifest
from training.export.char import export_char
from training.export.classify import export_bidirectional, export_streamed
from training.export.series import export_series
from training.families.char.network import CharNetwork
from training.families.classify.network import BidirectionalClassifier, StreamedClassifier
from training.families.series.network import SeriesNetwork


def export(network: nn.Module, *, name: str = "model") -> tuple[onnx.ModelProto, Manifest]:
    """Write a trained (or untrained) network as ONNX.

    Inputs are ``tokens (batch, time)`` int64 or ``values (batch, time, features)`` float32,
    ``lengths (batch,)`` int32 >= 1, and each state ``(batch, size)``; outputs are the prediction
    ``(batch, time, width)`` and each ``<state>_next``. A bidirectional network has no states, and
    one prediction ``(batch, width)`` for a sequence. Series have ``levels (batch, K)`` in (0, 1)
    and ``quantiles (batch, time, K)`` too.

    The manifest, still without scores and provenance, is returned beside the model, not embedded:
    `ModelRepository.publish` does that.
    """
    with torch.no_grad():
        if isinstance(network, CharNetwork):
            return export_char(network, name)
        if isinstance(network, SeriesNetwork):
            return export_series(network, name)
        if isinstance(network, StreamedClassifier):
            return export_streamed(network, name)
        if isinstance(network, BidirectionalClassifier):
            return export_bidirectional(network, name)
    raise TypeError(f"no exporter for {type(network).__name__}")
