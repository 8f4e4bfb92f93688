"""What counting characters is worth: the scores that a network has to beat."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

PRIOR = 1.0
"""Weight of the single characters' shares in the shares after a character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingNats:
    """Mean nats per held-out character of two models that only count."""

    characters: float
    """Each character by its share of the training text."""
    pairs: float
    """Each character by its share after the one before it."""

    @property
    def named(self) -> dict[str, float]:
        """By what is counted."""
        return {"pairs of characters": self.pairs, "single characters": self.characters}

    @property
    def best(self) -> tuple[str, float]:
        """What is best counted, and the nats that it needs."""
        return min(self.named.items(), key=lambda pair: pair[1])


def counting_nats(train: Tensor, held_out: Tensor, *, symbols: int) -> CountingNats:
    """Count characters and pairs in a text ``(characters,)`` and score them on another."""
    read, scored = train.cpu().numpy(), held_out.cpu().numpy()
    counts = np.bincount(read, minlength=symbols).astype(np.float64)
    shares = (counts + 1) / (counts.sum() + symbols)  # (symbols,)
    pairs, seen = np.unique(read[:-1] * symbols + read[1:], return_counts=True)
    wanted = scored[:-1] * symbols + scored[1:]
    together = _looked_up(pairs, seen, wanted)
    after = (together + PRIOR * shares[scored[1:]]) / (counts[scored[:-1]] + PRIOR)
    return CountingNats(
        characters=float(-np.log(shares[scored[1:]]).mean()), pairs=float(-np.log(after).mean())
    )


def _looked_up(
    keys: NDArray[np.int64], values: NDArray[np.intp], wanted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The value of each wanted key, 0 where there is none; ``keys`` are sorted."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0).astype(np.float64)
