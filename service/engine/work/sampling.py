"""How callers draw, and the noise that they draw with.

Noise comes from a counter and not from a stream: a draw is a function of its seed and position, so
it is the same in any batch, at any load, and when it is repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Floats, Ints
from service.errors import BadInputError

_ALL_TOKENS = np.iinfo(np.int64).max
# Arrays of no dimension: NumPy takes 40 % less for an operation with one than with a scalar.
_GOLDEN, _FIRST, _SECOND = (
    np.array(word, np.uint64)
    for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_27, _30, _31, _41 = (np.array(bits, np.uint64) for bits in (27, 30, 31, 41))
_HALF, _STEP = np.array(0.5, np.float32), np.array(2.0**-23, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one caller draws; ``top_k`` 0 means all tokens, temperature 0 the likeliest one."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    @property
    def candidates(self) -> int:
        """How many tokens may be drawn: at temperature 0 the likeliest one."""
        return (self.top_k or _ALL_TOKENS) if self.temperature else 1

    def check(self, field: str) -> None:
        """Check that the temperature is in 0..100 and top_p in (0, 1].

        Raises:
            BadInputError: one of them is not; ``field`` is what the caller calls the sampling.
        """
        if not 0.0 <= self.temperature <= 100.0:
            raise BadInputError(f"{field}.temperature", f"{self.temperature} is not in 0..100")
        if not 0.0 < self.top_p <= 1.0:
            raise BadInputError(f"{field}.top_p", f"{self.top_p} is not above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Sampling parameters, a column each, (rows,)."""

    temperature: Floats
    top_k: Ints
    top_p: Floats
    seed: NDArray[np.uint64]

    @classmethod
    def of(cls, samplings: Sequence[Sampling]) -> "Draws":
        """One row for each."""
        return cls(
            temperature=np.array([one.temperature or 1.0 for one in samplings], np.float32),
            top_k=np.array([one.candidates for one in samplings], np.int64),
            top_p=np.array([one.top_p for one in samplings], np.float32),
            seed=np.array([one.seed for one in samplings], np.uint64),
        )

    @classmethod
    def repeated(cls, sampling: Sampling, rows: int) -> "Draws":
        """The same parameters for every row."""
        return cls.of((sampling,)).take(np.zeros(rows, np.int64))

    def take(self, rows: Ints | slice) -> "Draws":
        """Some of the rows."""
        return Draws(
            temperature=self.temperature[rows],
            top_k=self.top_k[rows],
            top_p=self.top_p[rows],
            seed=self.seed[rows],
        )

    @classmethod
    def joined(cls, parts: Sequence["Draws"]) -> "Draws":
        """All rows of all parts."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            temperature=np.concatenate([part.temperature for part in parts]),
            top_k=np.concatenate([part.top_k for part in parts]),
            top_p=np.concatenate([part.top_p for part in parts]),
            seed=np.concatenate([part.seed for part in parts]),
        )


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit words: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    mixed = words >> _30
    mixed ^= words
    mixed *= _FIRST
    shifted = mixed >> _27
    mixed ^= shifted
    mixed *= _SECOND
    np.right_shift(mixed, _31, shifted)
    mixed ^= shifted
    return mixed


def uniforms(seeds: NDArray[np.uint64], positions: Ints) -> Floats:
    """Uniform numbers strictly between 0 and 1, one per (seed, position).

    ``seeds (rows,)`` and ``positions (rows,)``, or any shapes that go together.
    """
    # Positions are never below 0, so that their bits are those of unsigned numbers.
    words = mix(mix(seeds) + positions.view(np.uint64) * _GOLDEN)
    words >>= _41
    # 23 bits and a half: exact in float32, and never 0 or 1.
    found: Floats = words.astype(np.float32)
    found += _HALF
    found *= _STEP
    return found


def path_seeds(seed: int, paths: int) -> NDArray[np.uint64]:
    """One seed per sampled path, (paths,)."""
    base = mix(np.array([seed], np.uint64) + _GOLDEN)
    return mix(base + np.arange(1, paths + 1, dtype=np.uint64) * _GOLDEN)
