"""What callers may ask, in one place: it joins the models, their shards, and the sessions on them.

Everything here runs on one event loop. Knows nothing of gRPC or protobuf, nor how a model runs.
"""

import asyncio
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import structlog

from service.auth.principal import calling, require_model
from service.engine.directory import NO_SESSIONS, Directory, Session
from service.engine.listing import Listing
from service.engine.log.commit_log import CommitLog
from service.engine.log.recovery import doubt
from service.engine.log.recovery.reading import read_store
from service.engine.log.recovery.stored import Stored
from service.engine.quotas.allowance import Allowances
from service.engine.served.inputs import CheckedSteps
from service.engine.served.registry import Registry, ServedModel
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.initials import Initial
from service.engine.upkeep import Upkeep
from service.engine.work.columns import Answers, Floats, Inputs, Outputs
from service.engine.work.flow import Flow, Flows, asked_model
from service.engine.work.memory import Account, BufferMemory, Held
from service.engine.work.replies import Delivery, Receiver, SingleReplies
from service.engine.work.request import UNCHECKED, Request
from service.engine.work.sampling import Draws, Sampling
from service.engine.work.work import Barrier
from service.errors import (
    BadInputError,
    CallerGoneError,
    CellarError,
    DrainingError,
    LoadingError,
)
from service.metrics import Metrics
from service.settings import EngineSettings
from service.store.store import Store

_log = structlog.get_logger(__name__)


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


