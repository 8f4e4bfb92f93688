"""One client's stream: the sessions attached to it, and frames of their steps as columns.

Each session has a channel, a small number of the client's choosing. Knows nothing of gRPC.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.batch import Answers, Delivery, Ints, Outputs, Sampling
from service.engine.catalog import ServedModel
from service.engine.channels import Channels
from service.engine.engine import Engine
from service.engine.inputs import Steps
from service.engine.outputs import check_outputs
from service.engine.request import Request, Submission
from service.engine.shard import lost_error
from service.errors import (
    BadInputError,
    CellarError,
    SessionClosedError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One row that was refused, with the session's position where it is known."""

    channel: int
    error: CellarError
    position: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """The channels of an attach that now stand for sessions, and those that do not."""

    channels: Ints
    positions: Ints
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Rows of one frame that ran together, or were refused."""

    frame: int
    channels: Ints  # (rows,)
    positions: Ints  # (rows,)
    counts: Ints | None  # (rows,) predictions per row; None: one each
    answers: Answers | None
    replayed: bool
    refusals: tuple[Refusal, ...] = ()


class SessionStream:
    """Sessions of one model, stepped by frames.

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
        self._outputs = check_outputs(served.manifest, outputs, sampling)
        self._sampling = sampling
        self._send = send
        self._channels = Channels()
        self._running: set[Submission] = set()
        self.pending_rows = 0

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
        for session_id, channel in zip(session_ids, channels.tolist(), strict=True):
            try:
                position = await self._attach(session_id, channel, open_sessions)
            except CellarError as error:
                refusals.append(Refusal(channel=channel, error=error))
                continue
            accepted.append(channel)
            positions.append(position)
        return Attached(
            channels=np.array(accepted, np.int64),
            positions=np.array(positions, np.int64),
            refusals=tuple(refusals),
        )

    def detach(self, channels: Ints, *, close: bool) -> Ints:
        """Let go of channels; returns those that were attached."""
        known = self._channels.detach(channels)
        if close:
            _, slots, generations = self._channels.look_up(known)
            for slot, generation in zip(slots.tolist(), generations.tolist(), strict=True):
                self._engine.close_slot(self.served, slot, generation)
        return known

    def submit(
        self,
        channels: Ints,
        steps: Ints | None,
        positions: Ints | None,
        inputs: Steps,
        *,
        frame: int = 0,
    ) -> None:
        """Queue a frame's rows; each is answered once, good or bad, under the frame's number.

        ``channels``, ``steps`` and ``positions`` are columns (rows,); ``inputs`` holds the steps
        of all rows, concatenated.

        Raises:
            BadInputError: the columns do not fit each other; nothing was queued.
        """
        steps = self._check_frame(channels, steps, positions, inputs)
        good, slots, generations = self._channels.look_up(channels)
        shard = self.served.shard
        alive = generations == shard.slots.generation[slots]
        if len(np.unique(slots[good])) != int(good.sum()):
            raise BadInputError(
                "frame.channels", "a session appears twice: give it several steps instead"
            )
        usable = good & alive & ~shard.table.lost[slots] & ~shard.table.closing[slots]
        bad_steps = inputs.bad
        if bad_steps.any():
            owners = np.repeat(np.arange(len(channels)), steps)
            usable[owners[bad_steps]] = False
        self.pending_rows += len(channels)
        if not usable.all():
            refusals = self._refusals(channels, slots, good, alive, usable, steps, inputs)
            self._reply_refused(frame, refusals)
            if not usable.any():
                return
            keep = np.repeat(usable, steps)
            data = inputs.inputs[keep]
            channels, slots, steps = channels[usable], slots[usable], steps[usable]
            positions = None if positions is None else positions[usable]
        else:
            data = inputs.inputs
        missing = len(channels)
        submission: Submission | None = None

        def deliver(delivery: Delivery) -> None:
            nonlocal missing
            missing -= len(delivery.rows)
            if not missing and submission is not None:
                self._running.discard(submission)
            self._deliver(frame, channels, steps, delivery)

        request = Request(
            slots=slots,
            steps=steps,
            inputs=data,
            positions=positions,
            outputs=self._outputs,
            sampling=self._sampling,
            deliver=deliver,
        )
        try:
            self._engine.check_ready()
            submission = shard.submit(request)
            if missing:
                self._running.add(submission)
        except CellarError as error:
            self._reply_refused(
                frame,
                [
                    Refusal(channel=channel, error=error, position=position)
                    for channel, position in zip(
                        channels.tolist(), shard.table.position[slots].tolist(), strict=True
                    )
                ],
            )

    def end(self) -> None:
        """The client is gone: drop what has not begun to run."""
        for submission in self._running:
            submission.cancel()

    async def _attach(self, session_id: str, channel: int, open_session: bool) -> int:
        shard = self.served.shard
        if open_session:
            session = self._engine.open(self.served, session_id)
        else:
            # Steps of a broken stream may still be running: attach to where they end.
            session, served = await self._engine.settled(session_id)
            if served is not self.served:
                raise BadInputError(
                    "session_ids",
                    f"'{session_id}' is a session of {served.name}/{served.version}; this stream "
                    f"carries {self.served.name}/{self.served.version}",
                )
        generation = int(shard.slots.generation[session.slot])
        self._channels.attach(channel, session.slot, generation)
        return int(shard.table.position[session.slot])

    def _check_new(self, session_ids: Sequence[str], channels: Ints) -> None:
        if len(session_ids) != len(channels):
            raise BadInputError(
                "attach.channels",
                f"{len(channels)} channels for {len(session_ids)} sessions: send one for each",
            )
        if not len(channels):
            raise BadInputError("attach.session_ids", "no session in it: send at least one")
        self._channels.check_new(channels)

    def _check_frame(
        self, channels: Ints, steps: Ints | None, positions: Ints | None, inputs: Steps
    ) -> Ints:
        rows = len(channels)
        if not rows:
            raise BadInputError("frame.channels", "no channel in it: send at least one")
        if steps is None:
            steps = np.ones(rows, np.int64)
        limits = self._engine.settings
        if len(steps) != rows:
            raise BadInputError("frame.steps", f"{len(steps)} counts for {rows} channels")
        if positions is not None and len(positions) != rows:
            raise BadInputError("frame.positions", f"{len(positions)} for {rows} channels")
        if (steps < 1).any():
            raise BadInputError(
                "frame.steps", "every channel needs at least one step", row=int(steps.argmin())
            )
        if (steps > limits.max_request_steps).any():
            raise BadInputError(
                "frame.steps",
                f"more than {limits.max_request_steps} steps for one channel",
                row=int(steps.argmax()),
            )
        total = int(steps.sum())
        if total > limits.max_frame_steps:
            raise BadInputError(
                "frame", f"{total} steps exceed the limit of {limits.max_frame_steps} per frame"
            )
        if len(inputs) != total:
            raise BadInputError("frame.inputs", f"{len(inputs)} steps, the channels want {total}")
        return steps

    def _refusals(
        self,
        channels: Ints,
        slots: Ints,
        good: NDArray[np.bool_],
        alive: NDArray[np.bool_],
        usable: NDArray[np.bool_],
        steps: Ints,
        inputs: Steps,
    ) -> list[Refusal]:
        """Say of each unusable row why it is."""
        table = self.served.shard.table
        starts = np.cumsum(steps) - steps
        refusals: list[Refusal] = []
        for row in np.flatnonzero(~usable).tolist():
            channel = int(channels[row])
            position = int(table.position[slots[row]])
            if not good[row]:
                error: CellarError = BadInputError(
                    "frame.channels", f"{channel} is not attached", row=row
                )
                refusals.append(Refusal(channel=channel, error=error))
                continue
            if not alive[row] or table.closing[slots[row]]:
                error = SessionClosedError(
                    f"the session on channel {channel} was closed or has expired"
                )
                refusals.append(Refusal(channel=channel, error=error))
                continue
            if table.lost[slots[row]]:
                error = lost_error(position)
            else:
                stop = starts[row] + steps[row]
                error = inputs.explain(int(starts[row] + inputs.bad[starts[row] : stop].argmax()))
            refusals.append(Refusal(channel=channel, error=error, position=position))
        return refusals

    def _deliver(self, frame: int, channels: Ints, steps: Ints, delivery: Delivery) -> None:
        rows = delivery.rows
        self.pending_rows -= len(rows)
        if delivery.error is not None:
            refusals = tuple(
                Refusal(channel=channel, error=delivery.error, position=position)
                for channel, position in zip(
                    channels[rows].tolist(), delivery.positions.tolist(), strict=True
                )
            )
            self._send(_refused(frame, refusals))
            return
        self._send(
            Reply(
                frame=frame,
                channels=channels[rows],
                positions=delivery.positions,
                counts=steps[rows] if self._outputs.every_step else None,
                answers=delivery.answers,
                replayed=delivery.replayed,
            )
        )

    def _reply_refused(self, frame: int, refusals: list[Refusal]) -> None:
        self.pending_rows -= len(refusals)
        self._send(_refused(frame, tuple(refusals)))


def _refused(frame: int, refusals: tuple[Refusal, ...]) -> Reply:
    none = np.empty(0, np.int64)
    return Reply(
        frame=frame,
        channels=none,
        positions=none,
        counts=None,
        answers=None,
        replayed=False,
        refusals=refusals,
    )
