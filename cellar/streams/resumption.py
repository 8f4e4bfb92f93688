"""What a broken connection did to what is in flight on a stream.

Knows where the server has the sessions now, and nothing of how that was found out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cellar.errors import CellarError, ReplyLostError, SessionNotFoundError
from cellar.streams.in_flight import InFlight
from cellar.streams.pending import Attach, Detach, Frame


def resume(
    in_flight: InFlight,
    positions: Mapping[int, int],
    branches: Mapping[int, int],
    errors: Mapping[int, CellarError],
    anew: Mapping[int, CellarError],
) -> None:
    """Takes in where the server has the sessions; all mappings are by channel.

    ``anew`` are those that a reset of ours has put on another branch, with what the server said of
    the former one.

    What nobody waits for is dropped; rows whose reply is gone are refused; the rest is as before
    and is to be sent once more, under its old numbers: replies to the first sending ended with
    their connection.
    """
    in_flight.pending = [
        each for each in in_flight.pending if not (isinstance(each, Frame) and each.forgotten)
    ]
    for each in in_flight.pending:
        if isinstance(each, Attach):
            for channel in [channel for channel in each.waiting if channel in positions]:
                del each.waiting[channel]
                in_flight.channels.attached(channel, positions[channel], branches[channel])
    for channel, error in errors.items():
        _not_reattached(in_flight, channel, error)
    for channel, error in anew.items():
        _was_reset(in_flight, channel, error)
        in_flight.channels.begin_anew(channel, branches[channel], positions[channel])
    _refuse_lost_replies(in_flight, positions)


def _not_reattached(in_flight: InFlight, channel: int, error: CellarError) -> None:
    gone = isinstance(error, SessionNotFoundError)
    for each in in_flight.pending:
        if isinstance(each, Attach) and channel in each.waiting:
            if not (gone and each.opening is not None):
                in_flight.refuse_attach(channel, error)
            return
        if isinstance(each, Detach) and channel in each.waiting:
            each.waiting.discard(channel)
            in_flight.channels.release([channel])
            return
    in_flight.refuse_reset(channel, error)
    _refuse_rows(in_flight, channel, error)
    in_flight.channels.lose(channel, error)


def _was_reset(in_flight: InFlight, channel: int, error: CellarError) -> None:
    """Answers what was in flight for a channel when its reset was done."""
    reset = in_flight.reset_of(channel)
    if reset is not None:  # else it was given up, and these came behind it
        reset.waiting.discard(channel)
        error = ReplyLostError(
            "the session was reset behind the step, whose reply was lost with the connection",
            position=error.position,
        )
    _refuse_rows(in_flight, channel, error)


def _refuse_rows(in_flight: InFlight, channel: int, error: CellarError) -> None:
    for frame in in_flight.frames():
        _, rows = frame.rows_of(np.array([channel]))
        for row in rows.tolist():
            frame.refuse(row, in_flight.failure(channel, error))


def _refuse_lost_replies(in_flight: InFlight, positions: Mapping[int, int]) -> None:
    """Refuses the rows whose reply is gone: applied, and not the last that was."""
    for frame in in_flight.frames():
        for row in frame.waiting.tolist():
            channel = int(frame.channels[row])
            position = positions.get(channel, 0)
            if position > frame.after[row]:
                error = ReplyLostError(
                    "the step was applied, but its reply was lost with the connection",
                    position=position,
                )
                frame.refuse(row, in_flight.failure(channel, error))
