"""A session's whole state, taken out behind what is queued for it; the session stays as it is."""

from dataclasses import dataclass, replace

import numpy as np

from service.engine.directory.session import Session
from service.engine.engine import Engine
from service.engine.log.seeds import Seed
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.table.status import SessionStatus
from service.engine.work.work import Save
from service.errors import BadInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A session's state.

    Attributes:
        seed: the state. At position 0 it is what the session was opened with, or none: it starts
            from the model's own.
        info: the session, as it was then.
    """

    seed: Seed
    info: SessionInfo


async def take(engine: Engine, session: Session, branch: int = 0) -> Taken:
    """Copy a session's state, once what was queued for it before has run and is durable.

    It counts as a step of the caller's.

    Args:
        engine: the engine.
        session: whose.
        branch: the branch that it must be on then; 0 is unchecked.

    Raises:
        CellarError: it is on another branch, was closed, or its state is lost; or the queue is
            full.
        QuotaExceededError: the caller has no step left now.
        BadInputError: a number of its state is not finite: no session can begin so.
    """
    shard, slot = session.shard, session.slot
    present = shard.on_branch(slot, branch)
    flow = engine.flows.current
    shard.check_queue(1, flow)  # also where the store's disk is full
    flow.charge(1, pending=0)
    info = engine.directory.info(session)
    save = Save(
        slots=np.array([slot], np.int64),
        branches=np.array([present], np.uint64) if branch else None,
    )
    initial = shard.initials.of(slot) or ()  # before it may end, and the slot be another's
    await shard.perform(save)
    seed = Seed(
        branch=int(save.saved_branches[0]),
        position=int(save.positions[0]),
        last_steps=int(save.last_steps[0]),
        content=int(save.contents[0]),
        states=[rows[0] for rows in save.states],
        history=save.histories.get(slot),
    )
    if not seed.position:
        seed = replace(seed, states=initial, last_steps=0, content=0, history=None)
    elif not all(np.isfinite(row).all() for row in seed.states):
        raise BadInputError(
            "session_id",
            "a number of the session's state is not finite, and no session can begin so: reset it",
        )
    status = SessionStatus.MOVING if shard.table.moving[slot] else SessionStatus.OPEN
    info = replace(info, position=seed.position, branch=seed.branch, status=status)
    return Taken(seed=seed, info=info)
