"""What a stream has asked and not yet been answered: attaches, frames, resets, detaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cellar.errors import BadInputError, CellarError, ProtocolError
from cellar.v1 import session_pb2
from cellar.values import outputs as outputs_
from cellar.values import predictions as predictions_
from cellar.values.inputs import Steps
from cellar.values.predictions import Positions, Predictions
from cellar.values.results import RowFailure, StreamReply

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """How sessions are opened.

    Attributes:
        idle_timeout_s: overrides the server's.
        ephemeral: ends them with their last stream.
    """

    idle_timeout_s: float | None = None
    ephemeral: bool = False


class Attach:
    """Sessions on their way to channels.

    Attributes:
        waiting: session ids by channel, of those not answered yet.
        branches: that they must be on, by channel; of the others it is not checked.
        opening: how the sessions are opened first; None: they are open.
        asked: it was sent, so that the server may have opened them.
        failures: those that could not be attached.
        error: why it was given up, if it was.
    """

    def __init__(
        self,
        sessions: dict[int, str],
        *,
        opening: OpenOptions | None = None,
        branches: Mapping[int, int] | None = None,
    ) -> None:
        """``sessions`` are the ids by channel."""
        self.waiting = dict(sessions)
        self.branches = {} if branches is None else branches
        self.opening = opening
        self.asked = False
        self.failures: list[RowFailure] = []
        self.error: CellarError | None = None

    @property
    def done(self) -> bool:
        """True once every session has its answer."""
        return not self.waiting or self.error is not None

    def request(self) -> session_pb2.StreamRequest:
        """The message that asks for what is still waiting."""
        self.asked = True
        attach = session_pb2.StreamAttach(
            session_ids=self.waiting.values(), channels=self.waiting.keys()
        )
        if self.opening is not None:
            attach.open, attach.ephemeral = True, self.opening.ephemeral
            idle_timeout = outputs_.duration(self.opening.idle_timeout_s)
            if idle_timeout is not None:
                attach.idle_timeout.CopyFrom(idle_timeout)
        if self.branches:
            attach.branches.extend(self.branches.get(channel, 0) for channel in self.waiting)
        return session_pb2.StreamRequest(attach=attach)


class _OfChannels:
    """What is asked for channels that are attached.

    Attributes:
        waiting: those that are not answered yet.
        error: why it was given up, if it was.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        self.waiting = set(channels)
        self.error: CellarError | None = None

    @property
    def done(self) -> bool:
        """True once every channel has its answer."""
        return not self.waiting or self.error is not None


