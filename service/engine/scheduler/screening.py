"""The last look before a batch goes to the device: takes out the rows that must not run.

A row may have become wrong since it was queued: its caller went away, its session was closed or
lost, or a step before it was refused. Changes nothing itself.
"""

from dataclasses import dataclass

import numpy as np

from service.engine.sessions.table import SessionTable
from service.engine.work.work import Barrier, Batch, Part, joined
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
    refused: tuple[tuple[Part, CellarError], ...] = ()


def screen(batch: Batch, table: SessionTable) -> Screened:
    """Take out the rows that must not run."""
    slots = joined(batch.parts, "slots")
    bad = table.closing[slots]
    if not isinstance(batch.parts[0].work, Barrier):  # a barrier waits for its turn, no more
        expected = joined(batch.parts, "expected")
        bad = bad | (table.position[slots] != expected) | table.lost[slots]
    if not bad.any() and not any(part.is_called_off for part in batch.parts):
        return Screened(batch=batch)
    kept: list[Part] = []
    refused: list[tuple[Part, CellarError]] = []
    start = 0
    for part in batch.parts:
        rows = bad[start : start + len(part.rows)]
        start += len(part.rows)
        if part.is_called_off:
            gone = part.called_off()
            if gone.any():
                error = part.work.failure or CallerGoneError("the caller went away before it ran")
                refused.append((part.only(part.rows[gone]), error))
                part = part.only(part.rows[~gone])
                rows = rows[~gone]
        for index in np.flatnonzero(rows).tolist():
            one = part.only(part.rows[index : index + 1])
            refused.append((one, _why_not(one, table)))
        if not rows.all():
            kept.append(part.only(part.rows[~rows]))
    left = Batch(kind=batch.kind, parts=tuple(kept)) if kept else None
    return Screened(batch=left, refused=tuple(refused))


def lost_error(position: int) -> StateLostError:
    """What a session answers whose state is in doubt."""
    return StateLostError(
        f"a fault at position {position} left the session's state in doubt: reset the session "
        "and send its steps again from position 0"
    )


def _why_not(part: Part, table: SessionTable) -> CellarError:
    slot = int(part.slots[0])
    position = int(table.position[slot])
    if table.closing[slot]:
        return SessionClosedError("the session was closed before the step ran")
    if table.lost[slot]:
        return lost_error(position)
    return PositionMismatchError(int(part.column(part.work.expected)[0]), position)
