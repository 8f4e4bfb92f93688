"""How rows follow each other in time: the usual step, what is left out, and what comes next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.notes import Note
from training.data.series.columns import TimeFeature
from training.errors import DataError

WEEKEND_SHARE = 0.05
"""Fewer rows at weekends than this share of them: the calendar has five days a week."""
MOST_FILLED = 10
"""Filling may make a series so many times as long."""
KEPT = 0.5
"""With fewer steps than this share of the usual length, nobody knows when the next one is."""
OFF_GRID = 0.1
"""With more rows than this share between the steps of a calendar there is nothing to fill."""


def shown(stamps: pd.DatetimeIndex, *, elapsed: bool = False) -> tuple[str, ...]:
    """Times for people: without the time of day where it is always midnight."""
    if elapsed:
        return tuple(f"{seconds:.10g}" for seconds in _seconds(stamps))
    whole_days = bool((stamps == stamps.normalize()).all())
    if whole_days:
        return tuple(stamps.strftime("%Y-%m-%d"))
    split = bool((stamps != stamps.floor("s")).any())
    return tuple(stamps.strftime("%Y-%m-%d %H:%M:%S.%f" if split else "%Y-%m-%d %H:%M:%S"))


def _seconds(stamps: pd.DatetimeIndex) -> NDArray[np.float64]:
    return np.asarray((stamps - pd.Timestamp(0)) / pd.Timedelta(1, "s"), np.float64)


class Labels(Sequence[str]):
    """A name for each row, made when it is asked for: its time, or its line."""

    def __init__(
        self,
        stamps: pd.DatetimeIndex | None,
        lines: NDArray[np.int64],
        *,
        elapsed: bool = False,
        word: str = "line",
    ) -> None:
        self.stamps = stamps
        self.lines = lines
        self.elapsed = elapsed
        self.word = word
        self._is_whole = stamps is None or bool((stamps == stamps.normalize()).all())

    def __len__(self) -> int:
        return len(self.lines) if self.stamps is None else len(self.stamps)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> "Labels": ...

    def __getitem__(self, place: int | slice) -> "str | Labels":
        """One name, or those of a stretch."""
        if isinstance(place, slice):
            stamps = None if self.stamps is None else self.stamps[place]
            lines = self.lines[place] if len(self.lines) else self.lines
            return Labels(stamps, lines, elapsed=self.elapsed, word=self.word)
        if self.stamps is None:
            return f"{self.word} {self.lines[place]}"
        one = self.stamps[[place]]
        if not self.elapsed and not self._is_whole and bool((one == one.normalize()).all()):
            return str(one.strftime("%Y-%m-%d %H:%M:%S")[0])
        return shown(one, elapsed=self.elapsed)[0]

    def __iter__(self) -> Iterator[str]:
        if self.stamps is None:
            return (f"{self.word} {line}" for line in self.lines)
        return iter(shown(self.stamps, elapsed=self.elapsed))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The usual step between rows."""

    step: pd.Timedelta
    five_days: bool
    months: int = 0
    """The step where it is whole months; 0: it is ``step``."""
    at_end: bool = False
    """Months are counted from their last days."""

    @classmethod
    def of(cls, stamps: pd.DatetimeIndex) -> "Calendar | None":
        """The calendar of sorted, distinct times; None where there are too few."""
        if len(stamps) < 3:
            return None
        steps = pd.Series(np.diff(stamps.asi8))
        day = pd.Timedelta(1, "D")
        step = pd.Timedelta(int(steps.mode().iloc[0]), stamps.unit)
        if step >= 28 * day and (stamps == stamps.normalize()).all():
            at_end = bool(stamps.is_month_end.all())
            if at_end or len(set(stamps.day)) == 1:
                months = pd.Series(np.diff(stamps.year * 12 + stamps.month)).mode().iloc[0]
                return cls(step=step, five_days=False, months=int(months), at_end=at_end)
        weekends = float((stamps.day_of_week >= 5).mean())
        return cls(step=step, five_days=step == day and weekends < WEEKEND_SHARE)

    @property
    def kind(self) -> str:
        """What a step is, for people."""
        if self.five_days:
            return "weekdays"
        if self.months:
            return "months" if self.months == 1 else f"steps of {self.months} months"
        return f"steps of {self.step}"

    def missing(self, stamps: pd.DatetimeIndex) -> NDArray[np.int64]:
        """Steps left out before each time but the first, ``(rows - 1,)``."""
        if self.five_days:
            days = stamps.to_numpy().astype("datetime64[D]")
            between = np.busday_count(days[:-1] + 1, days[1:])
            return np.maximum(np.asarray(between, np.int64), 0)
        if self.months:
            months = np.asarray(stamps.year * 12 + stamps.month, np.int64)
            return np.array(np.maximum(np.diff(months) // self.months - 1, 0), np.int64)
        steps = np.diff(stamps.asi8) / (self.step / pd.Timedelta(1, stamps.unit))
        return np.array(np.maximum(np.rint(steps) - 1, 0), np.int64)

    def is_kept(self, stamps: pd.DatetimeIndex) -> bool:
        """Whether most steps are the usual one, so that those to come can be told."""
        if self.five_days or self.months:
            return True
        steps = np.diff(stamps.asi8)
        return bool((steps == self.step // pd.Timedelta(1, stamps.unit)).mean() > KEPT)

    def after(self, last: pd.Timestamp, steps: int) -> pd.DatetimeIndex:
        """The times of the steps that follow, ``(steps,)``."""
        if self.five_days:
            return pd.bdate_range(last + pd.Timedelta(1, "D"), periods=steps, normalize=False)
        if self.months:
            each = [last + pd.DateOffset(months=self.months * step) for step in range(1, steps + 1)]
            found = pd.DatetimeIndex(each)
            return found + pd.offsets.MonthEnd(0) if self.at_end else found
        return pd.DatetimeIndex([last + self.step * step for step in range(1, steps + 1)])

    def filled(self, stamps: pd.DatetimeIndex, *, where: str) -> pd.DatetimeIndex:
        """The times with those left out between them.

        Raises:
            DataError: there would be too many, or the times have no usual step.
        """
        missing = int(self.missing(stamps).sum())
        if missing + len(stamps) > MOST_FILLED * len(stamps):
            raise DataError(
                f"{where}: filling every step of {self.step} would make {missing + len(stamps):,} "
                f"rows of {len(stamps):,}; use --fill none"
            )
        if self.five_days:
            every = pd.bdate_range(stamps[0], stamps[-1], normalize=False)
        elif self.months:
            count = (stamps[-1].year - stamps[0].year) * 12 + stamps[-1].month - stamps[0].month
            rest = self.after(stamps[0], count // self.months)
            every = pd.DatetimeIndex([stamps[0], *rest])
        else:
            every = pd.date_range(stamps[0], stamps[-1], freq=self.step)
        off = len(stamps.difference(every))
        if off > OFF_GRID * len(stamps):
            raise DataError(
                f"{where}: {off:,} of {len(stamps):,} times are not on {self.kind} from the first "
                "one on, so there is no telling which are missing; use --fill none"
            )
        return every.union(stamps)


def gap_note(calendar: Calendar, stamps: pd.DatetimeIndex, labels: Labels) -> Note | None:
    """Tell of steps that have no row."""
    missing = calendar.missing(stamps)
    if not missing.any():
        return None
    place = int(missing.argmax())
    return Note(
        what="not there: each gap is taken as one step",
        rows=int(missing.sum()),
        detail=f"{calendar.kind}; most: {missing[place]} after {labels[place]}; "
        "--fill forward repeats the last value",
    )


def time_columns(
    stamps: pd.DatetimeIndex, wanted: tuple[TimeFeature, ...]
) -> list[NDArray[np.float64]]:
    """What is known of each time, ``(rows,)`` each."""
    columns = {
        TimeFeature.HOUR: stamps.hour,
        TimeFeature.WEEKDAY: stamps.day_of_week,
        TimeFeature.MONTHDAY: stamps.day,
        TimeFeature.MONTH: stamps.month,
    }
    return [columns[feature].to_numpy(np.float64) for feature in wanted]
