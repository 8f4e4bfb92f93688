"""What callers may ask of a session, but for its steps: that it opens, stands, goes back and ends.

Everything here runs on one event loop. Knows nothing of gRPC or protobuf, nor how a model runs.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from service.auth.principal import require_model
from service.engine.directory.session import Session
from service.engine.served.registry import ServedModel
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.initials import Initial
from service.engine.stepping import Stepping
from service.engine.work.columns import Floats
from service.engine.work.work import Barrier
from service.errors import (
    CallerGoneError,
)


class SessionCalls(Stepping):
    """What callers may ask of one session."""

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

    async def settled(self, session: Session) -> None:
        """Wait until what has become of a session may be told."""
        await session.shard.settled(np.array([session.slot]))
