"""Runs single steps, and shares out what is found among the parts of a batch.

Where the runner can, a run is begun here and ended later, so that the next one can be begun in
between. Of any other runner a run is over when it has begun. Knows nothing of queues or clocks.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeAlias

import numpy as np
import structlog

from service.engine.execution.ahead.runner import AheadRunner, Ask, Begun, Found
from service.engine.execution.runner import Runner
from service.engine.sessions.table.table import SessionTable
from service.engine.work.batch import Batch, Part
from service.engine.work.columns import NOTHING, Answers, Inputs, Ints, Mask
from service.engine.work.request import Request
from service.engine.work.sampling import Draws
from service.errors import CellarError, InternalError

Answered: TypeAlias = Answers | CellarError
"""The answers to a part's rows, or why they could not be computed; its state is sound then."""

WithStates: TypeAlias = Callable[[Sequence[Part], list[Answered]], list[Answered]]
"""Adds to answers of parts what is resident of their sessions, where that is asked for."""

_NO_ANSWERS = Answers({})
_log = structlog.get_logger(__name__)


class BegunSteps:
    """A batch of single steps that has begun."""

    def __init__(self, run: Begun, share: Callable[[list[Found]], list[Answered]]) -> None:
        self._run = run
        self._share = share

    def is_over(self) -> bool:
        """Whether `finish` would not wait."""
        return self._run.is_over()

    def finish(self) -> list[Answered]:
        """Wait for the end of it; returns the answers of each part.

        Raises:
            Exception: as `Executor.run`.
        """
        return self._share(self._run.finish())


class SingleSteps:
    """Runs single steps on one runner.

    Args:
        table: says which sessions begin with the model's initial state, and of every slot its row
            of the arena.
        scratch: the arena's row that takes what must not be kept.
    """

    def __init__(self, runner: Runner, table: SessionTable, *, scratch: int) -> None:
        self._runner = runner
        self._ahead = runner if isinstance(runner, AheadRunner) else None
        self._table = table
        self._scratch = scratch

    @property
    def can_begin(self) -> bool:
        """Whether a run may be begun before the one before it has ended."""
        return self._ahead is not None and self._ahead.can_begin

    def begin(self, batch: Batch, with_states: WithStates) -> BegunSteps:
        """Begin a batch; parts that want equal outputs share their heads' run.

        Raises:
            Exception: as `Executor.run`.
        """
        parts, slots, expected = batch.parts, batch.slots, batch.expected
        read = write = self._table.rows(slots)
        if not all(part.work.commit for part in parts):
            commits = np.repeat([part.work.commit for part in parts], [len(p.slots) for p in parts])
            write = np.where(commits, read, self._scratch)
        groups: list[list[Part]] = []
        asks: list[Ask] = []
        start = 0
        for outputs, group in groupby(parts, key=lambda part: part.work.outputs):
            members = list(group)
            stop = start + sum([len(part.slots) for part in members])
            rows, start = slice(start, stop), stop
            draws = None
            if outputs.sample:
                draws = Draws.joined([d for part in members if (d := part.draws) is not None])
            groups.append(members)
            positions = expected[rows] + 1
            asks.append(Ask(rows=rows, outputs=outputs, draws=draws, positions=positions))

        def share(found: list[Found]) -> list[Answered]:
            answers: list[Answered] = []
            for members, own in zip(groups, found, strict=True):
                answers += with_states(members, _shared(members, own))
            return answers

        run = self._begin(
            read=read,
            write=write,
            fresh=self._table.fresh(slots, expected),
            inputs=batch.column("inputs")[:, None],  # (rows, 1) or (rows, 1, width)
            asks=asks,
            bucket=batch.bucket,
        )
        return BegunSteps(run, share)

    def begin_whole(self, request: Request) -> BegunSteps:
        """The same for a batch that is one request, applies its steps and wants no states.

        Raises:
            Exception: as `Executor.run`.
        """
        rows = self._table.rows(request.slots)
        ask = Ask(
            rows=slice(0, len(rows)),
            outputs=request.outputs,
            draws=request.draws,
            positions=request.expected + 1,
        )
        run = self._begin(
            read=rows,
            write=rows,
            fresh=self._table.fresh(request.slots, request.expected),
            inputs=request.inputs[:, None],
            asks=[ask],
            bucket=request.bucket,
        )
        return BegunSteps(run, _answered)

    def _begin(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: Mask,
        inputs: Inputs,
        asks: Sequence[Ask],
        bucket: int,
    ) -> Begun:
        if self._ahead is not None:
            return self._ahead.begin(
                read=read, write=write, fresh=fresh, inputs=inputs, asks=asks, bucket=bucket
            )
        predictions = self._runner.step(
            read=read,
            write=write,
            fresh=fresh,
            inputs=inputs,
            lengths=np.ones(len(read), np.int64),
            every_step=False,
            bucket=bucket,
        )
        found: list[Found] = []
        for ask in asks:
            if ask.outputs == NOTHING:
                found.append(_NO_ANSWERS)
                continue
            try:
                own = predictions[ask.rows]
                answers = self._runner.answer(own, ask.outputs, ask.draws, ask.positions)
                found.append(answers)
            except Exception as fault:  # the heads': the step was applied
                found.append(fault)
        return Over(found)


class Over:
    """A run that was over when it had begun, see ``Begun``."""

    def __init__(self, found: list[Found]) -> None:
        self._found = found

    def is_over(self) -> bool:
        """See ``Begun``."""
        return True

    def finish(self) -> list[Found]:
        """See ``Begun``."""
        return self._found


def answer_failed(fault: Exception) -> InternalError:
    """What a caller is told whose step was applied, and whose answer could not be computed."""
    _log.error("answer failed", exc_info=fault)
    return InternalError(
        "the step was applied, but its answer could not be computed; the server's log tells why"
    )


def _answered(found: list[Found]) -> list[Answered]:
    return [own if isinstance(own, Answers) else answer_failed(own) for own in found]


def _shared(parts: Sequence[Part], own: Found) -> list[Answered]:
    """What was found for parts that want the same, in one piece, as each part's answers."""
    (found,) = _answered([own])
    if len(parts) == 1 or not isinstance(found, Answers) or not found.columns:
        return [found for _ in parts]
    stops = np.cumsum([len(part.slots) for part in parts]).tolist()
    return [
        found.rows(stop - len(part.slots), stop).copied()
        for part, stop in zip(parts, stops, strict=True)
    ]
