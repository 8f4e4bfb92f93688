"""A file read by training and by the client: both alike, or the client refuses.

``python -m tests.readers.both --cases 5000 --seed 0`` does so with random files.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections import Counter
from enum import StrEnum
from pathlib import Path

import numpy as np

from cellar.reading.errors import TableError
from cellar.reading.options import ReadingOptions
from cellar.reading.series_table import read_past
from cellar.values.model_info import InputKind, ModelInfo, PredictionKind
from tests.training.data.series.forms import RandomChooser
from tests.training.data.series.writing import written
from training.data.series.columns import Columns
from training.data.series.reading import read_panel
from training.errors import DataError


class Outcome(StrEnum):
    """What became of a file."""

    ALIKE = "alike"
    CLIENT_REFUSES = "the client refuses"
    TRAINING_REFUSES = "training refuses"
    BOTH_REFUSE = "both refuse"


_HARMLESS = ("may be read as", "may be times", "is named like dates")
"""Training cannot tell when rows are; their order is the same, and a forecast needs no more."""


class OtherwiseError(AssertionError):
    """A file was read otherwise than training reads it."""


def series_model(value: str, *beside: str) -> ModelInfo:
    """A model of a series."""
    return ModelInfo(
        name="series", version=1, default_version=True, task="series", input=InputKind.VALUES,
        width=1 + len(beside), vocabulary=(), features=(value, *beside),
        prediction=PredictionKind.DISTRIBUTION, prediction_width=2, labels=(), streamable=True,
        predicts_per_step=True, rows_run_alone=False, steps_run_alone=False, largest_value=None,
        session_bytes=4, fingerprint="", scores={}, provenance={},
    )  # fmt: skip


def compare(path: Path, columns: Columns) -> tuple[Outcome, str]:
    """Read one series by both; also says why one refused.

    Raises:
        OtherwiseError: both read it, and not alike.
    """
    (value,) = columns.value
    try:
        (trained,) = read_panel(path, columns).series
        expected = np.column_stack([trained.values, trained.beside])
    except (DataError, ValueError) as error:
        expected, why = None, str(error)
    told = ReadingOptions(
        date=columns.date,
        date_form=columns.date_form,
        decimal_comma=columns.told_comma,
        missing=columns.missing,
        encoding=columns.encoding,
    )
    model = series_model(value, *columns.feature, *columns.time_feature)
    try:
        found = np.array(read_past(path, value, model, told).rows)
    except TableError as error:
        return (Outcome.BOTH_REFUSE if expected is None else Outcome.CLIENT_REFUSES), str(error)
    if expected is None:
        return Outcome.TRAINING_REFUSES, why
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-12, atol=1e-12):
        raise OtherwiseError(f"{found[:3].tolist()} instead of {expected[:3].tolist()}")
    return Outcome.ALIKE, ""


def run(*, cases: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Write and read so many random files; returns what became of them, and what is wrong."""
    outcomes, wrong = Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.csv"
        for number in range(seed, seed + cases):
            case = written(RandomChooser(number))
            path.write_bytes(case.text.encode())
            chosen = RandomChooser(number).one_of(list(case.columns.value))
            columns = dataclasses.replace(case.columns, value=(chosen,))
            try:
                outcome, why = compare(path, columns)
            except Exception as error:  # whatever it is, it is neither a reading nor a refusal
                wrong.append(
                    f"--seed {number} --cases 1: {type(error).__name__}: {error} {case.how}"
                )
                continue
            outcomes[outcome] += 1
            if outcome is Outcome.TRAINING_REFUSES and not any(each in why for each in _HARMLESS):
                wrong.append(f"--seed {number} --cases 1: training refuses: {why} {case.how}")
    return outcomes, wrong


def main() -> int:
    """Read as many files as are asked for; 1 where one was read otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="that of the first case")
    options = parser.parse_args()
    outcomes, wrong = run(cases=options.cases, seed=options.seed)
    print(f"{options.cases:,} files: {dict(outcomes)}, {len(wrong):,} wrong")
    for each in wrong[:20]:
        print(each)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
