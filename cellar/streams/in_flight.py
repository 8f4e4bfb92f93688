"""What is in flight on one stream: what was asked, and where each answer belongs.

Knows the stream's messages, and nothing of connections or of resuming.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cellar.calls import status
from cellar.connection.connection import check_session_id
from cellar.errors import BadInputError, CellarError, ProtocolError
from cellar.streams.channels import Channels
from cellar.streams.pending import (
    Answered,
    Attach,
    Detach,
    Frame,
    OpenOptions,
    Pending,
    Reset,
    Rows,
)
from cellar.streams.tail import StreamTail
from cellar.v1 import session_pb2
from cellar.values import arguments
from cellar.values import inputs as inputs_
from cellar.values import predictions as predictions_
from cellar.values.inputs import FrameInputs
from cellar.values.model_info import ModelInfo
from cellar.values.results import RowFailure

ATTACH_AT_ONCE = 4096
"""Sessions per message that attaches or resets them."""


class InFlight:
    """The channels of a stream, and all that is asked and not yet answered.

    Attributes:
        channels: the stream's channels, and the positions that the next frame will carry.
        pending: what is not answered yet, in the order asked.
        levels: those of the quantiles that come back.
        tail: what was answered, and may be lost in a crash of the server.
    """

    def __init__(self, model: ModelInfo, levels: tuple[float, ...]) -> None:
        """Nothing asked yet; ``levels`` are those that are wanted."""
        self.channels = Channels()
        self.pending: list[Pending] = []
        self.tail = StreamTail()
        self._model = model
        self.levels = levels
        self._frames = 0

    def unasked(self) -> set[int]:
        """The channels whose attach was not sent yet."""
        attaches = (each for each in self.pending if isinstance(each, Attach) and not each.asked)
        return {channel for each in attaches for channel in each.waiting}

    def attach(self, session_ids: Sequence[str], opening: OpenOptions | None) -> list[Attach]:
        """Attaches sessions on free channels, a bounded number per message.

        Raises:
            BadInputError: an id cannot be sent, or there are too many.
        """
        for session_id in session_ids:
            check_session_id(session_id)
        reserved = list(self.channels.reserve(session_ids).items())
        attaches = [
            Attach(dict(reserved[start : start + ATTACH_AT_ONCE]), opening=opening)
            for start in range(0, len(reserved), ATTACH_AT_ONCE)
        ]
        self.pending += attaches
        return attaches

    def frame(self, channels: npt.ArrayLike, inputs: FrameInputs) -> Frame:
        """Prepares a frame, and moves its channels' positions past it.

        Raises:
            BadInputError: a channel is not attached or appears twice, or the inputs' form or
                shape is wrong.
        """
        rows = arguments.channels(channels)
        if not rows.size:
            raise BadInputError("channels: at least one", metadata={"field": "channels"})
        self.channels.check(rows)
        steps = inputs_.encode_frame(inputs, len(rows), self._model)
        frame = Frame(self.new_number(), rows, steps, self.channels.positions(rows))
        frame.tenancies = self.channels.tenancies(rows)
        self.channels.move(rows, frame.after)
        self.pending.append(frame)
        return frame

    def reset(self, channels: Rows) -> list[Reset]:
        """Puts channels back to position 0, a bounded number per message; none is ready until then.

        Raises:
            BadInputError: a channel is not attached.
        """
        self.channels.check(channels)
        numbers = sorted(set(channels.tolist()))
        starts = range(0, len(numbers), ATTACH_AT_ONCE)
        resets = [Reset(numbers[start : start + ATTACH_AT_ONCE]) for start in starts]
        self.channels.begin_resets(numbers)
        self.pending += resets
        return resets

    def new_number(self) -> int:
        """The number of a frame."""
        self._frames += 1
        return self._frames - 1

    def detach(self, channels: Sequence[int], *, close: bool) -> Detach:
        """Lets go of channels, and closes their sessions if wanted."""
        detach = Detach([each for each in channels if each in self.channels.sessions], close=close)
        self.channels.release(set(channels) - detach.waiting)
        if not detach.done:
            self.pending.append(detach)
        return detach

    def forget(self, frame: Frame) -> None:
        """Nobody waits for a frame any more.

        Its channels go back to where they were before it, unless a later frame builds on it. So do
        those of the rows that were answered: nobody has been told. Sending the same steps again is
        then safe, and other steps are refused.
        """
        if frame in self.pending:
            frame.forgotten = True
            rows = np.flatnonzero(~frame.settled)
            last = self.channels.positions(frame.channels[rows]) == frame.after[rows]
            self._take_back(frame, rows[last])

    def give_up(self, error: CellarError) -> list[Pending]:
        """All that is pending has failed, and is returned.

        Positions go back to those before the frames that failed, whether a row was answered or not.
        """
        failed, self.pending = self.pending, []
        for pending in reversed(failed):
            pending.error = error
            if isinstance(pending, Frame):
                self._take_back(pending, np.flatnonzero(~pending.settled))
            elif isinstance(pending, Attach):
                self.channels.release(pending.waiting)
            elif isinstance(pending, Reset):
                self.channels.leave_resets(pending.waiting)
        return failed

    def awaited(self) -> list[Frame]:
        """Frames that someone waits for, in the order asked."""
        return [each for each in self.frames() if not each.forgotten]

    def session_id(self, channel: int) -> str:
        """The session on a channel.

        Raises:
            BadInputError: there is none.
        """
        channel = arguments.whole("channel", channel)
        self.channels.check(np.array([channel]))
        return self.channels.sessions[channel]

    def positions(self, channels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The positions of channels once all frames in flight are applied (rows,).

        Raises:
            BadInputError: one is not attached.
        """
        self.channels.check(channels)
        return self.channels.positions(channels)

    def receive(self, response: session_pb2.StreamResponse) -> None:
        """Takes in one message.

        Raises:
            ProtocolError: it answers nothing that was asked.
        """
        kind = response.WhichOneof("message")
        if kind == "reply":
            self._replied(response.reply)
        elif kind == "attached":
            self._attached(response.attached)
        elif kind == "detached":
            self._detached(response.detached)
        elif kind == "reset":
            self._were_reset(response.reset)
        elif kind == "durable":
            self.tail.trim(response.durable.group)
        else:
            raise ProtocolError(f"a stream answered {kind} to nothing that was asked")

    def take_done(self) -> list[Pending]:
        """Removes and returns what is done."""
        done = [each for each in self.pending if each.done]
        if done:
            self.pending = [each for each in self.pending if not each.done]
        return done

    def refuse_attach(self, channel: int, error: CellarError) -> None:
        """One session is not attached."""
        for attach in self.pending:
            if isinstance(attach, Attach) and attach.waiting.pop(channel, None) is not None:
                attach.failures.append(self.failure(channel, error))
                self.channels.release([channel])

    def refuse_reset(self, channel: int, error: CellarError) -> None:
        """One channel was not reset."""
        reset = self.reset_of(channel)
        if reset is not None:
            reset.waiting.discard(channel)
            reset.failures.append(self.failure(channel, error))

    def reset_of(self, channel: int) -> Reset | None:
        """The reset that a channel waits for, if there is one."""
        for each in self.pending:
            if isinstance(each, Reset) and channel in each.waiting:
                return each
        return None

    def frames(self) -> list[Frame]:
        """The frames that are not answered yet, in the order asked."""
        return [each for each in self.pending if isinstance(each, Frame)]

    def failure(self, channel: int, error: CellarError) -> RowFailure:
        """Why a row of a channel failed."""
        session_id = self.channels.sessions.get(channel, "")
        return RowFailure(channel=channel, session_id=session_id, error=error)

    def _replied(self, reply: session_pb2.StreamReply) -> None:
        for frame in self.frames():
            if frame.number == reply.frame:
                if reply.channels:
                    self._answered(frame, reply)
                if reply.errors:
                    self._refused(frame, reply.errors)
                return
        raise ProtocolError(f"a reply to frame {reply.frame}, which is not in flight")

    def _answered(self, frame: Frame, reply: session_pb2.StreamReply) -> None:
        channels = np.array(reply.channels, np.int64)  # (rows,)
        after = np.array(reply.positions, np.int64)  # (rows,)
        counts = np.array(reply.counts, np.int64) if reply.counts else np.ones_like(channels)
        if not len(channels) == len(after) == len(counts):
            raise ProtocolError("the columns of a reply differ in length")
        rows = frame.unanswered(channels)
        if (frame.after[rows] != after).any():
            raise ProtocolError(f"a reply to frame {frame.number} has other positions")
        ends = np.cumsum(counts)
        replayed = np.isin(channels, np.array(reply.replayed, np.int64))
        within = np.arange(ends[-1]) - np.repeat(ends - counts, counts)  # (n,) 0, 1, … per row
        predictions = predictions_.decode(
            reply.predictions,
            positions=np.repeat(after - counts + 1, counts) + within,
            replayed=np.repeat(replayed, counts),
            vocabulary=self._model.names,
            levels=self.levels,
        )
        frame.answer(Answered(rows=rows, counts=counts, predictions=predictions))
        self.tail.trim(reply.durable_group)
        if reply.group > reply.durable_group:
            whole = len(rows) == len(frame.channels) and (rows[1:] > rows[:-1]).all()
            self.tail.add(
                reply.group,
                channels=channels,
                tenancies=frame.tenancies[rows],
                positions=frame.positions[rows],
                steps=frame.steps if whole else frame.steps.take(rows),
            )

    def _refused(self, frame: Frame, errors: Sequence[session_pb2.RowError]) -> None:
        channels = np.array([error.channel for error in errors], np.int64)  # (rows,)
        rows = frame.unanswered(channels)
        self._take_back(frame, rows[~frame.settled[rows]])
        for row, error in zip(rows.tolist(), errors, strict=True):
            frame.refuse(row, self.failure(error.channel, status.from_row(error)))
        for later in self.frames():
            if later.number > frame.number:
                hits, later_rows = later.rows_of(channels)
                same = later.tenancies[later_rows] == frame.tenancies[rows[hits]]
                # A frame that repeats this one is not built on it.
                built_on = same & (later.positions[later_rows] >= frame.after[rows[hits]])
                later.settled[later_rows[built_on]] = True

    def _attached(self, answer: session_pb2.StreamAttached) -> None:
        attaches = {
            channel: each
            for each in self.pending
            if isinstance(each, Attach)
            for channel in each.waiting
        }
        for channel, position, branch in zip(
            answer.channels, answer.positions, branches_of(answer), strict=True
        ):
            if channel not in attaches:
                raise ProtocolError(f"channel {channel} was attached, but nobody asked")
            del attaches[channel].waiting[channel]
            self.channels.attached(channel, position, branch)
        for row in answer.errors:
            self.refuse_attach(row.channel, status.from_row(row))

    def _were_reset(self, answer: session_pb2.StreamResetReply) -> None:
        for channel, branch in zip(answer.channels, answer.branches, strict=True):
            reset = self.reset_of(channel)
            if reset is None:
                raise ProtocolError(f"channel {channel} was reset, but nobody asked")
            reset.waiting.discard(channel)
            self.channels.begin_anew(channel, branch)
        for row in answer.errors:
            self.refuse_reset(row.channel, status.from_row(row))
            self.channels.stay(row.channel)

    def _detached(self, answer: session_pb2.StreamDetached) -> None:
        for detach in self.pending:
            if isinstance(detach, Detach):
                gone = detach.waiting.intersection(answer.channels)
                detach.waiting -= gone
                self.channels.release(gone)

    def _take_back(self, frame: Frame, rows: Rows) -> None:
        """Channels go back to where they were before a frame, if their session is the same."""
        frame.settled[rows] = True
        channels = frame.channels[rows]
        same = self.channels.tenancies(channels) == frame.tenancies[rows]
        self.channels.move(channels[same], frame.positions[rows[same]])


def branches_of(answer: session_pb2.StreamAttached) -> Sequence[int]:
    """The branch of each channel that was attached; 0 from a server that knows none."""
    return answer.branches or [0] * len(answer.channels)
