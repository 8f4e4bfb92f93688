"""A file held against what is in it: it is read right, or refused."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from tests.training.data.series.writing import Written
from training.data.series.dates.calendar import Labels
from training.data.series.panel import Panel
from training.data.series.reading import read_panel
from training.errors import DataError


class WrongError(AssertionError):
    """A file was read as something that it is not."""


def refusal(case: Written, folder: Path) -> str | None:
    """Read a file; says why it was refused, None where it was read right.

    Raises:
        WrongError: it was read wrongly.
    """
    path = folder / "case.csv"
    path.write_bytes(case.text.encode())
    try:
        panel = read_panel(path, case.columns)
    except DataError as error:
        return str(error).removeprefix(str(path))
    _hold(case, panel)
    return None


def _hold(case: Written, panel: Panel) -> None:
    found = {series.name: series for series in panel.series}
    if found.keys() != case.series.keys():
        raise WrongError(f"series {list(found)} instead of {list(case.series)}")
    for name, rows in case.series.items():
        series = found[name]
        values = np.array([value for _, value in rows])
        if len(values) != len(series.values) or not np.allclose(
            values, series.values, rtol=1e-12, atol=1e-12
        ):
            raise WrongError(f"{name}: values {series.values[:4]} instead of {values[:4]}")
        assert isinstance(series.labels, Labels)
        stamps = series.labels.stamps
        times = [time for time, _ in rows]
        if (stamps is None) != (times[0] is None):
            raise WrongError(f"{name}: times {stamps} instead of {times[:3]}")
        if stamps is not None:
            expected = pd.DatetimeIndex(times)
            if series.labels.elapsed or not (expected == stamps).all():
                raise WrongError(f"{name}: times {stamps[:3]} instead of {expected[:3]}")


def in_folder(case: Written) -> str | None:
    """`refusal`, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return refusal(case, Path(folder))
