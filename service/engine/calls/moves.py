"""Sessions that move to another server: frozen, released, and at last closed here.

Whatever crashes when, at most one server steps a session: this one does not from the moment that
its snapshot is told, and the other does not before it has the receipt, which is told once it is
durable that this one never will again. Knows nothing of gRPC.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np

from service.auth.principal import require_model
from service.engine.calls.copies.taking import take
from service.engine.calls.snapshots.exporting import Exported, packed
from service.engine.directory.session import Session
from service.engine.engine import Engine
from service.engine.sessions.moving import Moving
from service.engine.work.work import Barrier
from service.errors import BadInputError, StateLostError

_SECRET_BYTES = 32
_LONGEST_NAME = 1024


async def export_to_move(
    engine: Engine, session_id: str, move_to: str, *, branch: int = 0
) -> tuple[Exported, bytes]:
    """Freeze a session of the caller behind what is queued for it, and take its snapshot.

    It steps no more until the move is called off. Asked again, the answer is the same snapshot.

    Args:
        engine: the engine.
        session_id: which.
        move_to: where to, in the caller's words.
        branch: the branch that it must be on; 0 is unchecked. Asked again, it is not looked at.

    Returns:
        The snapshot, and the receipt where the session is released; else nothing.

    Raises:
        SessionMovingError: it is released for another place.
        BadInputError: it cannot move; the message says why.
        CellarError: there is no such session, or its state cannot be had; it is as it was.
    """
    if len(move_to) > _LONGEST_NAME or not move_to.isprintable():
        raise BadInputError("move_to", f"use at most {_LONGEST_NAME} printable characters")
    engine.check_ready()
    session = engine.directory.find(session_id)
    require_model(session.served.name)
    if session.slot in session.shard.slots.ephemeral:
        raise BadInputError(
            "session_id", "the session is ephemeral: it ends with its stream, and does not move"
        )
    async with _alone(engine, session) as moving:
        if moving is None:
            session.shard.on_branch(session.slot, branch, or_left=True)
            moving = await _freeze(engine, session, move_to, branch)
        elif moving.move_to != move_to:
            if moving.released:
                raise moving.error()
            moving = replace(moving, move_to=move_to)
            _note(session, moving)
        exported = await _pack(engine, session, moving)
        await _known(engine, session)
        return exported, moving.receipt if moving.released else b""


async def release(engine: Engine, session_id: str) -> bytes:
    """Let a session that moves never step here again; returns what lets the other server open it.

    Asked again, the answer is the same.

    Raises:
        BadInputError: it does not move.
        CellarError: there is no such session; it is as it was.
    """
    engine.check_ready()
    session = engine.directory.find(session_id)
    async with _alone(engine, session) as moving:
        if moving is None:
            raise BadInputError(
                "session_id", "the session does not move: ask ExportSession with move_to first"
            )
        if not moving.released:
            await _known(engine, session)
            moving = replace(moving, released=True)
            _note(session, moving)
        await _known(engine, session)
        return moving.receipt


async def call_off(engine: Engine, session_id: str) -> None:
    """Let a session that was to move step again, on a new branch; its snapshot is worth nothing.

    Raises:
        SessionMovingError: it is released.
        CellarError: there is no such session, or its state cannot be had; it is as it was.
    """
    engine.check_ready()
    session = engine.directory.find(session_id)
    shard, slot = session.shard, session.slot
    async with _alone(engine, session) as moving:
        if moving is None:
            return  # it was asked before, say
        if moving.released:
            raise moving.error()
        try:
            seed = (await take(engine, session)).seed
        except StateLostError:  # it has no state to go on with: it can be reset again
            shard.unfreeze(slot)
            if shard.log is not None:
                shard.log.moving(slot, Moving(move_to=""))
        else:
            _check_here(engine, session)
            shard.branch_off(slot, seed)
            shard.unfreeze(slot)
        await _known(engine, session)


@asynccontextmanager
async def _alone(engine: Engine, session: Session) -> AsyncIterator[Moving | None]:
    """Nobody else moves the session on meanwhile; how it moves now."""
    if session.moving is None:
        session.moving = asyncio.Lock()
    async with session.moving:
        _check_here(engine, session)
        if session.shard.table.returning[session.slot]:  # whoever began it has gone away, say
            await _known(engine, session)
        yield session.shard.table.moves.get(session.slot)


def _check_here(engine: Engine, session: Session) -> None:
    """Check that a session is open still.

    Raises:
        CellarError: it was closed meanwhile.
    """
    if engine.directory.find(session.id, session.owner) is not session:
        raise BadInputError("session_id", "the session was closed, and opened anew: ask again")


async def _freeze(engine: Engine, session: Session, move_to: str, branch: int) -> Moving:
    """Let a session step no more; the log knows once its state is saved with that."""
    shard, slot = session.shard, session.slot
    own = Moving(move_to=move_to)
    try:
        await _stop(engine, session, own, branch)
        exported = packed(engine, session, taken := await take(engine, session), transfer="0" * 64)
        del exported  # it fits into a message
        _check_here(engine, session)
    except BaseException:
        if shard.table.moves.get(slot) is own:
            shard.unfreeze(slot)
        raise
    moving = replace(own, secret=secrets.token_hex(_SECRET_BYTES), frozen_s=engine.directory.wall_s)
    shard.table.move_away(slot, moving)
    shard.branch_off(slot, taken.seed, lambda: _note(session, moving))
    return moving


async def _stop(engine: Engine, session: Session, own: Moving, branch: int) -> None:
    """Let a session step no more, once what was asked of it before has run.

    What is generated of it ends, with what was written.
    """
    shard, slot = session.shard, session.slot

    def stop() -> None:
        if not engine.break_off(session, own.error()):
            shard.freeze(slot, own)

    engine.break_off(session, own.error())
    slots = np.array([slot], np.int64)
    claimed = shard.on_branch(slot) if branch else 0
    while slot not in shard.table.moves:
        _check_here(engine, session)
        barrier = Barrier(slots=slots, acts=stop, freezes=True)
        if claimed and claimed == shard.on_branch(slot):
            barrier.branches = np.array([claimed], np.uint64)
        await shard.perform(barrier)


def _note(session: Session, moving: Moving) -> None:
    """The session moves so; the log is told, if there is one."""
    shard, slot = session.shard, session.slot
    if slot in shard.table.moves:
        shard.table.move_away(slot, moving)
    if shard.log is not None:
        shard.log.moving(slot, moving)


async def _pack(engine: Engine, session: Session, moving: Moving) -> Exported:
    """The snapshot of a session that is frozen: the same whenever it is asked for."""
    taken = await take(engine, session)
    return packed(engine, session, taken, transfer=moving.transfer, exported_s=moving.frozen_s)


async def _known(engine: Engine, session: Session) -> None:
    """Wait until what has become of a session is durable.

    Raises:
        CellarError: it is in doubt.
    """
    shard, slot = session.shard, session.slot
    if shard.table.returning[slot]:
        await shard.outcomes(Barrier(slots=np.array([slot], np.int64)))
    await engine.settled(session)
    _check_here(engine, session)
    if shard.table.returning[slot]:  # it could not be put on its branch yet
        raise shard.table.why_lost(slot)
