"""One series made of rows: in order of time, each time once, dropped or filled where none is."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.data.notes import Note, unheard
from training.data.series.columns import Fill
from training.data.series.dates.calendar import Calendar, Labels, gap_note

_SPIKE = np.log(1.5)
RARE = 0.01

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Numbers of a series, row by row."""

    numbers: Floats
    """(rows, columns), NaN where there is none; the value comes first."""
    lines: NDArray[np.int64]
    """(rows,): where each stands in the file."""
    stamps: pd.DatetimeIndex | None
    """(rows,)"""
    elapsed: bool = False
    steps: NDArray[np.int64] | None = None
    """(rows,): the number of each, where several stand in one line."""

    def chosen(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> "Rows":
        """Some of the rows."""
        stamps = None if self.stamps is None else self.stamps[places]
        return Rows(
            numbers=self.numbers[places],
            lines=self.lines[places],
            stamps=stamps,
            elapsed=self.elapsed,
            steps=None if self.steps is None else self.steps[places],
        )

    @property
    def labels(self) -> Labels:
        """A name for each row."""
        if self.steps is not None:
            return Labels(self.stamps, self.steps, elapsed=self.elapsed, word="step")
        return Labels(self.stamps, self.lines, elapsed=self.elapsed)


def in_order(rows: Rows, notes: list[Note], *, by: str) -> Rows:
    """Rows by time, each time once; a row without a value does not displace one that has it."""
    stamps = rows.stamps
    assert stamps is not None, "rows without times stay as they are"
    twice = np.array(stamps.duplicated(keep=False), np.bool_)
    rows = rows.chosen(~(np.isnan(rows.numbers[:, 0]) & twice))
    stamps = rows.stamps
    assert stamps is not None, "they have been there before"
    if not stamps.is_monotonic_increasing:
        newest_first = bool(stamps.is_monotonic_decreasing)
        detail = "the file was newest first" if newest_first else "the file was in no order"
        notes.append(Note(what=f"sorted by '{by}'", rows=len(stamps), detail=detail))
        rows = rows.chosen(np.argsort(stamps.asi8, kind="stable"))
        stamps = rows.stamps
        assert stamps is not None, "they have been there before"
    repeated = np.array(stamps.duplicated(keep="last"), np.bool_)
    note_lines(
        notes, "dropped: time seen twice, the later row is kept", repeated, rows.lines, rows.labels
    )
    return rows.chosen(~repeated)


def complete(rows: Rows, notes: list[Note], *, fill: Fill, where: str) -> Rows:
    """Rows with a number in each column: the others are dropped, or filled with the last one.

    Raises:
        DataError: filling would make too many rows, or there is no telling which are missing.
    """
    missing = np.array(np.isnan(rows.numbers).any(axis=1), np.bool_)
    if fill is Fill.FORWARD:
        numbers = pd.DataFrame(rows.numbers).ffill().to_numpy(np.float64)
        leading = np.isnan(numbers).any(axis=1)
        note_lines(notes, "filled with the last value: no value", missing & ~leading, rows.lines)
        note_lines(notes, "dropped: no value yet", leading, rows.lines)
        rows = replace(rows, numbers=numbers).chosen(~leading)
    else:
        note_lines(notes, "dropped: no value", missing, rows.lines)
        rows = rows.chosen(~missing)
    calendar = None if rows.stamps is None else Calendar.of(rows.stamps)
    if calendar is None or rows.stamps is None:
        return rows
    if fill is Fill.NONE:
        note = gap_note(calendar, rows.stamps, rows.labels)
        notes += [note] if note is not None else []
        return rows
    every = calendar.filled(rows.stamps, where=where)
    if len(every) == len(rows.stamps):
        return rows
    new = every.difference(rows.stamps)
    first = Labels(new, rows.lines[:0], elapsed=rows.elapsed)[0]
    notes.append(
        Note(what="filled with the last value: no row", rows=len(new), detail=f"first: {first}")
    )
    source = np.searchsorted(rows.stamps.asi8, every.as_unit(rows.stamps.unit).asi8, "right") - 1
    return replace(rows.chosen(source), stamps=every)


def oddities(values: Floats, labels: Labels) -> list[Note]:
    """Changes of half and more that the next row takes back: kept, and pointed out."""
    if len(values) < 3 or (values <= 0).any():
        return []
    changes = np.diff(np.log(values))
    back = (np.abs(changes[:-1]) > _SPIKE) & (np.abs(changes[:-1] + changes[1:]) < _SPIKE / 2)
    rows = np.flatnonzero(back) + 1
    if not 0 < len(rows) <= RARE * len(values):
        return []  # where jumps are common they are the data's nature
    detail = f"first: {labels[int(rows[0])]}, {values[rows[0]]:g} after {values[rows[0] - 1]:g}"
    return [Note(what="kept, but look: a jump taken back at once", rows=len(rows), detail=detail)]


def note_lines(
    notes: list[Note],
    what: str,
    chosen: NDArray[np.bool_],
    lines: NDArray[np.int64],
    texts: "Labels | pd.Series[str] | None" = None,
) -> None:
    """Tell of some rows by the line of the first one, and what stands there."""
    if not chosen.any():
        return
    place = int(chosen.argmax())
    field = ""
    if texts is not None:
        field = f", '{texts[place] if isinstance(texts, Labels) else texts.iloc[place]}'"
    detail = f"first: line {lines[place]}{field}"
    notes.append(Note(what=what, rows=int(chosen.sum()), detail=detail))


def merged(notes: list[Note]) -> tuple[Note, ...]:
    """One note for each thing that was done, whatever the number of series."""
    found: dict[str, Note] = {}
    for note in notes:
        before = found.get(note.what)
        rows = note.rows + (before.rows if before else 0)
        detail = before.detail if before else note.detail
        with unheard():
            found[note.what] = Note(what=note.what, rows=rows, detail=detail)
    return tuple(found.values())
