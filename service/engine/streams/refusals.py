"""What becomes of a frame's rows that are refused: why they are, and the reply that says so."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Protocol

import numpy as np

from service.engine.log.commit_log import CommitLog
from service.engine.quotas.allowance import Allowance
from service.engine.served.inputs import CheckedSteps
from service.engine.shard.shard import Shard
from service.engine.streams.attachments import Attachments
from service.engine.streams.frame import Frame, Refusal, Reply
from service.engine.work.columns import Ints, Mask
from service.engine.work.replies import UNKNOWN
from service.errors import BadInputError, CellarError, StaleBranchError

_NONE = np.empty(0, np.int64)


class Answering(Protocol):
    """Whoever answers for rows: a stream."""

    def answered(self, steps: int) -> None:
        """So many steps are about to be answered."""

    def send(self, reply: Reply) -> None:
        """Send a reply."""

    def break_off(self, fault: Exception) -> None:
        """A reply was lost."""


class Refusals:
    """The refusals of one stream: those of a frame that come in one tick are sent together.

    It does not keep the stream, which is named each time, so that neither outlives the other.

    Args:
        log: what is refused may be known outside once this has what came before; ``None``: at once.
    """

    def __init__(self, log: CommitLog | None) -> None:
        self._log = log
        self._frames: dict[Frame, None] = {}  # with refusals to send, in order

    def add(self, stream: Answering, frame: Frame, rows: Ints, refusals: list[Refusal]) -> None:
        """Refuse rows, together with whatever else of the frame is refused in the next tick."""
        frame.refusals += refusals
        frame.refused_steps += frame.count_steps(rows)
        if not self._frames:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._send_all, stream)  # behind the tick
        self._frames[frame] = None

    def add_over_quota(
        self,
        stream: Answering,
        frame: Frame,
        over: Mapping[int, CellarError],
        by_shard: Iterable[tuple[Shard, Ints]],
        slots: Ints,
    ) -> None:
        """Refuse rows that are over a quota.

        Args:
            stream: answers for them.
            frame: whose.
            over: why each row is.
            by_shard: the rows.
            slots: of all the frame's rows, (rows,).
        """
        for shard, own in by_shard:
            if not len(own):
                continue
            now = shard.told(slots[own]).tolist()  # what is queued before this runs
            refusals = [
                Refusal(
                    channel=int(frame.channels[row]),
                    error=over[row],
                    position=None if at == UNKNOWN else at,
                )
                for row, at in zip(own.tolist(), now, strict=True)
            ]
            self.add(stream, frame, own, refusals)

    def _send_all(self, stream: Answering) -> None:
        frames, self._frames = self._frames, {}
        try:
            told = partial(_tell, stream, [_refusal_of(frame) for frame in frames])
            if self._log is not None and self._log.holds_steps:
                self._log.hold(self._log.last_group, told)
            else:
                told()
        except Exception as fault:
            stream.break_off(fault)


def _tell(stream: Answering, refused: Iterable[tuple[int, Reply]]) -> None:
    try:
        for steps, reply in refused:
            stream.answered(steps)
            stream.send(reply)
    except Exception as fault:
        stream.break_off(fault)


def _refusal_of(frame: Frame) -> tuple[int, Reply]:
    """How many steps of a frame were refused since the last time, and the reply that says it.

    It is made when they are refused: what is refused later waits for more than this does.
    """
    refusals, frame.refusals = tuple(frame.refusals), []
    steps, frame.refused_steps = frame.refused_steps, 0
    return steps, Reply(frame=frame.number, channels=_NONE, positions=_NONE, refusals=refusals)


def over_quota(
    allowance: Allowance, frame: Frame, wanted: Mask
) -> tuple[dict[int, CellarError], int]:
    """The rows of a frame that its principal may not take now, and why; it takes the others.

    Args:
        allowance: the principal's.
        frame: whose rows.
        wanted: which of them are good otherwise, (rows,).

    Returns:
        Why, by row, and how many steps those are.
    """
    rows = np.flatnonzero(wanted)
    counts = [1] * len(rows) if frame.steps is None else frame.steps[rows].tolist()
    taken, errors = allowance.take_rows(counts)
    if taken == len(rows):
        return {}, 0
    why = chain.from_iterable(repeat(error, times) for times, error in errors)
    return dict(zip(rows[taken:].tolist(), why, strict=True)), sum(counts[taken:])


def explain(
    shards: Sequence[Shard],
    attachments: Attachments,
    frame: Frame,
    rows: Ints,
    inputs: CheckedSteps,
) -> list[Refusal]:
    """Say of each row that cannot be used why it is.

    Args:
        shards: of the model.
        attachments: of the stream.
        frame: whose rows.
        rows: which.
        inputs: the steps of all its rows.
    """
    channels = frame.channels[rows]
    places, alive = attachments.look_up(channels)
    refusals: list[Refusal] = []
    for index, row in enumerate(rows.tolist()):
        channel = int(channels[index])
        slot = int(places["slot"][index])
        shard = shards[int(places["shard"][index])]
        table = shard.table
        position: int | None = None
        error: CellarError
        if not places["attached"][index]:
            error = BadInputError("frame.channels", f"{channel} is not attached", row=row)
        elif table.closing[slot] or places["tenancy"][index] != shard.slots.tenancy[slot]:
            why = f"the session on channel {channel} was closed or has expired"
            error = table.why_closed(int(places["branch"][index]), why)
        else:
            told = int(shard.told(np.array([slot]))[0])
            position = None if told == UNKNOWN else told
            if table.moving[slot]:
                error = table.moves[slot].error()
            elif not alive[index]:
                at = table.stands_at(slot) if position is None else position
                error = StaleBranchError(branch=int(table.branch[slot]), position=at)
            elif table.lost[slot]:
                position = table.stands_at(slot)
                error = table.why_lost(slot)
            else:
                own = frame.steps_of_rows(rows[index : index + 1])
                error = inputs.explain(int(own[inputs.bad[own].argmax()]))
        refusals.append(Refusal(channel=channel, error=error, position=position))
    return refusals
