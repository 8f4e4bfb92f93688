"""Which labelled sequences are trained on and which are not: as they came, or by shares."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from training.data.labelled.cleaning import without
from training.data.labelled.examples import Example, Labelled
from training.data.labelled.splits import Split, grouped, stratified
from training.errors import DataError, listed
from training.families.classify.settings import ClassifyConfig


def kept_apart(
    data: Labelled, test: Labelled | None, config: ClassifyConfig
) -> tuple[Labelled, Labelled | None]:
    """The data less what is tested, and the test; both of one kind.

    Raises:
        DataError: there are two tests or nothing to train on, or they do not fit together.
    """
    parts = {example.part for example in data.examples} - {None}
    if parts and "train" not in parts:
        raise DataError(
            f"{config.data}: it is the {' and '.join(sorted(map(str, parts)))} part alone; give "
            "the part to train on with --data, and this one with --test"
        )
    if test is None:
        own = [example for example in data.examples if example.part == "test"]
        _check_known(own, {e.label for e in data.examples if e.part == "train"}, config.data)
    else:
        if "test" in parts:
            raise DataError(
                f"{config.data}: it has a test part of its own; leave out --test, or give its "
                "training part with --data"
            )
        if test.is_split:
            raise DataError(f"{config.test}: it has parts of its own; give its test part alone")
        test = replace(test, examples=tuple(replace(e, part="test") for e in test.examples))
        data = without(data, test)
        if data.features != test.features:
            raise DataError(
                f"{config.test}: its columns of numbers are {listed(test.features) or 'none'}, "
                f"but those of {config.data} are {listed(data.features) or 'none'}; make them alike"
            )
        _check_known(test.examples, set(data.labels), config.test or config.data, config.data)
    examples = data.examples + (() if test is None else test.examples)
    _check_groups(examples, config)
    return data, test


def _check_known(
    tested: Sequence[Example], known: set[str], path: Path, trained: Path | None = None
) -> None:
    for example in tested:
        if example.label not in known:
            where = f"in {trained}" if trained else "in the training part"
            raise DataError(
                f"{path}, {example.place}: label '{example.label}' is not {where}; "
                "a label must be trained on to be tested"
            )


def _check_groups(examples: Sequence[Example], config: ClassifyConfig) -> None:
    """Refuse groups that are on both sides of a split that was given."""
    part_of: dict[str, str] = {}
    for example in examples:
        if config.group is not None and not example.group:
            raise DataError(f"{config.data}, {example.place}: it has no group (--group)")
        if not example.group or example.part is None:
            continue
        part = part_of.setdefault(example.group, example.part)
        if part != example.part:
            raise DataError(
                f"{config.data}, {example.place}: group '{example.group}' is in the {part} and the "
                f"{example.part} part as they came; leave out --group, or give data without parts"
            )


def split_of(
    config: ClassifyConfig, targets: np.ndarray, examples: Sequence[Example], *, own: int
) -> Split:
    """Numbers of examples for each part; the first ``own`` are of the data, the others its test.

    Raises:
        DataError: a part would be empty, or there are no two labels.
    """
    labels = np.unique(targets[:own])
    if len(labels) < 2:
        label = examples[0].label
        raise DataError(f"{config.data}: all sequences have the label '{label}'; give two")
    parts = np.array([example.part or "" for example in examples])
    is_tested, is_validated = parts == "test", parts == "validation"
    free = np.flatnonzero(~is_tested & ~is_validated)
    shares = {
        "validation": 0.0 if is_validated.any() else config.validation_share,
        "test": 0.0 if is_tested.any() else config.test_share,
    }
    if config.group is None:
        drawn = stratified(targets[free], **shares, seed=config.seed)
    else:
        groups = [examples[row].group for row in free.tolist()]
        drawn = grouped(targets[free], groups, **shares, seed=config.seed)
    split = Split(
        train=free[drawn.train],
        validation=np.concatenate([free[drawn.validation], np.flatnonzero(is_validated)]),
        test=np.concatenate([free[drawn.test], np.flatnonzero(is_tested)]),
    )
    wanted = {"test": split.test}
    if config.validation_share:
        wanted["validation"] = split.validation
    for name, rows in wanted.items():
        if not len(rows):
            count = len({examples[row].group for row in free.tolist()})
            said = f"{own:,} sequences" if config.group is None else f"{count:,} groups"
            raise DataError(
                f"{config.data}: {said} with {len(labels)} labels leave none for "
                f"the {name}: give at least ten for each label"
            )
    return split
