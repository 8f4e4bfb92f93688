"""Many sessions of one model, stepped by frames: the engine's side of a Stream call.

Knows channels and columns; nothing of gRPC or protobuf.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.engine import Engine
from service.engine.served.inputs import CheckedSteps
from service.engine.served.outputs import prediction_bytes
from service.engine.served.registry import ServedModel
from service.engine.shard.shard import Shard
from service.engine.streams.attachments import Attachments
from service.engine.streams.frame import Frame, Refusal, Reply, check_columns, same_refusal
from service.engine.streams.refusals import Refusals, explain, over_quota
from service.engine.work.columns import Inputs, Ints, Outputs
from service.engine.work.memory import STEP_BYTES
from service.engine.work.replies import Delivery, Encode, Receiver, SingleReplies
from service.engine.work.request import UNCHECKED, Request
from service.engine.work.sampling import Draws, Sampling
from service.errors import (
    CallerGoneError,
    CellarError,
    InternalError,
    OverloadedError,
)

_log = structlog.get_logger(__name__)
_EXPLAINED = 10  # steps that are refused for load cost as much as one that is explained
_ROWS_AT_ONCE = 4096  # of a frame, before others on the event loop have a turn


def _ignore(_: CellarError) -> None:
    """Whoever hands over replies sees for himself what was lost."""


def reply_for_each(rows: SingleReplies) -> list[Reply]:
    """The replies to single steps, as they are."""
    return [
        Reply(
            frame=number,
            channels=np.array(rows.channels[row : row + 1]),
            positions=rows.positions[row : row + 1],
            answers=rows.answers.rows(row, row + 1),
            groups=rows.groups,
        )
        for row, number in enumerate(rows.numbers)
    ]


class _FrameRows(Receiver):
    """Rows of a frame that were queued together."""

    def __init__(self, stream: "SessionStream", frame: Frame, rows: int, shard: Shard) -> None:
        self.wake = shard.wake
        self.waiting = rows  # not answered yet
        self._answered: list[Ints] = []
        self._stream = stream
        self._frame = frame

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        try:
            self._answered.append(delivery.rows)
            self.waiting -= len(delivery.rows)
            self._stream.deliver(self, self._frame, delivery)
        except Exception as fault:
            self._stream.break_off(fault)

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""
        delivery = delivery.but(self._answered)
        if len(delivery.rows):
            self.deliver(delivery)


class SessionStream:
    """Sessions of one model, stepped by frames.

    Attributes:
        served: the model.
        attachments: its sessions that are on the stream.
        outputs: what every step returns, those included that stand for nothing chosen.
        sampling: how every step draws, where samples are wanted.
        flow: whose steps they are.
        pending_steps: steps of its frames that are not answered.
        turned_away: steps that were refused, to be reset by who looks at it.
        account: the memory that it takes.
        step_bytes: how much of it a step takes from when it is queued until its reply is written.

    Args:
        outputs: what every step is to return.
        sampling: how it draws.
        send: called with each reply, from the event loop.
        encode: makes what ``send`` is called with for single steps.
        break_off: called with why the stream must end: a reply to it was lost.

    Raises:
        NotStreamableError: the model has no states.
        BadInputError: it cannot give one of the outputs.
    """

    def __init__(
        self,
        engine: Engine,
        served: ServedModel,
        *,
        outputs: Outputs,
        sampling: Sampling | None,
        send: Callable[[Any], None],
        encode: Encode = reply_for_each,
        break_off: Callable[[CellarError], None] = _ignore,
    ) -> None:
        served.require_streamable()
        self.served = served
        self.sampling = sampling
        self.cancelled = False
        self.pending_steps = 0
        self.turned_away = 0
        self.flow = engine.flows.current
        self._why: CellarError | None = None  # it ended before its client did
        self._engine = engine
        self.outputs = served.check_outputs(outputs, sampling, steps=1)
        self._single_kind = served.single_kind(outputs, sampling, encode)
        self._checked_steps = 1  # the most steps of a row whose reply is known to fit
        # Rows whose predictions any client takes in a message, with room for the other columns.
        row_bytes = prediction_bytes(served.manifest, self.outputs) + 32
        predictions = 1 if self.outputs.every_step else 0  # kept until the last is there
        self.step_bytes = (
            STEP_BYTES + served.held_bytes(self.outputs, steps=1, predictions=predictions)
        ) + row_bytes * (1 - predictions)
        self._rows_at_once = max(1, (engine.settings.part_bytes - 1024) // row_bytes)
        self._hand_over = send
        self._break_off = break_off
        self.account = engine.memory.account(break_off)  # last: nobody closes it if this fails
        self.attachments = Attachments(engine, served, self.account)
        self._shown = engine.metrics.streams.labels(served.label)
        self._shown.inc()
        self._queued: set[_FrameRows] = set()  # that are not answered in full
        self._refusals = Refusals(engine.log)

    def submit(
        self,
        channels: Ints,
        steps: Ints | None,
        positions: Ints | None,
        inputs: CheckedSteps,
        *,
        number: int = 0,
    ) -> None:
        """Queue a frame's rows; each is answered once, good or bad, under the frame's number.

        ``channels``, ``steps`` and ``positions`` are columns (rows,); ``inputs`` holds the steps
        of all rows, concatenated.

        Raises:
            BadInputError: the columns do not fit each other; nothing was queued.
        """
        for _ in self._slices(channels, steps, positions, inputs, number):
            pass

    def refuse(
        self,
        channels: Ints,
        steps: Ints | None,
        inputs: CheckedSteps,
        error: CellarError,
        *,
        number: int = 0,
    ) -> None:
        """Refuse all rows of a frame.

        Raises:
            BadInputError: the columns do not fit each other.
        """
        check_columns(self._engine.settings, channels, steps, None, inputs)
        frame = Frame(number=number, channels=channels, steps=steps)
        self.turned_away += len(inputs)
        self._take(len(inputs))
        refusals = [Refusal(channel=channel, error=error) for channel in channels.tolist()]
        self._refusals.add(self, frame, np.arange(len(channels)), refusals)

    async def submit_yielding(
        self,
        channels: Ints,
        steps: Ints | None,
        positions: Ints | None,
        inputs: CheckedSteps,
        *,
        number: int = 0,
    ) -> None:
        """Do what ``submit`` does; between parts of a large frame others have a turn."""
        slices = self._slices(channels, steps, positions, inputs, number)
        try:
            for _ in slices:
                await asyncio.sleep(0)
        finally:  # when cancelled, too, every row gets its answer
            for _ in slices:
                pass

    def submit_one(
        self, channel: int, position: int | None, step: int | Inputs, number: int
    ) -> bool:
        """Queue a frame of one step: a token id, or values (1, width) that are good ones.

        False, and nothing is queued, where `submit` must look at it.
        """
        if self._engine.draining or self.outputs.every_step:
            return False
        if isinstance(step, int) and not 0 <= step < len(self.served.reader.symbols):
            return False
        place = self.attachments.find_one(channel)
        if place is None:
            return False
        shard, slot, branch = place
        claimed = UNCHECKED if position is None else position
        if not shard.has_room(self.flow):
            return False
        allowance = self.flow.allowance
        if allowance is not None and not allowance.take_one():
            return False
        shard.add((self._single_kind, slot, step, claimed, branch, channel, number, self))
        self._take(1)
        return True

    def put(self, reply: Any) -> None:
        """Send the reply to one single step; see `SingleReceiver`."""
        self.answered(1)
        try:
            self._hand_over(reply)
        except Exception as fault:
            self.break_off(fault)

    def put_other(self, channel: int, number: int, delivery: Delivery) -> None:
        """Send what else became of a single step; see `SingleReceiver`."""
        column = np.array([channel])
        if delivery.error is not None:
            frame = Frame(number=number, channels=column, steps=None)
            refusals = same_refusal(column, delivery.positions, self._reason(delivery.error))
            self._refusals.add(self, frame, delivery.rows, refusals)
        else:
            self.put(
                Reply(
                    frame=number,
                    channels=column,
                    positions=delivery.positions,
                    answers=delivery.answers,
                    replayed=delivery.replayed,
                    groups=delivery.groups,
                )
            )

    def _take(self, steps: int) -> None:
        self.pending_steps += steps
        self.flow.take(steps)

    def answered(self, steps: int) -> None:
        """So many steps are about to be answered."""
        self.pending_steps -= steps
        self.flow.answered(steps)

    def break_off(self, fault: Exception) -> None:
        """A row cannot be answered any more, and a client that waits for it would wait for ever."""
        _log.error("a stream lost a reply", exc_info=fault)
        self._break_off(
            InternalError("a reply was lost: attach again, and see where the sessions stand")
        )

    def send(self, reply: Any) -> None:
        """Send a reply; one that is lost ends the stream."""
        try:
            self._hand_over(reply)
        except Exception as fault:
            self.break_off(fault)

    def end(self, why: CellarError | None = None) -> None:
        """Refuse what the device has not been given, and say why if the client is not gone."""
        if not self.cancelled:
            self.cancelled = True
            self._shown.dec()
        self._why = self._why or why
        self.account.close()
        self.attachments.end()
        for rows in list(self._queued):
            rows.cancel()

    def _slices(
        self,
        channels: Ints,
        steps: Ints | None,
        positions: Ints | None,
        inputs: CheckedSteps,
        number: int,
    ) -> Iterator[None]:
        """Check a frame and queue it part by part."""
        limits = self._engine.settings
        longest = check_columns(limits, channels, steps, positions, inputs)
        if longest > self._checked_steps:
            self.served.check_outputs(self.outputs, self.sampling, steps=longest)
            self._checked_steps = longest
        places, alive = self.attachments.find(channels)
        frame = Frame(number=number, channels=channels, steps=steps)
        readable: NDArray[np.bool_] | None = None
        if inputs.bad.any():
            readable = np.ones(len(channels), np.bool_)
            readable[frame.row_of_steps()[inputs.bad]] = False
        refused = self._without_room(places, len(inputs))
        if refused:
            self.turned_away += len(inputs)
        over: dict[int, CellarError] = {}
        if self.flow.allowance is not None:
            good = alive if readable is None else alive & readable
            if refused:
                takes = [shard not in refused for shard in self.served.shards]
                good = good & np.array(takes)[places["shard"]]
            over, turned_away = over_quota(self.flow.allowance, frame, good)
            self.turned_away += turned_away
        self._take(len(inputs))
        for first in range(0, len(channels), _ROWS_AT_ONCE):
            if first:
                yield
                alive = self.attachments.alive(places)
            whole = len(channels) <= _ROWS_AT_ONCE
            rows = np.arange(first, min(first + _ROWS_AT_ONCE, len(channels)))
            bad = ~alive[rows] if readable is None else ~(alive[rows] & readable[rows])
            if bad.any():
                self._refusals.add(
                    self,
                    frame,
                    rows[bad],
                    explain(self.served.shards, self.attachments, frame, rows[bad], inputs),
                )
                self.turned_away += _EXPLAINED * int(bad.sum())
                rows, whole = rows[~bad], False
            if over:
                rows, whole = self._without(over, frame, rows, places), False
            for shard, own in self._by_shard(places, rows):
                if shard in refused:
                    # What is queued before this runs all the same.
                    now, error = shard.told(places["slot"][own]), refused[shard]
                    self._refusals.add(self, frame, own, same_refusal(channels[own], now, error))
                else:
                    self._submit(shard, frame, own, whole, places, positions, inputs)

    def _without_room(self, places: NDArray[np.void], steps: int) -> dict[Shard, OverloadedError]:
        """The shards that take none of so many steps now, and why."""
        refused: dict[Shard, OverloadedError] = {}
        shards = self.served.shards
        if len(shards) > 1:
            shards = tuple(shards[number] for number in set(places["shard"].tolist()))
        for shard in shards:
            try:
                shard.check_room(steps, self.flow)
            except OverloadedError as error:
                refused[shard] = error
        return refused

    def _without(
        self,
        over: Mapping[int, CellarError],
        frame: Frame,
        rows: Ints,
        places: NDArray[np.void],
    ) -> Ints:
        """Refuse those rows that are over a quota; returns the others."""
        is_over = np.array([row in over for row in rows.tolist()], np.bool_)
        own = self._by_shard(places, rows[is_over])
        self._refusals.add_over_quota(self, frame, over, own, places["slot"])
        return rows[~is_over]

    def _by_shard(self, places: NDArray[np.void], rows: Ints) -> Iterator[tuple[Shard, Ints]]:
        shards = self.served.shards
        if len(shards) == 1:
            yield shards[0], rows
            return
        numbers = places["shard"][rows]
        for number, shard in enumerate(shards):
            yield shard, rows[numbers == number]

    def _submit(
        self,
        shard: Shard,
        frame: Frame,
        rows: Ints,
        whole: bool,
        places: NDArray[np.void],
        positions: Ints | None,
        inputs: CheckedSteps,
    ) -> None:
        """Queue rows of a frame on their shard; ``whole`` says that no row was left out before."""
        whole = whole and len(rows) == len(frame.channels)
        slots = places["slot"] if whole else places["slot"][rows]
        blocked = shard.table.blocked(slots)
        if blocked.any():
            self._refusals.add(
                self,
                frame,
                rows[blocked],
                explain(self.served.shards, self.attachments, frame, rows[blocked], inputs),
            )
            rows, slots, whole = rows[~blocked], slots[~blocked], False
        if not len(rows):
            return
        queued = _FrameRows(self, frame, len(rows), shard)
        sampling = self.sampling
        request = Request(
            slots=slots,
            steps=frame.steps if whole or frame.steps is None else frame.steps[rows],
            inputs=inputs.inputs if whole else inputs.inputs[frame.steps_of_rows(rows)],
            positions=positions if whole or positions is None else positions[rows],
            branches=places["branch"] if whole else places["branch"][rows],
            outputs=self.outputs,
            draws=None if sampling is None else Draws.repeated(sampling, len(rows)),
            reply_to=queued,
            rows=None if whole else rows,
            flow=self.flow,
        )
        try:
            if self._engine.draining:
                self._engine.check_ready()
        except CellarError as error:
            now = shard.told(slots)  # what is queued before this runs all the same
            self._refusals.add(self, frame, rows, same_refusal(frame.channels[rows], now, error))
            return
        shard.submit(request)
        self._queued.add(queued)

    def deliver(self, queued: _FrameRows, frame: Frame, delivery: Delivery) -> None:
        """Send what became of some rows of a frame."""
        rows = delivery.rows
        if not queued.waiting:
            self._queued.discard(queued)
        channels = frame.channels if len(rows) == len(frame.channels) else frame.channels[rows]
        if delivery.error is not None:
            error = self._reason(delivery.error)
            self._refusals.add(self, frame, rows, same_refusal(channels, delivery.positions, error))
            return
        self.answered(frame.count_steps(rows))
        counts = None
        if self.outputs.every_step:
            counts = np.ones(len(rows), np.int64) if frame.steps is None else frame.steps[rows]
        answers = delivery.answers
        assert answers is not None, "a delivery has answers or an error"
        # Several rows have one prediction each; those of a single row were checked to fit.
        size = len(rows) if len(rows) == 1 else self._rows_at_once
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            self.send(
                Reply(
                    frame=frame.number,
                    channels=channels[part],
                    positions=delivery.positions[part],
                    counts=None if counts is None else counts[part],
                    answers=answers if size >= len(rows) else answers.rows(start, start + size),
                    replayed=delivery.replayed,
                    groups=delivery.groups,
                )
            )

    def _reason(self, error: CellarError) -> CellarError:
        return self._why if self._why and isinstance(error, CallerGoneError) else error