class Engine:
    """Steps sessions, and knows whether the server takes new work.

    Attributes:
        directory: the sessions, by id.
        listing: the same, page by page.
        allowances: what each principal has under way.
        flows: whose turn is whose, by who calls.
        memory: what callers have the server hold.
        snapshot_key: what snapshots are signed with now, and have to be; ``None``: nothing.

    Args:
        clock: seconds, never going back: for idleness.
        wall_clock: seconds since the epoch: for people.
        store: where what sessions read is kept, so that they outlive the process; ``None`` where it
            is not.
        snapshot_key: see above.

    Raises:
        StoreError: the store cannot be read.
    """

    def __init__(
        self,
        settings: EngineSettings,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        store: Store | None = None,
        snapshot_key: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        self.snapshot_key = snapshot_key
        self.settings = settings
        self.metrics = metrics
        self.loading = True
        self.draining = False
        self.allowances = Allowances()
        metrics.principal_steps.read = self.allowances.steps
        self.flows = Flows(self.allowances)
        self.failed = asyncio.Event()
        """Set when a device, or the store's disk, has failed for good: whoever runs the server has
        to end it."""
        self.failure = ""
        stored = None
        if store is not None:
            stored = read_store(store)
            doubt.resolve(store, stored)
        self.log = None if store is None or stored is None else self._open_log(store, stored)
        self.memory = BufferMemory(settings.buffer_memory, self.allowances)
        limits = ["buffer_memory", "history_memory"]
        limits += ["max_undurable_bytes", "journal_bytes"] * (store is not None)
        for limit in limits:
            metrics.limit_bytes.labels(limit).set(getattr(settings, limit))
        for kind in Held:
            size = partial(self.memory.by_kind.__getitem__, kind)
            metrics.buffered_bytes.labels(kind.value).set_function(size)
        self.registry = Registry(
            settings, metrics, self.flows, self.memory, clock, self.lose_device, self.log
        )
        self.directory = Directory(
            settings, metrics, self.registry, clock=clock, wall_clock=wall_clock
        )
        metrics.history_bytes.set_function(lambda: self.registry.history.used)
        metrics.principal_sessions.read = self.directory.open_by_owner
        self.listing = Listing(
            self.registry,
            self.directory,
            self.log,
            page_bytes=settings.part_bytes,
            clock=clock,
            wall_clock=wall_clock,
        )
        self._generations: dict[Session, list[Breakable]] = {}
        self._upkeep: Upkeep | None = None
        self._stored = stored

    def _open_log(self, store: Store, stored: Stored) -> CommitLog | None:
        settings = self.settings
        return CommitLog(
            store,
            group=stored.last_group + 1,
            next_number=stored.next_number,
            durability=settings.durability,
            most_bytes=settings.max_undurable_bytes,
            timeout_s=settings.store_timeout_s,
            failed=self._lose_store,
            took=self.metrics.journal_seconds.noted.append,
        )

    def restore_sessions(self) -> None:
        """Let the sessions of the store be open again; call it when the models are loaded.

        Raises:
            StoreError: they have no place.
        """
        if self.log is None or self._stored is None:
            return
        self._upkeep = Upkeep(
            self.log,
            self._stored,
            registry=self.registry,
            directory=self.directory,
            settings=self.settings,
            metrics=self.metrics,
        )
        self._upkeep.place(self._stored)
        self._stored = None
        doubt.mark(self.log.store, self.settings.durability)
        self._upkeep.start()

    # -- sessions -------------------------------------------------------------------------

    def open(
        self,
        served: ServedModel,
        session_id: str = "",
        *,
        idle_timeout_s: float | None = None,
        ephemeral: bool = False,
        initial: Sequence[Floats] | None = None,
        history_steps: int | None = None,
        arrived: str = "",
    ) -> Session:
        """Open a session of the caller at position 0; see `Directory.open`.

        Args:
            served: the model.
            session_id: empty lets the server choose.
            idle_timeout_s: ``None`` is the server's.
            ephemeral: see `EphemeralSessions`.
            history_steps: see `Directory.open`.
            arrived: the same.
            initial: what it starts from, and is reset to: a row of each tensor of the arena, as
                `arena_rows` makes them. ``None`` is the model's own.

        Raises:
            DrainingError, LoadingError: the server takes no new work.
        """
        self.check_ready()
        kept = None if initial is None else Initial.of(initial, self.memory)
        try:
            return self.directory.open(
                served,
                session_id,
                idle_timeout_s=idle_timeout_s,
                ephemeral=ephemeral,
                initial=kept,
                history_steps=history_steps,
                arrived=arrived,
            )
        except BaseException:
            if kept is not None:
                kept.account.close()
            raise

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

    async def describe(
        self,
        session_id: str,
        *,
        settle: bool = False,
        branch: int = 0,
        owner: str | None = None,
    ) -> SessionInfo:
        """Where a session stands, once what was taken for it before has run.

        Args:
            session_id: which.
            settle: ends its generations first, so that nothing taken before moves it any more. It
                stands where they were written to, which may be on a new branch.
            branch: the branch that it must be on, before and then; 0 is unchecked. With ``settle``
                it may be the one that the session has just gone back from.
            owner: whose, see `Directory.wanted_owner`.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
            StaleBranchError: it is on another branch.
        """
        session = self.directory.find(session_id, owner)
        shard, slot = session.shard, session.slot
        shard.on_branch(slot, branch, or_left=settle)
        if settle:
            self.break_off(
                session,
                CallerGoneError("the client has left the generation, and goes on without it"),
            )
            branch = shard.on_branch(slot) if branch else 0
        if not shard.is_idle(slot):
            await self.barrier(session_id, owner)
            session = self.directory.find(session_id, owner)
            session.shard.on_branch(session.slot, branch)
            shard, slot = session.shard, session.slot
        info = self.directory.info(session)
        await shard.settled(np.array([slot]))
        return info

    async def close(self, session_id: str, *, branch: int = 0, owner: str | None = None) -> int:
        """Close a session; steps that are queued, and not given to the device, are refused.

        Returns its position, once what was given to the device has run.

        Args:
            session_id: which.
            branch: the branch that it must be on, or has gone back from; 0 is unchecked.
            owner: whose, see `Directory.wanted_owner`.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
            StaleBranchError: it is on another branch.
        """
        if self.directory.is_stranded(session_id, owner):
            position = self.directory.close(session_id, owner)
            if self.log is not None:
                await self.log.flush()
            return position
        session = self.directory.find(session_id, owner)
        shard, slot = session.shard, session.slot
        shard.on_branch(slot, branch, or_left=True)
        is_idle = shard.is_idle(slot)
        position = self.directory.close(session_id, owner)
        if is_idle:
            await shard.settled(np.array([slot]))
            return position
        # In the same turn of the event loop, while the slot is still the session's.
        last = Barrier(slots=np.array([session.slot], np.int64), is_last=True)
        (delivery,) = await session.shard.perform(last)
        return int(delivery.positions[0])

    async def reset(self, session_id: str, *, branch: int = 0) -> SessionInfo:
        """Put a session back to position 0 of a new branch, after the steps queued for it.

        Args:
            session_id: which.
            branch: the branch that it must be on when it is reset, or has gone back from; 0 is
                unchecked.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
            StaleBranchError: it is on another branch.
            PermissionDeniedError: the caller may not use its model any more.
            DrainingError, LoadingError: the server takes no new work.
        """
        self.check_ready()
        session = self.directory.find(session_id)
        require_model(session.served.name)
        session.shard.check_stays(session.slot)
        present = session.shard.on_branch(session.slot, branch, or_left=True)
        barrier = Barrier(
            slots=np.array([session.slot], np.int64),
            branches=np.array([present], np.uint64) if branch else None,
            reset=True,
        )
        await session.shard.perform(barrier)
        info = self.directory.describe(session_id)
        if info.branch != barrier.new_branch:
            # Somebody has reset it again, or opened it anew: whoever asked must not go on there.
            return replace(info, branch=barrier.new_branch, position=0)
        return info

    async def rewind(
        self, session_id: str, position: int, *, branch: int = 0, generated: bool = False
    ) -> SessionInfo:
        """Put a session back to an earlier position of a new branch, after the steps queued for it.

        Args:
            session_id: which.
            position: where it is to stand.
            branch: the branch that it must be on then, or has just gone back from; 0 is unchecked.
            generated: only within its last generation, and if it has read nothing since.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
            BadInputError: it has not been there yet.
            HistoryMissingError: what it read before is not kept.
            StateLostError: its state is in doubt.
            StaleBranchError: it is on another branch.
            PermissionDeniedError: the caller may not use its model any more.
            DrainingError, LoadingError: the server takes no new work.
        """
        self.check_ready()
        session = self.directory.find(session_id)
        require_model(session.served.name)
        shard, slot = session.shard, session.slot
        shard.check_stays(slot)
        present = shard.on_branch(slot, branch, or_left=True)
        new = await shard.rewind(
            slot,
            position,
            self.flows.current,
            branch=present if branch else 0,
            generated=generated,
        )
        info = self.directory.describe(session_id)
        if info.branch != new:  # as in `reset`
            info = replace(info, branch=new, position=position)
        await shard.settled(np.array([slot]))
        return info

    async def barrier(self, session_id: str, owner: str | None = None) -> int:
        """Wait until what is queued for a session now has run; returns the position then.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
        """
        session = self.directory.find(session_id, owner)
        barrier = Barrier(slots=np.array([session.slot], np.int64))
        (delivery,) = await session.shard.perform(barrier)
        return int(delivery.positions[0])

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

    # -- life -----------------------------------------------------------------------------

    def check_ready(self) -> None:
        """Check that new work is taken.

        Raises:
            DrainingError: the server is shutting down.
            LoadingError: its models are not loaded yet.
        """
        if self.failed.is_set():
            raise DrainingError(f"{self.failure} and the server ends: connect to another")
        if self.draining:
            raise DrainingError("the server is shutting down: connect to another, or try again")
        if self.loading:
            raise LoadingError("the server is loading its models: try again shortly")

    def lose_device(self, model: str, fault: Exception) -> None:
        """Take nothing new: a device has failed for good, and the states on it are lost."""
        if not self.failed.is_set():
            _log.error("device lost", model=model, reason=str(fault))
            self._fail("a device has failed")

    def _lose_store(self, fault: Exception) -> None:
        """Take nothing new, and tell nothing more: what was being written is in doubt."""
        _log.error("store lost", reason=str(fault))
        self._fail("the store has failed")

    def _fail(self, why: str) -> None:
        self.failure, self.draining = why, True
        self.failed.set()

    def durable_position(self, session: Session, *, position: int, branch: int) -> int | None:
        """As far as this a session, that is told to be at a position, is known to be durable.

        ``None`` without a store. A session that has ended since, or was reset, is at 0.
        """
        log = session.shard.log
        if log is None:
            return None
        return log.durable_position(session.slot, position=position, branch=branch)

    async def settled(self, session: Session) -> None:
        """Wait until what has become of a session may be told."""
        await session.shard.settled(np.array([session.slot]))

    async def drain(self) -> None:
        """Wait for what is queued, and until that is durable; take nothing new."""
        self.draining = True
        await asyncio.gather(*(served.drained() for served in self.registry.all()))
        if self.log is not None:
            await self.log.flush()

    async def settle_store(self, within_s: float) -> bool:
        """Write a checkpoint of every session; call ``drain`` first.

        Returns whether there was time for all.
        """
        if self._upkeep is None or self.failed.is_set():
            return True
        return await self._upkeep.settle(within_s)

    def stop(self) -> None:
        """End the worker threads; call ``drain`` first."""
        if self.log is not None:
            self.log.stop()
        if self._upkeep is not None:
            self._upkeep.close()
        for served in self.registry.all():
            served.predictor.stop()
        for shard in self.registry.shards():
            shard.stop()


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
