"""Noise for sampling, from a counter and not from a stream.

A draw is a function of its seed and position, so it is the same in any batch, at any load, and
when it is repeated.
"""

import numpy as np
from numpy.typing import NDArray

from service.engine.work.work import Floats, Ints

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit words: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))


def uniforms(seeds: NDArray[np.uint64], positions: Ints) -> Floats:
    """Uniform numbers strictly between 0 and 1, one per (seed, position).

    ``seeds (rows,)`` and ``positions (rows,)``, or any shapes that go together.
    """
    words = mix(mix(seeds) + positions.astype(np.uint64) * _GOLDEN)
    # 23 bits and a half: exact in float32, and never 0 or 1.
    return ((words >> np.uint64(41)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)


def path_seeds(seed: int, paths: int) -> NDArray[np.uint64]:
    """One seed per sampled path, (paths,)."""
    base = mix(np.array([seed], np.uint64) + _GOLDEN)
    return mix(base + np.arange(1, paths + 1, dtype=np.uint64) * _GOLDEN)
