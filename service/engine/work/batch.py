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
    indices: Ints | None = None  # (rows,) which of the work's rows they are; None: all of them
    start: int = 0  # chunks: first time step of this run
    stop: int = 0  # chunks: one past the last
    is_last: bool = True  # the work of these rows ends with this batch
    bucket: int = 0  # what the run is padded to; 0: any
    run_steps: int = 0  # chunks: what time steps the run is padded to; 0: any

    def column(self, column: Any) -> Any:
        """These rows of one of the work's columns."""
        return column if self.indices is None else column[self.indices]

    @property
    def draws(self) -> Draws | None:
        """How these rows draw."""
        draws = self.work.draws
        return draws if draws is None or self.indices is None else draws.take(self.indices)

    @property
    def all_indices(self) -> Ints:
        """Which of the work's rows they are, (rows,)."""
        return np.arange(len(self.slots)) if self.indices is None else self.indices

    @property
    def rows(self) -> Ints:
        """Which rows of the request they are, (rows,)."""
        return self.work.rows_at(self.all_indices)

    def only(self, index: Any) -> "Part":
        """The part with some of its rows."""
        return Part(
            work=self.work,
            slots=self.slots[index],
            indices=self.all_indices[index],
            start=self.start,
            stop=self.stop,
            is_last=self.is_last,
            bucket=self.bucket,
            run_steps=self.run_steps,
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Batch:
    """Work that runs together; parts that want equal outputs stand side by side.

    All of them want the same bucket and the same time steps.
    """

    kind: Kind
    parts: Sequence[Part]
    slots: Ints  # (rows,) of all parts, one after the other
    expected: Ints  # (rows,) see `Work`; nothing where any position will do
    steps: int  # session steps that it computes
    cost_rows: int  # what it costs, in rows: those computed each time, or those answered if more
    times: int = 1  # how often it goes over its rows: a decode, as often as it has steps

    @property
    def bucket(self) -> int:
        """What its run is padded to; 0: any."""
        return self.parts[0].bucket

    def column(self, name: str) -> Any:
        """A column of the parts' works, the parts' rows one after the other."""
        parts = self.parts
        if len(parts) == 1:
            return parts[0].column(getattr(parts[0].work, name))
        return np.concatenate([part.column(getattr(part.work, name)) for part in parts])