class Reset(_OfChannels):
    """Channels whose sessions are being put back to position 0.

    Attributes:
        failures: those that were not reset.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        """Prepares it."""
        super().__init__(channels)
        self.failures: list[RowFailure] = []

    def request(self) -> session_pb2.StreamRequest:
        """The message that asks for what is still waiting."""
        reset = session_pb2.StreamReset(channels=sorted(self.waiting))
        return session_pb2.StreamRequest(reset=reset)


class Detach(_OfChannels):
    """Channels on their way out."""

    def __init__(self, channels: Sequence[int], *, close: bool) -> None:
        """``close`` closes the sessions too."""
        super().__init__(channels)
        self.close = close

    def request(self) -> session_pb2.StreamRequest:
        """The message that asks for what is still waiting."""
        detach = session_pb2.StreamDetach(channels=sorted(self.waiting), close=self.close)
        return session_pb2.StreamRequest(detach=detach)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """Some rows of a frame, answered together."""

    rows: Rows
    counts: Positions
    predictions: Predictions


class Frame:
    """One frame on its way: which rows are answered, and with what.

    Attributes:
        number: the frame's number on its stream; it stays when the frame is sent once more.
        channels: the channels that step (rows,).
        positions: their positions before their steps (rows,).
        forgotten: True when nobody waits for it any more.
        settled: rows (rows,) whose channels do not go back any more: they were refused, or the step
            that they are built on was, or their channels have gone back already.
        tenancies: of the channels (rows,), see ``Channels``.
        steps: what they read.
        error: why it was given up, if it was.
    """

    def __init__(self, number: int, channels: Rows, steps: Steps, positions: Positions) -> None:
        """Prepares a frame.

        Raises:
            BadInputError: a channel appears twice.
        """
        self.number = number
        self.channels = channels
        self.positions = positions
        self.after = positions + steps.counts  # (rows,) positions after their steps
        self.tenancies: Rows = np.zeros(len(channels), np.int64)
        self.forgotten = False
        self.settled = np.zeros(len(channels), np.bool_)
        self.error: CellarError | None = None
        self.steps = steps
        self._waiting = np.ones(len(channels), np.bool_)
        self._left = len(channels)
        self._order = np.argsort(channels, kind="stable")
        self._sorted = channels[self._order]
        if (self._sorted[1:] == self._sorted[:-1]).any():
            raise BadInputError(
                "channels: one appears twice in the frame", metadata={"field": "channels"}
            )
        self._answered: list[Answered] = []
        self._failures: dict[int, RowFailure] = {}

    @property
    def done(self) -> bool:
        """True once every row is answered or refused."""
        return not self._left or self.error is not None

    @property
    def waiting(self) -> Rows:
        """The rows without an answer."""
        return np.flatnonzero(self._waiting)

    def request(self) -> session_pb2.StreamRequest:
        """The message with all rows that are still waiting, at their first positions."""
        whole = self._left == len(self.channels)
        rows = self.waiting
        steps = self.steps if whole else self.steps.take(rows)
        frame = session_pb2.StreamFrame(
            channels=self.channels[rows].tolist(),
            steps=[] if (steps.counts == 1).all() else steps.counts.tolist(),
            positions=self.positions[rows].tolist(),
            inputs=steps.message(),
            number=self.number,
        )
        return session_pb2.StreamRequest(frame=frame)

    def rows_of(self, channels: Rows) -> tuple[npt.NDArray[np.bool_], Rows]:
        """Which of the channels wait in this frame (channels,), and in which rows (hits,)."""
        places = np.minimum(np.searchsorted(self._sorted, channels), len(self._sorted) - 1)
        rows = self._order[places]
        hits = (self._sorted[places] == channels) & self._waiting[rows]
        return hits, rows[hits]

    def unanswered(self, channels: Rows) -> Rows:
        """The rows of channels that wait in this frame (channels,).

        Raises:
            ProtocolError: one does not.
        """
        hits, rows = self.rows_of(channels)
        if not hits.all():
            channel = channels[~hits][0]
            raise ProtocolError(f"channel {channel} asked for no answer in frame {self.number}")
        return rows

    def answer(self, answered: Answered) -> None:
        """Takes the answer to some rows."""
        self._waiting[answered.rows] = False
        self._left -= len(answered.rows)
        self._answered.append(answered)

    def refuse(self, row: int, failure: RowFailure) -> None:
        """Takes the refusal of one row."""
        self._waiting[row] = False
        self._left -= 1
        self.settled[row] = True
        self._failures[row] = failure

    def reply(self) -> StreamReply:
        """The whole answer, its rows in the order asked; for a frame that is done."""
        failures = tuple(self._failures[row] for row in sorted(self._failures))
        if not self._answered:
            nothing = np.zeros(0, np.int64)
            empty = Predictions(positions=nothing, replayed=np.zeros(0, np.bool_))
            return StreamReply(
                frame=self.number,
                channels=nothing,
                positions=nothing,
                counts=nothing,
                predictions=empty,
                failures=failures,
            )
        rows = np.concatenate([part.rows for part in self._answered])
        counts = np.concatenate([part.counts for part in self._answered])
        predictions = predictions_.concatenate([part.predictions for part in self._answered])
        if (rows[1:] < rows[:-1]).any():  # (rows,) answered in another order than asked
            predictions = predictions.take(np.argsort(np.repeat(rows, counts), kind="stable"))
            order = np.argsort(rows)
            rows, counts = rows[order], counts[order]
        return StreamReply(
            frame=self.number,
            channels=self.channels[rows],
            positions=self.after[rows],
            counts=counts,
            predictions=predictions,
            failures=failures,
        )


Pending = Attach | Detach | Frame | Reset
