"""Work that runs together, cut from what is queued."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.engine.work.columns import Ints
from service.engine.work.sampling import Draws
from service.engine.work.work import Kind, Work


@dataclass(slots=True, eq=False, kw_only=True)
class Part:
    """The rows of one piece of work that are in a batch."""

    work: Work
    slots: Ints  # (rows,) of these rows
    places: Ints | None = None  # (rows,) which of the work's rows they are; None: all of them
    start: int = 0  # chunks: first time step of this run
    stop: int = 0  # chunks: one past the last
    is_last: bool = True  # the work of these rows ends with this batch

    def column(self, column: Any) -> Any:
        """These rows of one of the work's columns."""
        return column if self.places is None else column[self.places]

    @property
    def draws(self) -> Draws | None:
        """How these rows draw."""
        draws = self.work.draws
        return draws if draws is None or self.places is None else draws.take(self.places)

    @property
    def all_places(self) -> Ints:
        """Which of the work's rows they are, (rows,)."""
        return np.arange(len(self.slots)) if self.places is None else self.places

    @property
    def rows(self) -> Ints:
        """Which rows of the request they are, (rows,)."""
        return self.work.rows_at(self.all_places)

    def only(self, index: Any) -> "Part":
        """The part with some of its rows."""
        return Part(
            work=self.work,
            slots=self.slots[index],
            places=self.all_places[index],
            start=self.start,
            stop=self.stop,
            is_last=self.is_last,
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Batch:
    """Work that runs together; parts that want equal outputs stand side by side."""

    kind: Kind
    parts: Sequence[Part]
    slots: Ints  # (rows,) of all parts, one after the other
    expected: Ints  # (rows,) see `Work`; nothing for barriers, which wait for their turn, no more
    steps: int  # session steps that it computes
    rows: int  # what it costs, in rows: those computed each time, or those answered if more
    times: int = 1  # how often it goes over its rows: a decode, as often as it has steps

    @classmethod
    def of(cls, kind: Kind, parts: Sequence[Part]) -> "Batch":
        """A batch of some parts."""
        part, work = parts[0], parts[0].work
        if len(parts) == 1 and part.places is None:
            slots, expected = work.slots, work.expected
        else:
            slots = np.concatenate([part.slots for part in parts])
            expected = np.concatenate([part.column(part.work.expected) for part in parts])
        rows = len(slots)
        if kind is Kind.CHUNKS:
            rows = sum(part.stop - part.start for part in parts)
        times = work.weight if kind is Kind.DECODE else 1
        return cls(
            kind=kind,
            parts=parts,
            slots=slots,
            expected=expected,
            steps=rows * times,
            rows=max(rows, *[part.work.effort * len(part.slots) for part in parts]),
            times=times,
        )

    def column(self, name: str) -> Any:
        """A column of the parts' works, the parts' rows one after the other."""
        parts = self.parts
        if len(parts) == 1:
            return parts[0].column(getattr(parts[0].work, name))
        return np.concatenate([part.column(getattr(part.work, name)) for part in parts])
