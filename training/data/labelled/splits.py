"""Split labelled sequences so that every part has each label in the same share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Numbers of sequences, in order; each is in one part."""

    train: Rows
    validation: Rows
    test: Rows


def stratified(targets: Rows, *, validation: float, test: float, seed: int) -> Split:
    """Split by labels ``targets (n,)`` at random; every label keeps a sequence to train on."""
    draws = np.random.default_rng(seed)
    parts: tuple[list[Rows], ...] = ([], [], [])
    for label in np.unique(targets):
        rows = draws.permutation(np.flatnonzero(targets == label))
        spare = len(rows) - 1
        tested = min(round(len(rows) * test), spare)
        validated = min(round(len(rows) * validation), spare - tested)
        for part, chosen in zip(
            parts, np.split(rows, [len(rows) - tested - validated, len(rows) - tested]), strict=True
        ):
            part.append(chosen)
    train, validated_rows, tested_rows = (np.sort(np.concatenate(part)) for part in parts)
    return Split(train=train, validation=validated_rows, test=tested_rows)
