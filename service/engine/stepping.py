"""The steps and the generations of one session, from when they are asked for until the reply.

What every step goes through is in this one file. Knows nothing of gRPC or protobuf, nor how a model
runs.
"""

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from service.auth.principal import calling, require_model
from service.engine.directory.directory import Directory
from service.engine.directory.session import NO_SESSIONS, Session
from service.engine.log.commit_log import CommitLog
from service.engine.readiness import Readiness
from service.engine.served.inputs import CheckedSteps
from service.engine.work.columns import Answers, Inputs, Outputs
from service.engine.work.flow import Flow, Flows, asked_model
from service.engine.work.memory import Account, BufferMemory, Held
from service.engine.work.replies import Delivery, Receiver, SingleReplies
from service.engine.work.request import UNCHECKED, Request
from service.engine.work.sampling import Draws, Sampling
from service.errors import (
    BadInputError,
    CellarError,
)
from service.settings import EngineSettings


@dataclass(slots=True, kw_only=True)  # not frozen: one is made per unary step
class StepResult:
    """The reply to one session's steps."""

    position: int
    answers: Answers
    replayed: bool


class Breakable(Protocol):
    """A generation, which can be ended from outside."""

    def break_off(self, error: CellarError, *, at_once: bool = False) -> None:
        """End it with what has run, or with ``at_once`` with what its client was told."""


class Stepping(Readiness):
    """What steps sessions.

    Attributes:
        settings: the limits.
        directory: the sessions, by id.
        flows: whose turn is whose, by who calls.
        memory: what callers have the server hold.
        log: what sessions have read; ``None`` where it is not kept.
    """

    settings: EngineSettings
    directory: Directory
    flows: Flows
    memory: BufferMemory
    log: CommitLog | None

    def __init__(self) -> None:
        super().__init__()
        self._generations: dict[Session, list[Breakable]] = {}

    def session(self, session_id: str) -> Session:
        """An open session, for new work.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
            SessionMovingError: it moves to another server.
            PermissionDeniedError: the caller may not use its model any more.
            DrainingError, LoadingError: the server takes no new work.
        """
        if self.draining or self.loading:
            self.check_ready()
        who = calling.get()
        own = self.directory.by_owner.get(who.name, NO_SESSIONS)
        session = own.get(session_id) or self.directory.find(session_id)
        asked_model.set(session.served.label)
        if who.grant.models is not None:  # a call less for all others
            require_model(session.served.name)
        if session.shard.table.moves:
            session.shard.check_stays(session.slot)
        if session.shard.slots.ephemeral.marks.item(session.slot):
            self.directory.touch(session)
        return session

    # -- steps ----------------------------------------------------------------------------

    def step(
        self,
        session: Session | str,
        steps: CheckedSteps,
        *,
        outputs: Outputs,
        sampling: Sampling | None = None,
        position: int | None = None,
        branch: int = 0,
        commit: bool = True,
    ) -> "StepCall":
        """Queue steps of one session, of which all are applied or none; await it for the reply.

        Cancelling that before the device is given the steps leaves the session as it was.

        Args:
            session: a session, or its id.
            steps: what it reads.
            outputs: which predictions come back.
            sampling: how to draw, where samples are wanted.
            position: where the session must stand; ``None`` is not checked.
            branch: the branch that it must be on when they run; 0 is the present one.
            commit: whether the steps are applied; else the reply is as if they were.

        Raises:
            CellarError: nothing was queued, or applied; the class says why.
        """
        if isinstance(session, str):
            session = self.session(session)
        count = len(steps)
        if count > self.settings.max_request_steps:
            raise BadInputError(
                "inputs",
                f"{count} steps exceed the limit of {self.settings.max_request_steps} per "
                "request: send them in several",
            )
        inputs = steps.require()
        if count == 1 and commit:
            step = int(inputs[0]) if session.served.reader.has_tokens else inputs
            return self.step_once(session, step, outputs, sampling, position, branch)
        branch = session.shard.on_branch(session.slot, branch)
        outputs = session.served.check_outputs(outputs, sampling, steps=count)
        flow = self.flows.current
        account = self.memory.account()
        predictions = count if outputs.every_step else 1
        held = session.served.held_bytes(outputs, steps=count, predictions=predictions)
        account.take(Held.REQUEST, held)
        try:
            session.shard.check_room(count, flow)
            flow.charge(count)
            call = _call(session, branch, sampling, flow, count)
        except CellarError:
            account.close()
            raise
        call.account = account
        session.shard.submit(
            Request(
                slots=np.array([session.slot], np.int64),
                steps=np.array([count], np.int64),
                inputs=inputs,
                positions=None if position is None else np.array([position], np.int64),
                branches=np.array([branch], np.uint64),
                outputs=outputs,
                draws=None if sampling is None else Draws.of((sampling,)),
                reply_to=call,
                commit=commit,
                flow=flow,
            )
        )
        return call

    def step_once(
        self,
        session: Session,
        step: int | Inputs,
        outputs: Outputs,
        sampling: Sampling | None,
        position: int | None,
        branch: int = 0,
    ) -> "StepCall":
        """Queue one good step of one session: a token id, or values (1, width).

        Such steps share requests with whatever comes in the same turn; see `step` for the rest.

        Raises:
            CellarError: nothing was queued; the class says why.
        """
        branch = session.shard.on_branch(session.slot, branch)
        kind = None
        if sampling is None:
            kind = session.served.single_kinds.get((outputs, _results))
        if kind is None:
            kind = session.served.single_kind(outputs, sampling, _results)
        flow = self.flows.current
        session.shard.check_room(1, flow)
        if flow.allowance is not None:
            flow.allowance.charge(1)
        call = _call(session, branch, sampling, flow, 1)
        claimed = UNCHECKED if position is None else position
        session.shard.add((kind, session.slot, step, claimed, branch, 0, 0, call))
        return call

    # -- generations ----------------------------------------------------------------------

    @contextmanager
    def generating(self, session: Session, generation: Breakable) -> Iterator[None]:
        """A generation of a session is in progress."""
        own = self._generations.setdefault(session, [])
        own.append(generation)
        try:
            yield
        finally:
            own.remove(generation)
            if not own:
                del self._generations[session]

    def break_off(self, session: Session, error: CellarError) -> bool:
        """End what is generated of a session at once; returns whether there was any.

        The session goes back to where that was written to.
        """
        own = list(self._generations.get(session, ()))
        for generation in own:
            generation.break_off(error, at_once=True)
        return bool(own)

    def end_generations(self, error: CellarError) -> None:
        """End every generation that is in progress."""
        for own in self._generations.values():
            for generation in own:
                generation.break_off(error)

    def durable_position(self, session: Session, *, position: int, branch: int) -> int | None:
        """As far as this a session, that is told to be at a position, is known to be durable.

        ``None`` without a store. A session that has ended since, or was reset, is at 0.
        """
        log = session.shard.log
        if log is None:
            return None
        return log.durable_position(session.slot, position=position, branch=branch)


