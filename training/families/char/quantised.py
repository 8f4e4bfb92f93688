"""What 8-bit products cost a character model, on text it has not seen."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.compile.arena import compile_model
from models.compile.serving import (
    HIDDEN,
    PREDICTIONS,
    Precision,
    ServingGraph,
    read_rows,
    write_rows,
)
from models.manifest import Manifest
from models.repository import Model

SCORE = "int8_nats_cost"
WINDOW = 512
MOST_WINDOWS = 64
WINDOWS_AT_ONCE = 16


def int8_nats_cost(text: Tensor, proto: onnx.ModelProto, manifest: Manifest) -> float:
    """By how many nats per character the loss on held-out text grows at ``--precision int8``.

    ``text (length,)`` holds token ids; its head is read in at most 64 windows of 512 characters,
    each from the initial state.
    """
    window = min(WINDOW, len(text) - 1)
    count = min(MOST_WINDOWS, (len(text) - 1) // window)
    places = np.arange(count)[:, None] * window + np.arange(window + 1)
    windows = text.cpu().numpy()[places]  # (windows, window + 1)
    model = Model(
        name=manifest.name,
        version=1,
        manifest=manifest,
        proto=proto,
        fingerprint="",
        path=Path(manifest.name),
    )
    exact, rounded = (
        _loss(compile_model(model, precision=precision), windows)
        for precision in (Precision.FP32, Precision.INT8)
    )
    return rounded - exact


def _loss(graph: ServingGraph, windows: NDArray[np.int64]) -> float:
    """Mean cross-entropy of the next character, as the server would compute it."""
    assert graph.every is not None, "character models have it"
    chunk, every = _session(graph.chunk), _session(graph.every)
    losses = []
    for start in range(0, len(windows), WINDOWS_AT_ONCE):
        part = windows[start : start + WINDOWS_AT_ONCE]
        (hidden,) = chunk.run([HIDDEN], _feed(graph, part[:, :-1]))
        (logits,) = every.run([PREDICTIONS], {HIDDEN: hidden})  # (windows, window, vocabulary)
        found = torch.from_numpy(logits).double().flatten(0, 1)
        truth = torch.from_numpy(np.ascontiguousarray(part[:, 1:])).flatten()
        losses.append(cross_entropy(found, truth, reduction="none"))
    return float(torch.cat(losses).mean())


def _feed(graph: ServingGraph, tokens: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
    """Every window starts from the one row of an arena, and what it writes there is dropped."""
    rows, steps = tokens.shape
    feed: dict[str, NDArray[np.generic]] = {
        graph.manifest.input.name: np.ascontiguousarray(tokens),
        graph.manifest.lengths or "": np.full(rows, steps, np.int32),
    }
    for tensor in graph.arena:
        feed[tensor.input] = tensor.start[np.newaxis]
        feed[read_rows(tensor.siblings)] = np.zeros(rows, np.int64)
        feed[write_rows(tensor.siblings)] = np.zeros((rows, 1), np.int64)
    return feed


def _session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
