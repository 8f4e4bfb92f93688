"""The last look before a batch goes to the device: takes out the rows that must not run.

A row may have become wrong since it was queued: its caller went away, its session was closed or
lost, or a step before it was refused. Changes nothing itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.engine.sessions.table import SessionTable
from service.engine.work.batch import Batch, Part
from service.engine.work.work import Kind
from service.errors import (
    CallerGoneError,
    CellarError,
    PositionMismatchError,
    SessionClosedError,
    StateLostError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """What is left of a batch, and what was taken out, with the reason."""

    batch: Batch | None
    refused: Sequence[tuple[Part, CellarError]] = ()


def screen(batch: Batch, table: SessionTable) -> Screened:
    """Take out the rows that must not run."""
    slots = batch.slots
    bad = table.closing[slots]
    if batch.kind is not Kind.BARRIER:  # which waits for its turn, no more
        bad = bad | (table.position[slots] != batch.expected) | table.lost[slots]
    kept: list[Part] = []
    refused: list[tuple[Part, CellarError]] = []
    start = 0
    for part in batch.parts:
        rows = bad[start : start + len(part.slots)]
        start += len(part.slots)
        work = part.work
        if work.cancelled:
            gone = np.ones(len(rows), np.bool_)
            if work.failure is None:
                gone = work.reply_to.cancelled_rows(part.rows)
            if gone.any():
                error = work.failure or CallerGoneError("the caller went away before it ran")
                refused.append((part.only(gone), error))
                part, rows = part.only(~gone), rows[~gone]
        for index in np.flatnonzero(rows).tolist():
            one = part.only(slice(index, index + 1))
            refused.append((one, _why_not(one, table)))
        if not rows.all():
            kept.append(part.only(~rows) if rows.any() else part)
    left = Batch.of(batch.kind, kept) if kept else None
    return Screened(batch=left, refused=refused)


def _why_not(part: Part, table: SessionTable) -> CellarError:
    slot = int(part.slots[0])
    position = int(table.position[slot])
    if table.closing[slot]:
        return SessionClosedError("the session was closed before the step ran")
    if table.lost[slot]:
        return StateLostError(position)
    return PositionMismatchError(int(part.column(part.work.expected)[0]), position)
