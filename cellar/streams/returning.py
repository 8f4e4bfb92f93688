"""How a stream that has lost its connection takes up its sessions where they are.

A server may answer steps before they are on its disk, and lose them in a crash: such a session goes
on on another branch, from where they began. As long as nobody else has gone on there, the stream
takes that branch, and sends the steps once more, each at its old position, before anything else.

Knows nothing of threads or event loops: see ``calls/procedures.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cellar.calls import status
from cellar.calls.procedures import Read, StreamProcedure, Write
from cellar.calls.retry import Attempts
from cellar.errors import (
    BusyError,
    CellarError,
    PositionMismatchError,
    ProtocolError,
    StaleBranchError,
    StepConflictError,
)
from cellar.streams import resumption
from cellar.streams.in_flight import ATTACH_AT_ONCE, InFlight, branches_of
from cellar.streams.pending import Attach
from cellar.streams.tail import Data, between, size_of
from cellar.v1 import session_pb2
from cellar.values.inputs import Steps

_ROWS_AT_ONCE = 256
_NUMBERS_AT_ONCE = 2**15  # of all sessions: fewer than any server takes in a frame


@dataclass(slots=True)
class _Owed:
    """What one session has to read once more, each piece with the position before it."""

    tenancy: int
    pieces: deque[tuple[int, Data]]


@dataclass(slots=True)
class _Found:
    """Where the server has the sessions, by channel."""

    positions: dict[int, int] = field(default_factory=dict)
    branches: dict[int, int] = field(default_factory=dict)
    errors: dict[int, CellarError] = field(default_factory=dict)
    # Those that a reset of ours has put on another branch, with what was said of the former one.
    anew: dict[int, CellarError] = field(default_factory=dict)


class Returning:
    """Attaches the sessions of a stream once more."""

    def __init__(self, in_flight: InFlight) -> None:
        """Of a stream with this in flight."""
        self._in_flight = in_flight
        self._owed: dict[int, _Owed] = {}  # by channel; what another break leaves is still owed

    def attach_again(self, attempts: Attempts) -> StreamProcedure[None]:
        """Attaches all sessions that the stream had, and those it was about to have.

        Raises:
            CellarError: the connection has broken again, or the server cannot take it now.
        """
        channels = self._in_flight.channels
        found = _Found()
        # What was never asked for is not there yet, and is asked for behind this.
        new = self._in_flight.unasked()
        here = [channel for channel in channels.sessions if channel not in new]
        yield from self._attach(here, found, attempts)
        taken = [*self._take_resets(found), *self._take_branches(found)]
        if taken:
            yield from self._attach(taken, found, attempts)
        for channel in [each for each in self._owed if not self._is_owed(each, found)]:
            del self._owed[channel]
        yield from self._play(found, attempts)
        anew = {each: error for each, error in found.anew.items() if each in found.positions}
        resumption.resume(self._in_flight, found.positions, found.branches, found.errors, anew)
        channels.in_doubt.difference_update(
            set(found.positions) - {each for each in channels.in_doubt if self._is_reset_on(each)}
        )

    def _attach(
        self, channels: Iterable[int], found: _Found, attempts: Attempts
    ) -> StreamProcedure[None]:
        known = self._in_flight.channels
        sessions = [(channel, known.sessions[channel]) for channel in channels]
        for start in range(0, len(sessions), ATTACH_AT_ONCE):
            again = Attach(dict(sessions[start : start + ATTACH_AT_ONCE]), branches=known.branches)
            yield Write(again.request())
            left = len(again.waiting)
            while left:  # a long answer comes in several messages
                response = yield Read(attempts.remaining_s())
                attached = response.attached  # empty in any other message
                answered = len(attached.channels) + len(attached.errors)
                if not 0 < answered <= left:
                    raise ProtocolError("a stream did not answer an attach")
                here = zip(
                    attached.channels, attached.positions, branches_of(attached), strict=True
                )
                for channel, position, branch in here:
                    found.positions[channel], found.branches[channel] = position, branch
                for row in attached.errors:
                    found.errors[row.channel] = status.from_row(row)
                left -= answered

    def _is_reset_on(self, channel: int) -> bool:
        """Whether a reset of the channel is sent once more."""
        return self._in_flight.reset_of(channel) is not None

    def _take_resets(self, found: _Found) -> list[int]:
        """Takes over the branches that resets of ours have begun; returns their channels."""
        channels = self._in_flight.channels
        for channel in channels.in_doubt & found.errors.keys():
            error = found.errors[channel]
            if isinstance(error, StaleBranchError) and error.branch and error.position == 0:
                found.anew[channel] = found.errors.pop(channel)
                channels.branches[channel] = error.branch
        return list(found.anew)

    def _take_branches(self, found: _Found) -> list[int]:
        """Takes over the branches on which sessions go on after a crash; returns their channels."""
        channels = self._in_flight.channels
        mendable = {
            channel: error
            for channel, error in found.errors.items()
            if isinstance(error, StaleBranchError) and error.can_be_mended
        }
        if not mendable:
            return []
        numbers = np.array(list(mendable), np.int64)
        tenancies = dict(zip(mendable, channels.tenancies(numbers).tolist(), strict=True))
        stops = self._known_positions(numbers)
        read = self._in_flight.tail.of(tenancies)
        taken: list[int] = []
        for channel, error in mendable.items():
            start, stop = error.kept_position or 0, stops[channel]
            try:  # the tail still has what an earlier crash took, and was not played to its end
                owed = deque(between(read[channel], start, stop) if start < stop else ())
            except LookupError:
                continue
            self._owed[channel] = _Owed(tenancies[channel], owed)
            channels.branches[channel] = error.branch or 0
            del found.errors[channel]
            taken.append(channel)
        return taken

    def _known_positions(
        self, channels: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> dict[int, int]:
        """Where sessions were, as far as that was told: before what is in flight."""
        stops = self._in_flight.channels.positions(channels).copy()
        for frame in self._in_flight.awaited():
            hits, rows = frame.rows_of(channels)
            stops[hits] = np.minimum(stops[hits], frame.positions[rows])
        return dict(zip(channels.tolist(), stops.tolist(), strict=True))

    def _is_owed(self, channel: int, found: _Found) -> bool:
        """Whether what a session has to read once more can be sent now."""
        known = self._in_flight.channels
        owed = self._owed[channel]
        same = known.tenancies(np.array([channel]))[0] == owed.tenancy
        return bool(owed.pieces) and bool(same) and channel in found.positions

    def _play(self, found: _Found, attempts: Attempts) -> StreamProcedure[None]:
        """Sends what is owed, a frame at a time."""
        while self._owed:
            some: list[int] = []
            numbers, kind = 0, self._is_text(next(iter(self._owed)))
            for channel, owed in self._owed.items():
                if self._is_text(channel) is not kind:
                    continue
                size = size_of(owed.pieces[0][1])
                if some and (len(some) == _ROWS_AT_ONCE or numbers + size > _NUMBERS_AT_ONCE):
                    break
                some.append(channel)
                numbers += size
            yield from self._play_some(some, found, attempts)

    def _is_text(self, channel: int) -> bool:
        """A frame holds text, or anything else."""
        return isinstance(self._owed[channel].pieces[0][1], str)

    def _play_some(
        self, rows: Sequence[int], found: _Found, attempts: Attempts
    ) -> StreamProcedure[None]:
        """Sends the next piece of some sessions, and waits until all are answered."""
        number = self._in_flight.new_number()
        pieces = {channel: self._owed[channel].pieces[0] for channel in rows}
        parts = [data for _, data in pieces.values()]
        counts = np.array([len(data) for data in parts])
        texts = [part for part in parts if isinstance(part, str)]
        arrays = [part for part in parts if not isinstance(part, str)]
        steps = Steps("".join(texts) if texts else np.concatenate(arrays), counts)
        frame = session_pb2.StreamFrame(
            channels=rows,
            steps=counts.tolist(),
            positions=[position for position, _ in pieces.values()],
            inputs=steps.message(),
            number=number,
        )
        yield Write(session_pb2.StreamRequest(frame=frame))
        left = set(rows)
        while left:
            response = yield Read(attempts.remaining_s())
            if response.WhichOneof("message") == "durable":
                continue
            reply = response.reply
            own = {*reply.channels, *[row.channel for row in reply.errors]}
            if reply.frame != number or not own or not own <= left:
                raise ProtocolError("a stream did not answer a frame")
            left -= own
            self._played(reply, pieces)
            yield from self._refused(reply.errors, found, attempts)
            for channel, position in zip(reply.channels, reply.positions, strict=True):
                found.positions[channel] = max(found.positions[channel], position)

    def _played(self, reply: session_pb2.StreamReply, pieces: dict[int, tuple[int, Data]]) -> None:
        """Some sessions have read their piece; it may be lost once more."""
        tail = self._in_flight.tail
        for channel, position in zip(reply.channels, reply.positions, strict=True):
            before, data = pieces[channel]
            if position != before + len(data):
                raise ProtocolError(f"a reply to frame {reply.frame} has other positions")
            owed = self._owed[channel]
            if reply.group > reply.durable_group:
                tail.add(
                    reply.group,
                    channels=np.array([channel]),
                    tenancies=np.array([owed.tenancy]),
                    positions=np.array([before]),
                    steps=Steps(data, np.array([len(data)])),
                )
            owed.pieces.popleft()
            if not owed.pieces:
                del self._owed[channel]

    def _refused(
        self, errors: Sequence[session_pb2.RowError], found: _Found, attempts: Attempts
    ) -> StreamProcedure[None]:
        """Gives up sessions that somebody else has gone on with."""
        gone: list[int] = []
        for row in errors:
            error = status.from_row(row)
            if isinstance(error, BusyError):
                raise error  # it is owed as before
            if isinstance(error, PositionMismatchError | StepConflictError):
                error = StaleBranchError(
                    "a crash took the session's last steps, and somebody else has gone on with it: "
                    f"it is at {error.position}",
                    reason="STALE_BRANCH",
                    code=error.code,
                    position=error.position,
                    metadata={"branch": str(found.branches[row.channel])},
                )
            found.errors[row.channel] = error
            del self._owed[row.channel], found.positions[row.channel]
            gone.append(row.channel)
        if gone:
            detach = session_pb2.StreamDetach(channels=gone)
            yield Write(session_pb2.StreamRequest(detach=detach))
            response = yield Read(attempts.remaining_s())
            if sorted(response.detached.channels) != sorted(gone):
                raise ProtocolError("a stream did not answer a detach")
