"""One client's stream: the sessions attached to it, and frames of their steps as columns.

Each session has a channel, a small number of the client's choosing. Knows nothing of gRPC.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.engine.batch import Delivery, Ints, Outputs, Sampling
from service.engine.catalog import ServedModel
from service.engine.channels import Channels
from service.engine.engine import Engine
from service.engine.frame import Frame, Refusal, Reply, check_columns, same_refusal
from service.engine.inputs import CheckedSteps
from service.engine.outputs import check_outputs, check_reply, prediction_bytes
from service.engine.request import Request
from service.engine.screening import lost_error
from service.engine.session import Session
from service.errors import BadInputError, CellarError, SessionClosedError

__all__ = ["Attached", "Refusal", "Reply", "SessionStream"]

_NONE = np.empty(0, np.int64)
# What is done before others on the event loop have a turn.
_SESSIONS_AT_ONCE = 1000  # attached or closed
_ROWS_AT_ONCE = 4096  # of a frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """The channels of an attach that now stand for sessions, and those that do not."""

    channels: Ints
    positions: Ints
    refusals: tuple[Refusal, ...]


class SessionStream:
    """Sessions of one model, stepped by frames.

    Attributes:
        served: the model.
        pending_steps: steps of its frames that are not answered.

    Args:
        engine: where the sessions live.
        served: their model.
        outputs: what every step returns.
        sampling: how it draws.
        send: called with each reply, from the event loop.
    """

    def __init__(
        self,
        engine: Engine,
        served: ServedModel,
        *,
        outputs: Outputs,
        sampling: Sampling | None,
        send: Callable[[Reply], None],
    ) -> None:
        self.served = served
        self._engine = engine
        self._outputs = check_outputs(
            served.manifest, outputs, sampling, max_levels=engine.settings.max_levels
        )
        self._sampling = sampling
        check_reply(served.manifest, self._outputs, 1, at_most=engine.settings.max_message_bytes)
        # Rows whose predictions fit into a message, with room for the other columns.
        row_bytes = prediction_bytes(served.manifest, self._outputs) + 32
        self._rows_at_once = max(1, (engine.settings.max_message_bytes - 1024) // row_bytes)
        self._send = send
        self._channels = Channels(engine.settings.max_channels)
        self._frames: set[Frame] = set()
        self._refused: dict[Frame, None] = {}  # frames with refusals to send, in order
        self.pending_steps = 0

    async def attach(
        self, session_ids: Sequence[str], channels: Ints, *, open_sessions: bool
    ) -> Attached:
        """Give sessions their channels; each that cannot be attached is refused alone.

        Raises:
            BadInputError: the columns do not fit, or a channel number cannot be used.
        """
        self._check_new(session_ids, channels)
        accepted: list[int] = []
        positions: list[int] = []
        refusals: list[Refusal] = []
        for row, (session_id, channel) in enumerate(
            zip(session_ids, channels.tolist(), strict=True), start=1
        ):
            try:
                position = await self._attach(session_id, channel, open_sessions)
            except CellarError as error:
                refusals.append(Refusal(channel=channel, error=error))
            else:
                accepted.append(channel)
                positions.append(position)
            if row % _SESSIONS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return Attached(
            channels=np.array(accepted, np.int64),
            positions=np.array(positions, np.int64),
            refusals=tuple(refusals),
        )

    async def detach(self, channels: Ints, *, close: bool) -> Ints:
        """Let go of channels; returns those that were attached.

        Steps sent before are still applied and answered; but with ``close``, what has not run by
        then is refused.
        """
        known = self._channels.detach(channels)
        if close:
            _, slots, generations = self._channels.look_up(known)
            for row, (slot, generation) in enumerate(
                zip(slots.tolist(), generations.tolist(), strict=True), start=1
            ):
                self._engine.close_slot(self.served, slot, generation)
                if row % _SESSIONS_AT_ONCE == 0:
                    await asyncio.sleep(0)
        return known

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

    async def submit_in_turns(
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

    def end(self) -> None:
        """The client is gone: drop what has not begun to run."""
        for frame in list(self._frames):
            for submission in frame.submissions:
                submission.cancel()

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
        steps = check_columns(limits, channels, steps, positions, inputs)
        check_reply(
            self.served.manifest,
            self._outputs,
            int(steps.max()),
            at_most=limits.max_message_bytes,
        )
        slots, alive = self._alive(channels)
        # Of sessions that are gone, the slot may be another's by now: it says nothing.
        if len(np.unique(slots[alive])) != int(alive.sum()):
            raise BadInputError(
                "frame.channels", "a session appears twice: give it several steps instead"
            )
        readable = np.ones(len(channels), np.bool_)
        if inputs.bad.any():
            readable[np.repeat(np.arange(len(channels)), steps)[inputs.bad]] = False
        starts = np.cumsum(steps) - steps
        frame = Frame(number=number, channels=channels, steps=steps, unanswered=len(channels))
        self._frames.add(frame)
        self.pending_steps += len(inputs)
        for first in range(0, len(channels), _ROWS_AT_ONCE):
            if first:
                yield
            part = slice(first, min(first + _ROWS_AT_ONCE, len(channels)))
            self._submit(frame, part, starts, readable, positions, inputs)

    def _submit(
        self,
        frame: Frame,
        part: slice,
        starts: Ints,
        readable: NDArray[np.bool_],
        positions: Ints | None,
        inputs: CheckedSteps,
    ) -> None:
        shard = self.served.shard
        slots, alive = self._alive(frame.channels[part])
        steps = frame.steps[part]
        usable = alive & ~shard.table.lost[slots] & ~shard.table.closing[slots] & readable[part]
        rows = np.arange(part.start, part.stop)
        data = inputs.inputs[starts[rows[0]] : starts[rows[-1]] + steps[-1]]
        positions = None if positions is None else positions[part]
        if not usable.all():
            bad = rows[~usable]
            self._refuse(frame, bad, self._explain(frame, bad, starts, inputs))
            rows = rows[usable]
            if not len(rows):
                return
            data = data[np.repeat(usable, steps)]
            slots, steps = slots[usable], steps[usable]
            positions = None if positions is None else positions[usable]
        request = Request(
            slots=slots,
            steps=steps,
            inputs=data,
            positions=positions,
            outputs=self._outputs,
            sampling=self._sampling,
            deliver=partial(self._deliver, frame),
            origin=rows,
        )
        try:
            self._engine.check_ready()
            frame.submissions.append(shard.submit(request))
        except CellarError as error:
            now = shard.table.position[slots]
            self._refuse(frame, rows, same_refusal(frame.channels[rows], now, error))

    def _alive(self, channels: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """The slot of each channel, and whether its session lives there still."""
        good, slots, generations = self._channels.look_up(channels)
        return slots, good & (generations == self.served.shard.slots.generation[slots])

    async def _attach(self, session_id: str, channel: int, open_session: bool) -> int:
        if not session_id:
            raise BadInputError("attach.session_ids", "an id is empty: name the session")
        shard = self.served.shard
        if open_session:
            session = self._engine.open(self.served, session_id)
        else:
            session = await self._settled(session_id)
        generation = int(shard.slots.generation[session.slot])
        self._channels.attach(channel, session.slot, generation)
        return int(shard.table.position[session.slot])

    async def _settled(self, session_id: str) -> Session:
        """An open session of this model, at the end of what is queued for it now.

        Steps of a broken stream may still be running: who attaches learns where they end.
        """
        while True:
            session, served = self._engine.find(session_id)
            if served is not self.served:
                raise BadInputError(
                    "attach.session_ids",
                    f"'{session_id}' is a session of {served.name}/{served.version}; this stream "
                    f"carries {self.served.name}/{self.served.version}",
                )
            if served.shard.scheduler.is_idle(session.slot):
                return session
            await self._engine.barrier(session_id)
            # Found anew: while we waited, the id may have gone to another session.
            if self._engine.find(session_id)[0] is session:
                return session

    def _check_new(self, session_ids: Sequence[str], channels: Ints) -> None:
        if len(session_ids) != len(channels):
            raise BadInputError(
                "attach.channels",
                f"{len(channels)} channels for {len(session_ids)} sessions: send one for each",
            )
        if not len(channels):
            raise BadInputError("attach.session_ids", "no session in it: send at least one")
        limit = self._engine.settings.max_attach_sessions
        if len(channels) > limit:
            raise BadInputError(
                "attach.session_ids",
                f"{len(channels)} sessions exceed the limit of {limit} at once",
            )
        self._channels.check_new(channels)

    def _explain(
        self, frame: Frame, rows: Ints, starts: Ints, inputs: CheckedSteps
    ) -> list[Refusal]:
        """Say of each row that cannot be used why it is."""
        table = self.served.shard.table
        channels = frame.channels[rows]
        attached, slots, _ = self._channels.look_up(channels)
        _, alive = self._alive(channels)
        refusals: list[Refusal] = []
        for index, row in enumerate(rows.tolist()):
            channel = int(channels[index])
            slot = int(slots[index])
            position: int | None = None
            error: CellarError
            if not attached[index]:
                error = BadInputError("frame.channels", f"{channel} is not attached", row=row)
            elif not alive[index] or table.closing[slot]:
                error = SessionClosedError(
                    f"the session on channel {channel} was closed or has expired"
                )
            else:
                position = int(table.position[slot])
                if table.lost[slot]:
                    error = lost_error(position)
                else:
                    start = int(starts[row])
                    own = inputs.bad[start : start + int(frame.steps[row])]
                    error = inputs.explain(start + int(own.argmax()))
            refusals.append(Refusal(channel=channel, error=error, position=position))
        return refusals

    def _deliver(self, frame: Frame, delivery: Delivery) -> None:
        rows = delivery.rows
        channels = frame.channels[rows]
        if delivery.error is not None:
            self._refuse(frame, rows, same_refusal(channels, delivery.positions, delivery.error))
            return
        self._answered(frame, len(rows), int(frame.steps[rows].sum()))
        counts = frame.steps[rows] if self._outputs.every_step else None
        answers = delivery.answers
        assert answers is not None, "a delivery has answers or an error"
        # Several rows have one prediction each; those of a single row were checked to fit.
        size = len(rows) if len(rows) == 1 else self._rows_at_once
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            self._send(
                Reply(
                    frame=frame.number,
                    channels=channels[part],
                    positions=delivery.positions[part],
                    counts=None if counts is None else counts[part],
                    answers=answers if size >= len(rows) else answers.rows(start, start + size),
                    replayed=delivery.replayed,
                )
            )

    def _refuse(self, frame: Frame, rows: Ints, refusals: list[Refusal]) -> None:
        """Refuse rows, together with whatever else is refused in this turn of the event loop."""
        frame.refusals += refusals
        frame.refused_steps += int(frame.steps[rows].sum())
        if not self._refused:
            asyncio.get_running_loop().call_soon(self._send_refusals)
        self._refused[frame] = None

    def _send_refusals(self) -> None:
        refused, self._refused = self._refused, {}
        for frame in refused:
            refusals, frame.refusals = tuple(frame.refusals), []
            steps, frame.refused_steps = frame.refused_steps, 0
            self._answered(frame, len(refusals), steps)
            self._send(
                Reply(
                    frame=frame.number,
                    channels=_NONE,
                    positions=_NONE,
                    counts=None,
                    answers=None,
                    replayed=False,
                    refusals=refusals,
                )
            )

    def _answered(self, frame: Frame, rows: int, steps: int) -> None:
        self.pending_steps -= steps
        frame.unanswered -= rows
        if not frame.unanswered:
            self._frames.discard(frame)
