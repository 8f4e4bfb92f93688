"""Joins the parts: models, their shards, and the sessions on them.

Everything here runs on one event loop. Knows nothing of gRPC or protobuf, nor how a model runs.
"""

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.engine.scheduler.screening import lost_error
from service.engine.served.inputs import CheckedSteps
from service.engine.served.registry import Catalog, ServedModel
from service.engine.sessions.table import Session, SessionInfo, SessionStatus
from service.engine.shard.shard import Shard
from service.engine.work.request import Lone, Request
from service.engine.work.work import Answers, Barrier, Caller, Delivery, Draws, Outputs, Sampling
from service.errors import (
    BadInputError,
    DrainingError,
    LoadingError,
    SessionClosedError,
    SessionExistsError,
    SessionExpiredError,
    SessionUnknownError,
)
from service.metrics import Metrics
from service.settings import EngineSettings

_EXPIRED_AT_ONCE = 1000  # per shard and call, so that steps need not wait for long


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The reply to one session's steps."""

    position: int
    answers: Answers
    replayed: bool


class Engine:
    """Opens, steps and closes sessions.

    Args:
        settings: limits.
        metrics: where to count.
        clock: seconds, never going back: for idleness.
        wall_clock: seconds since the epoch: for people.
    """

    def __init__(
        self,
        settings: EngineSettings,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.loading = True
        self.draining = False
        self._clock = clock
        self._wall_clock = wall_clock
        self.catalog = Catalog(settings, metrics, clock)
        self._sessions: dict[str, Session] = {}
        self._gone: OrderedDict[str, type[SessionClosedError | SessionExpiredError]] = OrderedDict()

    # -- sessions -------------------------------------------------------------------------

    def open(
        self,
        served: ServedModel,
        session_id: str = "",
        *,
        idle_timeout_s: float | None = None,
    ) -> Session:
        """Open a session at position 0.

        Raises:
            BadInputError: the id or the timeout cannot be used.
            SessionExistsError: the id is open already.
            SessionLimitError: every slot is taken.
            NotStreamableError: the model has no states.
            DrainingError: the server is shutting down.
        """
        self.check_ready()
        served.require_streamable()
        session_id = session_id or uuid.uuid4().hex
        limit = self.settings.max_id_length
        if len(session_id) > limit or not session_id.isprintable():
            raise BadInputError("session_id", f"use at most {limit} printable characters")
        if session_id in self._sessions:
            raise SessionExistsError(f"session_id: '{session_id}' is open already")
        timeout_s = self.settings.idle_timeout_s if idle_timeout_s is None else idle_timeout_s
        if not 0 < timeout_s <= self.settings.max_idle_timeout_s:
            raise BadInputError(
                "idle_timeout",
                f"{timeout_s:g} s is not above 0 and at most "
                f"{self.settings.max_idle_timeout_s:g} s",
            )
        shard = served.shard_for(session_id)
        session = Session(id=session_id, served=served, shard=shard, slot=shard.slots.allocate())
        shard.residents.begin(
            session,
            opened_s=self._wall_clock(),
            now_s=self._clock(),
            idle_timeout_s=timeout_s,
        )
        self._sessions[session_id] = session
        self._gone.pop(session_id, None)
        self.metrics.session_events.labels("opened").inc()
        return session

    def find(self, session_id: str) -> Session:
        """An open session.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
        """
        session = self._sessions.get(session_id)
        if session is not None:
            return session
        if self.loading:
            self.check_ready()
        gone = self._gone.get(session_id)
        if gone is SessionExpiredError:
            raise SessionExpiredError(
                f"session_id: '{session_id}' was idle for too long and expired; open a new session"
            )
        if gone is SessionClosedError:
            raise SessionClosedError(f"session_id: '{session_id}' is closed; open a new session")
        raise SessionUnknownError(f"session_id: '{session_id}' is not open here; open it first")

    def describe(self, session_id: str) -> SessionInfo:
        """Where a session stands.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
        """
        session = self.find(session_id)
        table = session.shard.table
        slot = session.slot
        return SessionInfo(
            id=session.id,
            model=session.served.name,
            version=session.served.version,
            status=SessionStatus.LOST if table.lost[slot] else SessionStatus.OPEN,
            position=int(table.position[slot]),
            opened_s=float(table.opened_s[slot]),
            last_used_s=self._wall_clock() - (self._clock() - float(table.last_used_s[slot])),
            idle_timeout_s=float(table.idle_timeout_s[slot]),
        )

    def close(self, session_id: str) -> int:
        """Close a session; steps that are queued, and not given to the device, are refused.

        Returns its position.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
        """
        session = self.find(session_id)
        position = int(session.shard.table.position[session.slot])
        self._end(session, SessionClosedError)
        self.metrics.session_events.labels("closed").inc()
        return position

    def close_slot(self, shard: Shard, slot: int, generation: int) -> None:
        """Close the session of a slot, unless the slot has changed hands since."""
        session = shard.residents.at(slot, generation)
        if session is not None:
            self.close(session.id)

    async def reset(self, session_id: str) -> SessionInfo:
        """Put a session back to position 0, after the steps queued for it.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
            DrainingError: the server is shutting down.
        """
        self.check_ready()
        await self.barrier(session_id, reset=True)
        return self.describe(session_id)

    async def barrier(self, session_id: str, *, reset: bool = False) -> int:
        """Wait until what is queued for a session now has run; returns the position then.

        Raises:
            SessionUnknownError, SessionExpiredError, SessionClosedError: it is not open.
        """
        session = self.find(session_id)
        (delivery,) = await session.shard.perform(
            Barrier(
                slots=np.array([session.slot], np.int64),
                expected=np.zeros(1, np.int64),
                reset=reset,
            )
        )
        return int(delivery.positions[0])

    def expire(self) -> int:
        """Close sessions that have been idle for too long, some at a time; returns how many."""
        now_s = self._clock()
        count = 0
        for shard in self.catalog.shards():
            for session in shard.idle_sessions(now_s, at_most=_EXPIRED_AT_ONCE):
                self._end(session, SessionExpiredError)
                self.metrics.session_events.labels("expired").inc()
                count += 1
        return count

    # -- steps ----------------------------------------------------------------------------

    async def step(
        self,
        session_id: str,
        steps: CheckedSteps,
        *,
        outputs: Outputs,
        sampling: Sampling | None = None,
        position: int | None = None,
        commit: bool = True,
    ) -> StepResult:
        """Advance one session; all steps are applied or none.

        Cancelling the call before the device is given the steps leaves the session as it was.

        Raises:
            CellarError: nothing was applied; the class says why.
        """
        self.check_ready()
        return await self.advance(
            session_id,
            steps,
            outputs=outputs,
            sampling=sampling,
            position=position,
            commit=commit,
        )

    async def advance(
        self,
        session_id: str,
        steps: CheckedSteps,
        *,
        outputs: Outputs,
        sampling: Sampling | None = None,
        position: int | None = None,
        commit: bool = True,
    ) -> StepResult:
        """Do what ``step`` does, also while the server drains: for calls that began before."""
        session = self.find(session_id)
        served, shard = session.served, session.shard
        if len(steps) > self.settings.max_request_steps:
            raise BadInputError(
                "inputs",
                f"{len(steps)} steps exceed the limit of {self.settings.max_request_steps} per "
                "request: send them in several",
            )
        inputs = steps.require()
        outputs = served.checked_outputs(outputs, sampling, steps=len(steps))
        slot = session.slot
        if shard.table.lost[slot]:
            raise lost_error(int(shard.table.position[slot]))
        done: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        caller = Caller(lambda delivery: None if done.done() else done.set_result(delivery))
        shard.submit(
            Lone(
                slot=slot,
                inputs=inputs,
                position=position,
                outputs=outputs.last_only,
                sampling=sampling,
                caller=caller,
            )
            if len(steps) == 1 and commit
            else Request(
                slots=np.array([slot], np.int64),
                steps=np.array([len(steps)], np.int64),
                inputs=inputs,
                positions=None if position is None else np.array([position], np.int64),
                outputs=outputs,
                draws=None if sampling is None else Draws.of((sampling,)),
                callers=(caller,),
                commit=commit,
            )
        )
        try:
            delivery = await done
        except asyncio.CancelledError:
            caller.cancel()
            raise
        caller.let_go()
        if delivery.error is not None:
            raise delivery.error
        assert delivery.answers is not None, "a delivery has answers or an error"
        return StepResult(
            position=int(delivery.positions[0]),
            answers=delivery.answers,
            replayed=delivery.replayed,
        )

    # -- life -----------------------------------------------------------------------------

    def check_ready(self) -> None:
        """Check that new work is taken.

        Raises:
            DrainingError: the server is shutting down.
            LoadingError: its models are not loaded yet.
        """
        if self.draining:
            raise DrainingError("the server is shutting down: connect to another, or try again")
        if self.loading:
            raise LoadingError("the server is loading its models: try again shortly")

    async def drain(self) -> None:
        """Wait for what is queued; take nothing new."""
        self.draining = True
        predictors = [served.predictor for served in self.catalog.all()]
        await asyncio.gather(*(predictor.drained() for predictor in predictors))
        await asyncio.gather(*(shard.drained() for shard in self.catalog.shards()))

    def stop(self) -> None:
        """End the worker threads; call ``drain`` first."""
        for served in self.catalog.all():
            served.predictor.stop()
        for shard in self.catalog.shards():
            shard.stop()

    def _end(self, session: Session, how: type[SessionClosedError | SessionExpiredError]) -> None:
        del self._sessions[session.id]
        self._gone[session.id] = how
        while len(self._gone) > self.settings.remembered_sessions:
            self._gone.popitem(last=False)
        session.shard.end(session.slot)
