"""The order in which training reads a long sequence: parallel streams, window by window.

The sequence is a circle of ``length`` steps on which ``batch`` streams start evenly spaced. A pass
walks every stream some windows on, with the state carried from one to the next; the next pass
starts at a new place with a fresh state. Everything follows from the number of the training step,
so a resumed run reads what the uninterrupted one would have read.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SHORTEST_PASS = 8
"""Windows per pass when the data allows it, so that there is a state to carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one training step reads."""

    index: Tensor
    """(batch, window) int64: places in the sequence."""
    fresh: bool
    """True where a pass begins: the state is the initial one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """A reading order; see the module."""

    length: int
    batch: int
    window: int
    seed: int

    @property
    def windows_per_pass(self) -> int:
        """Training steps before the state starts afresh."""
        share = self.length // (self.batch * self.window)
        return max(share, min(SHORTEST_PASS, self.length // self.window), 1)

    def steps(self, epochs: float) -> int:
        """Training steps that read as much as so many readings of the sequence."""
        return max(1, math.ceil(epochs * self.length / (self.batch * self.window)))

    def at(self, step: int) -> Window:
        """The window of training step ``step``, counted from 0."""
        turn, window = divmod(step, self.windows_per_pass)
        offset = int(np.random.default_rng((self.seed, turn)).integers(self.length))
        starts = torch.arange(self.batch) * self.length // self.batch  # (batch,)
        places = torch.arange(self.window) + (offset + window * self.window)  # (window,)
        return Window(index=(starts[:, None] + places) % self.length, fresh=window == 0)
