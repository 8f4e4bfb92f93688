"""Split labelled sequences so that every part has each label in the same share."""

from collections.abc import Sequence
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


def grouped(
    targets: Rows, groups: Sequence[str], *, validation: float, test: float, seed: int
) -> Split:
    """Split so that no group is in two parts; shares of labels are as near as groups allow.

    ``targets (n,)`` are labels, ``groups`` the group of each. Every label keeps a group to train
    on. A part is empty where there are too few groups.
    """
    draws = np.random.default_rng(seed)
    names, group_of = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    labels = int(targets.max()) + 1
    counts = np.zeros((len(names), labels), np.int64)  # (groups, labels)
    np.add.at(counts, (group_of, targets), 1)
    wanted = np.outer([test, validation], counts.sum(axis=0))  # (parts, labels)
    has = np.zeros_like(wanted)
    part_of = np.full(len(names), 2)  # 0: test, 1: validation, 2: train
    left = (counts > 0).sum(axis=0)  # groups that each label can be trained on
    # Large groups first: small ones then even out what these left.
    order = draws.permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    for group in order:
        count = counts[group]
        if (left[count > 0] < 2).any():
            continue
        gains = [
            np.abs(wanted[part] - has[part]).sum() - np.abs(wanted[part] - has[part] - count).sum()
            for part in (0, 1)
        ]
        best = int(np.argmax(gains))
        if gains[best] > 0:
            part_of[group] = best
            has[best] += count
            left[count > 0] -= 1
    for part, share in enumerate((test, validation)):
        if share and not (part_of == part).any():  # the smallest that nobody misses
            for group in order[::-1]:
                if part_of[group] == 2 and (left[counts[group] > 0] > 1).all():
                    part_of[group] = part
                    left[counts[group] > 0] -= 1
                    break
    tested, validated, trained = (np.flatnonzero(part_of[group_of] == part) for part in range(3))
    return Split(train=trained, validation=validated, test=tested)
