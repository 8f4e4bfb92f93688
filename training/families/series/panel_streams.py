"""The order in which training reads several series: each stream walks on one of them."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from training.families.reading_order import SHORTEST_PASS, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Consecutive places that belong to one series."""

    start: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelStreams:
    """Streams that start evenly spaced over all series together.

    Each takes its own series for a circle and stays on it until the next pass begins. With one
    series this is `training.families.reading_order.Streams`.
    """

    stretches: tuple[Stretch, ...]
    batch: int
    window: int
    seed: int

    @property
    def length(self) -> int:
        """Places to predict from."""
        return sum(stretch.length for stretch in self.stretches)

    @property
    def size(self) -> int:
        """Values in the training stretches; each has one more than can be predicted from."""
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
        """Training steps that read as much as so many readings of all series."""
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
        return Window(index=torch.from_numpy(index), fresh=fresh)
