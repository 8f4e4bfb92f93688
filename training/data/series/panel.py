"""Columns of a file as series: cleaned as little as needed, and every change of them reported."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.notes import Note
from training.data.series.columns import TimeFeature
from training.data.series.dates.calendar import Calendar, Labels, time_columns
from training.data.series.synthetic import synthetic_prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values in order of time, in the user's own units, and what stands beside them."""

    name: str
    values: NDArray[np.float64]
    """(rows,)"""
    beside: NDArray[np.float64]
    """(rows, features): the panel's features, then its time features."""
    labels: Sequence[str]
    """One per row: its time, or its line."""

    def head(self, rows: int) -> "Series":
        """The first rows."""
        return replace(
            self, values=self.values[:rows], beside=self.beside[:rows], labels=self.labels[:rows]
        )

    def ahead(self, steps: int) -> Sequence[str]:
        """The times of the steps after the last row, ``(steps,)``; empty where nobody knows."""
        labels = self.labels
        if isinstance(labels, Labels) and labels.stamps is not None:
            calendar = Calendar.of(labels.stamps)
            if calendar is not None and calendar.is_kept(labels.stamps):
                stamps = calendar.after(labels.stamps[-1], steps)
                return Labels(stamps, labels.lines[:0], elapsed=labels.elapsed)
        return ("",) * steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One or more series with the same columns."""

    series: tuple[Series, ...]
    source: str
    features: tuple[str, ...] = ()
    times: tuple[TimeFeature, ...] = ()
    synthetic: bool = False
    notes: tuple[Note, ...] = field(default=())

    def head(self, rows: int) -> "Panel":
        """The first rows of each series; the notes are of them all."""
        return replace(self, series=tuple(series.head(rows) for series in self.series))

    @property
    def sha256(self) -> str:
        """Hash of everything a network reads."""
        digest = hashlib.sha256()
        for series in self.series:
            for numbers in (series.values, series.beside):
                digest.update(np.ascontiguousarray(numbers).tobytes())
        return digest.hexdigest()


def synthetic_panel(rows: int, *, seed: int, times: tuple[TimeFeature, ...] = ()) -> Panel:
    """A generated price series."""
    frame = synthetic_prices(rows, seed=seed)
    stamps = pd.DatetimeIndex(pd.to_datetime(frame["Date"]))
    beside = time_columns(stamps, times)
    series = Series(
        name="Close",
        values=frame["Close"].to_numpy(np.float64),
        beside=np.stack(beside, axis=1) if beside else np.zeros((rows, 0)),
        labels=Labels(stamps, np.arange(rows)),
    )
    source = f"synthetic prices ({rows} rows, seed {seed})"
    return Panel(series=(series,), source=source, times=times, synthetic=True)
