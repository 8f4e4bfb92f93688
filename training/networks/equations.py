"""The recurrent cells written out from their equations, one step at a time, in numpy.

Nothing is trained or served with these: they are what the networks and the exported graphs are held
to in the tests, and what `docs/recurrent-networks.md` shows. Weights lie as torch has them, one
block of rows per gate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
State = tuple[Floats, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weights:
    """One layer: ``W x + b_w + R h + b_r``, with one block of rows for each gate."""

    W: Floats  # (gates * hidden, inputs)
    R: Floats  # (gates * hidden, hidden)
    b_w: Floats  # (gates * hidden,)
    b_r: Floats  # (gates * hidden,)


Step = Callable[[Weights, Floats, State], State]
"""Maps an input (inputs,) and a state to the next state; its first part is the output (hidden,)."""


def sigmoid(x: Floats) -> Floats:
    """A gate: 0 is shut, 1 is open."""
    return np.asarray(1 / (1 + np.exp(-x)))


def rnn(weights: Weights, x: Floats, state: State) -> State:
    """The plain cell (Elman 1990): what is known is written anew at every step."""
    (h,) = state
    return (np.tanh(weights.W @ x + weights.b_w + weights.R @ h + weights.b_r),)


def gru(weights: Weights, x: Floats, state: State) -> State:
    """Gated recurrent unit (Cho et al. 2014), the reset gate after the product as cuDNN has it."""
    (h,) = state
    xr, xz, xn = np.split(weights.W @ x + weights.b_w, 3)
    hr, hz, hn = np.split(weights.R @ h + weights.b_r, 3)
    r = sigmoid(xr + hr)  # how much of the past the proposal sees
    z = sigmoid(xz + hz)  # how much of the past stays
    n = np.tanh(xn + r * hn)  # the proposal
    return ((1 - z) * n + z * h,)


def lstm(weights: Weights, x: Floats, state: State) -> State:
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000)."""
    h, c = state
    i, f, g, o = np.split(weights.W @ x + weights.b_w + weights.R @ h + weights.b_r, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)  # keep, and write
    return sigmoid(o) * np.tanh(c), c  # read


def unrolled(step: Step, weights: Weights, xs: Floats, state: State) -> tuple[Floats, State]:
    """Run a layer over a sequence (time, inputs): outputs (time, hidden) and the last state."""
    outputs = []
    for x in xs:
        state = step(weights, x, state)
        outputs.append(state[0])
    return np.stack(outputs), state