class StepCall(Receiver):
    """One who waits for one session's steps, single or several.

    Attributes:
        done: what became of them.
        branch: the session's, which they are for.
        account: the memory that they take until the queue has let go of them, if that is much.
    """

    account: Account | None = None

    def __init__(
        self,
        wake: Callable[[], None],
        branch: int,
        sampling: Sampling | None,
        flow: Flow,
        steps: int,
    ) -> None:
        self.wake = wake
        self.branch = branch
        self.sampling = sampling
        self.flow = flow
        self._steps = steps
        flow.take(steps)
        self.done: asyncio.Future[StepResult] = asyncio.get_running_loop().create_future()

    def __await__(self) -> Generator[Any, None, StepResult]:
        """Wait for the reply; whoever is cancelled there waits no more."""
        try:
            return (yield from self.done)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def put(self, reply: StepResult) -> None:
        """See `SingleReceiver.put`."""
        self._count()
        if not self.done.done():
            self.done.set_result(reply)

    def put_other(self, channel: int, number: int, delivery: Delivery) -> None:  # noqa: ARG002
        """See `SingleReceiver.put_other`."""
        self.deliver(delivery)

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`."""
        self._count()
        if self.done.done():
            return
        if delivery.error is not None:
            self.done.set_exception(delivery.error)
            return
        assert delivery.answers is not None, "a delivery has answers or an error"
        self.done.set_result(
            StepResult(
                position=int(delivery.positions[0]),
                answers=delivery.answers,
                replayed=delivery.replayed,
            )
        )

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""
        self.deliver(delivery)

    def _count(self) -> None:
        """Count the steps as answered, once: a fault may be told of more than once."""
        steps, self._steps = self._steps, 0
        if steps:
            self.flow.answered(steps)
            if self.account is not None:
                self.account.close()


def _call(
    session: Session, branch: int, sampling: Sampling | None, flow: Flow, steps: int
) -> StepCall:
    """One who waits for steps of a session, unless its state is lost."""
    table = session.shard.table
    if table.lost[session.slot]:
        raise table.why_lost(session.slot)
    return StepCall(session.shard.wake, branch, sampling, flow, steps)


def _results(rows: SingleReplies) -> Sequence[StepResult]:
    """The replies to single steps of one call each."""
    positions, answers = rows.positions.tolist(), rows.answers
    if len(positions) == 1:
        return [StepResult(position=positions[0], answers=answers, replayed=False)]
    return [
        StepResult(position=position, answers=answers.rows(row, row + 1), replayed=False)
        for row, position in enumerate(positions)
    ]
