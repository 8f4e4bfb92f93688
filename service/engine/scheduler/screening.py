"""The last look before a batch goes to the device: takes out the rows that must not run.

A row may have become wrong since it was queued: its caller went away, its session was closed, reset
or lost, or a step before it was refused.
"""

from collections.abc import Callable

import numpy as np

from service.engine.scheduler.scheduler import batch_of
from service.engine.sessions.table.table import SessionTable
from service.engine.work.batch import Batch, Part
from service.engine.work.columns import Mask
from service.engine.work.work import Barrier, Kind, Load, Save, Work
from service.errors import (
    CallerGoneError,
    CellarError,
    PositionMismatchError,
    StaleBranchError,
    unpredicted,
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
        case Kind.RECALL | Kind.FORK:
            bad = bad | (table.position[slots] != batch.expected) | table.lost[slots]
            bad = bad | table.unpredicted(slots)
        case _:
            bad = bad | (table.position[slots] != batch.expected) | table.lost[slots]
    kept: list[Part] = []
    start = 0
    for part in batch.parts:
        rows = bad[start : start + len(part.slots)]
        start += len(part.slots)
        work = part.work
        if table.moves and _steps_on(work):
            rows = rows | table.moving[part.slots]
        if work.branches is not None:
            rows = rows | table.strays(part.slots, part.column(work.branches))
        if table.cold_count or table.refused:  # its state could not be brought here
            rows = rows | _is_out(part, table)
        if isinstance(work, Load) and work.unread is not None:
            rows = rows | part.column(work.unread)
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


def _is_out(part: Part, table: SessionTable) -> Mask:
    """Rows whose sessions' states had to come first, and could not."""
    work, slots = part.work, part.slots
    out: Mask = table.cold[slots]
    if table.refused and len(work.tickets):
        out = out | table.are_refused(slots, part.column(work.tickets))
    match work:
        case Barrier() if not work.reset and work.acts is None:
            return np.zeros_like(out)
        case Save():  # where they are
            return out & (table.host_row[slots] < 0)
        case _:
            return out


def _steps_on(work: Work) -> bool:
    """Whether work is not for a session that is frozen, as it moves to another server."""
    match work:
        case Barrier():
            return (work.reset or work.acts is not None) and not work.freezes
        case Save() | Load():
            return False
        case _:  # what is read again leads where it stands
            return not work.is_fold


def _why_not(part: Part, table: SessionTable) -> CellarError:
    slot = int(part.slots[0])
    position = table.stands_at(slot)
    if table.closing[slot]:
        return table.why_closed(
            int(table.branch[slot]), "the session was closed before the step ran"
        )
    if table.moving[slot]:
        return table.moves[slot].error()
    branches = part.work.branches
    if branches is not None and part.column(branches)[0] != table.branch[slot]:
        return StaleBranchError(branch=int(table.branch[slot]), position=position)
    if table.lost[slot] or isinstance(part.work, Load) or _is_out(part, table)[0]:
        return table.why_lost(slot)
    if part.work.kind in (Kind.RECALL, Kind.FORK) and table.unpredicted(part.slots)[0]:
        return unpredicted("session_id")
    return PositionMismatchError(int(part.column(part.work.expected)[0]), position)
