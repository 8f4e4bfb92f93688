"""The orders in which training reads its data.

`Streams` reads long sequences as parallel streams, window by window. Each sequence is a circle, and
``batch`` streams start evenly spaced over all circles together. A pass walks every stream some
windows on, each on its own circle and with the state carried from one to the next; the next pass
starts at new places with a fresh state. With ``restart``, each stream also starts afresh after so
many windows, the streams in turn: a network that never begins anew in training is surprised by it
later.

`Shuffled` reads many short sequences, a batch of whole ones at a time.

Everything follows from the number of the training step, so a resumed run reads what the
uninterrupted one would have read.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

SHORTEST_PASS = 8
"""Windows per pass when the data allows it, so that there is a state to carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one training step reads."""

    index: Tensor
    """int64: places in the sequence, (batch, window); or numbers of whole sequences, (batch,)."""
    fresh: Tensor
    """bool, (batch,): rows that begin here, with the initial state."""


class ReadingOrder(Protocol):
    """What a training step reads, as a function of its number."""

    @property
    def size(self) -> int:
        """Units in the data: steps of one sequence, or whole sequences."""

    @property
    def per_step(self) -> int:
        """Units that a training step reads."""

    def steps(self, epochs: float) -> int:
        """Training steps that read as much as so many readings of the data."""

    def at(self, step: int) -> Window:
        """What training step ``step`` reads, counted from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Consecutive places that belong to one sequence."""

    start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Long sequences, read by parallel streams; see the module."""

    stretches: tuple[Stretch, ...]
    batch: int
    window: int
    seed: int
    restart: int = 0  # 0: only where a pass begins

    @property
    def length(self) -> int:
        """Places to predict from."""
        return sum(stretch.length for stretch in self.stretches)

    @property
    def size(self) -> int:
        """Steps of the sequences; each has one more than can be predicted from."""
        return self.length + len(self.stretches)

    @property
    def per_step(self) -> int:
        """Places that a training step reads."""
        return self.batch * self.window

    @property
    def windows_per_pass(self) -> int:
        """Training steps before the state starts afresh."""
        share = self.length // (self.batch * self.window)
        most = max(stretch.length for stretch in self.stretches) // self.window
        return max(min(max(share, SHORTEST_PASS), most), 1)

    def steps(self, epochs: float) -> int:
        """Training steps that read as much as so many readings of all sequences."""
        return max(1, math.ceil(epochs * self.length / (self.batch * self.window)))

    def at(self, step: int) -> Window:
        """The window of training step ``step``, counted from 0."""
        turn, window = divmod(step, self.windows_per_pass)
        offset = int(np.random.default_rng((self.seed, turn)).integers(self.length))
        begins = (np.arange(self.batch) * self.length // self.batch + offset) % self.length
        ends = np.cumsum([stretch.length for stretch in self.stretches])
        chosen = np.searchsorted(ends, begins, side="right")  # (batch,)
        lengths = np.array([stretch.length for stretch in self.stretches])[chosen]
        starts = np.array([stretch.start for stretch in self.stretches])[chosen]
        within = begins - (ends[chosen] - lengths)
        walked = within[:, None] + window * self.window + np.arange(self.window)
        index = starts[:, None] + walked % lengths[:, None]  # (batch, window)
        fresh = torch.full((self.batch,), window == 0)
        if self.restart:
            fresh |= (torch.arange(self.batch) + window) % self.restart == 0
        return Window(index=torch.from_numpy(index), fresh=fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffled:
    """Many sequences in a new random order each epoch, a batch of whole ones at a time."""

    count: int
    batch: int
    seed: int

    @property
    def size(self) -> int:
        """Sequences."""
        return self.count

    @property
    def per_step(self) -> int:
        """Sequences in a full batch."""
        return min(self.batch, self.count)

    @property
    def batches_per_epoch(self) -> int:
        """Training steps that read every sequence once; their batches differ by one at most."""
        return math.ceil(self.count / self.batch)

    def steps(self, epochs: float) -> int:
        """Training steps that read as much as so many readings of all sequences."""
        return max(1, math.ceil(epochs * self.batches_per_epoch))

    def at(self, step: int) -> Window:
        """The sequences of training step ``step``, counted from 0."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        rows = np.array_split(order, self.batches_per_epoch)[batch]
        return Window(index=torch.from_numpy(rows), fresh=torch.ones(len(rows), dtype=torch.bool))
