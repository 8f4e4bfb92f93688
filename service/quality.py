"""What 8-bit products cost a character model, found without data."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.compile.arena import compile_model
from models.compile.serving import Precision
from models.errors import ModelError
from models.manifest import TokensInput
from models.repository import Model
from service.engine.execution.cpu.runner import OrtRunner
from service.engine.work.columns import Floats, Ints
from service.engine.work.sampling import Draws, Sampling, path_seeds

_ROWS = 32
_STEPS = 128


def int8_nats(model: Model, *, seed: int = 0) -> float:
    """Nats per step that a character model's predictions lose at int8, estimated without data.

    It is the mean of KL(p || q), where p is the prediction at fp32 and q that at int8, over 32
    sequences of 128 tokens drawn from the fp32 model itself, each from the initial state and
    another first token. On text that the model predicts as well as its own, this is by how much
    the loss grows: the cross-entropy of q less the entropy of p. What exporting measured on
    held-out text is in the manifest's scores, as ``int8_nats_cost``.

    Raises:
        ModelError: the model is no character model exported by cellar-train.
    """
    if model.manifest.task != "char" or not isinstance(model.manifest.input, TokensInput):
        raise ModelError(f"{model.path}: the cost of int8 is known for character models alone")
    exact = _runner(model, Precision.FP32)
    vocabulary = len(model.manifest.input.vocabulary)
    first = np.arange(_ROWS, dtype=np.int64) * vocabulary // _ROWS
    draws = replace(Draws.repeated(Sampling(), _ROWS), seed=path_seeds(seed, _ROWS))
    rows = np.arange(_ROWS)
    drawn = exact.decode(
        read=rows,
        write=rows,
        fresh=np.ones(_ROWS, np.bool_),
        inputs=first,
        positions=np.ones(_ROWS, np.int64),
        draws=draws,
        steps=_STEPS - 1,
    )
    tokens = np.concatenate([first[:, None], drawn.astype(np.int64)], axis=1)
    return divergence(_logits(exact, tokens), _logits(_runner(model, Precision.INT8), tokens))


def divergence(exact: Floats, other: Floats) -> float:
    """Mean KL(p || q) in nats of predictions given as logits (..., vocabulary)."""
    p, q = _log_probabilities(exact), _log_probabilities(other)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def _log_probabilities(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def _runner(model: Model, precision: Precision) -> OrtRunner:
    graph = compile_model(model, precision=precision)
    return OrtRunner(graph, slots=_ROWS, max_batch=_ROWS * _STEPS)


def _logits(runner: OrtRunner, tokens: Ints) -> Floats:
    """Predictions after every step of sequences from the initial state: (rows, steps, width)."""
    rows = np.arange(len(tokens))
    return runner.step(
        read=rows,
        write=rows,
        fresh=np.ones(len(tokens), np.bool_),
        inputs=tokens,
        lengths=np.full(len(tokens), tokens.shape[1]),
        every_step=True,
    )
