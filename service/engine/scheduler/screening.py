"""The last look before a batch goes to the device: takes out the rows that must not run.

A row may have become wrong since it was queued: its caller went away, its session was closed, reset
or lost, or a step before it was refused.
"""

from collections.abc import Callable

import numpy as np

from service.engine.scheduler.scheduler import batch_of
from service.engine.sessions.table import SessionTable
from service.engine.work.batch import Batch, Part
from service.engine.work.work import Barrier, Kind
from service.errors import (
    CallerGoneError,
    CellarError,
    PositionMismatchError,
    SessionClosedError,
    StaleBranchError,
)


def screen(
    batch: Batch, table: SessionTable, refuse: Callable[[Part, CellarError], None]
) -> Batch | None:
    """Take out the rows that must not run, and refuse them; returns what is left."""
    slots = batch.slots
    bad = table.closing[slots]
    match batch.kind:
        case Kind.BARRIER | Kind.LOAD:  # one waits for its turn, one puts them where they stand
            pass
        case Kind.SAVE:
            bad = bad | table.lost[slots]
        case _:
            bad = bad | (table.position[slots] != batch.expected) | table.lost[slots]
    kept: list[Part] = []
    start = 0
    for part in batch.parts:
        rows = bad[start : start + len(part.slots)]
        start += len(part.slots)
        work = part.work
        if work.branches is not None:
            rows = rows | table.strays(part.slots, part.column(work.branches))
        if isinstance(work, Barrier) and work.is_last:
            rows = np.zeros_like(rows)
        if work.cancelled:
            gone = np.ones(len(rows), np.bool_)
            if work.failure is None:
                gone = work.reply_to.cancelled_rows(part.rows)
            if gone.any():
                error = work.failure or CallerGoneError("the caller went away before it ran")
                refuse(part.only(gone), error)
                part, rows = part.only(~gone), rows[~gone]
        for index in np.flatnonzero(rows).tolist():
            one = part.only(slice(index, index + 1))
            refuse(one, _why_not(one, table))
        if not rows.all():
            kept.append(part.only(~rows) if rows.any() else part)
    return batch_of(batch.kind, kept) if kept else None


def _why_not(part: Part, table: SessionTable) -> CellarError:
    slot = int(part.slots[0])
    position = table.stands_at(slot)
    if table.closing[slot]:
        return SessionClosedError("the session was closed before the step ran")
    branches = part.work.branches
    if branches is not None and part.column(branches)[0] != table.branch[slot]:
        return StaleBranchError(branch=int(table.branch[slot]), position=position)
    if table.lost[slot]:
        return table.why_lost(slot)
    return PositionMismatchError(int(part.column(part.work.expected)[0]), position)
