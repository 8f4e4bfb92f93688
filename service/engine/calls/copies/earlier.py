"""The state that a session had at a position that it has left behind; the session stays as it is.

A spare slot reads again what the session has read up to there. Knows nothing of what is made of it.
"""

from dataclasses import replace

import numpy as np

from service.engine.directory.session import Session
from service.engine.engine import Engine
from service.engine.log.seeds import Seed
from service.engine.shard.restoring.folds import Unread, folds, load_of
from service.engine.work.request import Request
from service.engine.work.work import Save
from service.errors import SessionClosedError, StaleBranchError


async def earlier(engine: Engine, session: Session, position: int, *, branch: int) -> Seed:
    """The state that a session had at a position of a branch.

    Args:
        engine: the engine.
        session: whose.
        position: where.
        branch: the one that it must be on.

    Raises:
        BadInputError: it has not been there yet.
        HistoryMissingError: that is not kept.
        SessionClosedError: it has ended.
        StaleBranchError: it is on another branch by now.
        CellarError: it could not be read again, or not now.
    """
    shard, flow = session.shard, engine.flows.current
    if shard.slots.tenants(np.array([session.slot])) != [session]:
        raise SessionClosedError(f"session_id: '{session.id}' was closed before it was read again")
    present = int(shard.table.branch[session.slot])
    if present != branch:
        raise StaleBranchError(branch=present, position=shard.table.stands_at(session.slot))
    base, tail = shard.chronicles.back_to(session.slot, position)
    if not len(tail):
        return replace(base, branch=branch)
    steps = len(tail.inputs)
    shard.check_room(steps, flow)
    flow.charge(steps, pending=0)
    is_seeded = bool(shard.table.seeded[session.slot])  # it may end, and the slot be another's
    borrowed = await shard.borrow(1, flow)
    try:
        slot = int(borrowed.spares[0])
        shard.table.seeded[slot] = is_seeded
        unread = Unread(slot=slot, position=base.position, tail=tail)
        works = [work for work, _ in folds([unread])]
        for work in works:
            work.flow = flow
        # A single step is counted as accepted where it is admitted.
        shard.table.begins_at(slot, position - isinstance(works[-1], Request))
        save = Save(slots=np.array([slot], np.int64))
        await shard.perform(load_of([(slot, base)]), *works, save)
        return Seed(
            branch=branch,
            position=int(save.positions[0]),
            last_steps=int(save.last_steps[0]),
            content=int(save.contents[0]),
            states=[rows[0] for rows in save.states],
        )
    finally:
        shard.slots.return_spares(borrowed)
