"""A frame of a stream: its columns, and what becomes of its rows."""

from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple

import numpy as np

from service.engine.served.inputs import CheckedSteps
from service.engine.work.columns import Answers, Ints
from service.engine.work.replies import UNKNOWN
from service.errors import BadInputError, CellarError
from service.settings import EngineSettings


class Refusal(NamedTuple):
    """One row that was refused, with the session's position where it is known."""

    channel: int
    error: CellarError
    position: int | None = None


@dataclass(slots=True, kw_only=True)  # not frozen: one is made per message on the hot path
class Reply:
    """Rows of one frame that ran together, or were refused."""

    frame: int
    channels: Ints  # (rows,)
    positions: Ints  # (rows,)
    counts: Ints | None = None  # (rows,) predictions per row; None: one each
    answers: Answers | None = None
    replayed: bool = False
    groups: tuple[int, int] = (0, 0)  # see `Delivery`
    refusals: tuple[Refusal, ...] = ()


@dataclass(slots=True, eq=False, kw_only=True)
class Frame:
    """A frame that is not answered in full."""

    number: int
    channels: Ints  # (rows,)
    steps: Ints | None  # (rows,); None: one each
    refusals: list[Refusal] = field(default_factory=list)  # not sent yet
    refused_steps: int = 0  # of those

    def count_steps(self, rows: Ints) -> int:
        """The steps of some rows."""
        return len(rows) if self.steps is None else int(self.steps[rows].sum())

    def row_of_steps(self) -> Ints:
        """The row that each step belongs to, (steps,)."""
        rows = np.arange(len(self.channels))
        return rows if self.steps is None else np.repeat(rows, self.steps)

    def steps_of_rows(self, rows: Ints) -> Ints:
        """The places of some rows' steps among those of the whole frame."""
        if self.steps is None:
            return rows
        counts = self.steps[rows]
        shift = np.cumsum(self.steps)[rows] - np.cumsum(counts)
        return np.arange(counts.sum()) + np.repeat(shift, counts)


def check_columns(
    limits: EngineSettings,
    channels: Ints,
    steps: Ints | None,
    positions: Ints | None,
    inputs: CheckedSteps,
) -> int:
    """Check that a frame's columns fit each other and the limits; returns the most steps of a row.

    Raises:
        BadInputError: they do not.
    """
    rows = len(channels)
    if not rows:
        raise BadInputError("frame.channels", "no channel in it: send at least one")
    total, longest = rows, 1
    if steps is not None:
        longest = _check_steps(limits, rows, steps)
        total = int(steps.sum())
    if positions is not None and len(positions) != rows:
        raise BadInputError("frame.positions", f"{len(positions)} for {rows} channels")
    if total > limits.max_frame_steps:
        raise BadInputError(
            "frame", f"{total} steps exceed the limit of {limits.max_frame_steps} per frame"
        )
    if len(inputs) != total:
        raise BadInputError("frame.inputs", f"{len(inputs)} steps, the channels want {total}")
    return longest


def _check_steps(limits: EngineSettings, rows: int, steps: Ints) -> int:
    if len(steps) != rows:
        raise BadInputError("frame.steps", f"{len(steps)} counts for {rows} channels")
    if (steps < 1).any():
        raise BadInputError(
            "frame.steps", "every channel needs at least one step", row=int(steps.argmin())
        )
    longest = int(steps.max())
    if longest > limits.max_request_steps:
        raise BadInputError(
            "frame.steps",
            f"more than {limits.max_request_steps} steps for one channel",
            row=int(steps.argmax()),
        )
    return longest


def same_refusal(channels: Ints, positions: Ints, error: CellarError) -> list[Refusal]:
    """The same refusal for several rows."""
    known: list[int | None] = positions.tolist()
    if UNKNOWN in known:
        known = [None if position == UNKNOWN else position for position in known]
    columns = zip(channels.tolist(), repeat(error), known, strict=False)
    return list(map(Refusal._make, columns))  # those who are refused for load are many
