"""A new session that begins with a seed: what every way ends in by which a state is taken in.

Its id is taken while it is made, and nobody finds it before its state is in its slot. Knows nothing
of where seeds come from.
"""

from dataclasses import replace

import numpy as np

from service.auth.principal import require_model
from service.engine.directory.session import Opening, Session
from service.engine.engine import Engine
from service.engine.log.seeds import Seed
from service.engine.served.registry import ServedModel
from service.engine.shard.restoring.folds import load_of
from service.errors import InternalError, OverloadedError


async def adopt(
    engine: Engine,
    served: ServedModel,
    seed: Seed,
    session_id: str = "",
    *,
    idle_timeout_s: float | None = None,
    ephemeral: bool = False,
    history_steps: int | None = None,
    arrived: str = "",
) -> Session:
    """Open a session of the caller that begins with a seed, on a branch of its own.

    The log has it, but it need not be durable yet: who tells of it waits for `Engine.settled`.

    Args:
        engine: the engine.
        served: the model, of whose shapes the seed's states are.
        seed: its state; the branch does not matter. Without ``last_steps`` the session has no
            prediction of its own until it reads a step.
        session_id: see `Directory.open`.
        idle_timeout_s: the same.
        ephemeral: the same.
        history_steps: the same.
        arrived: the same.

    Raises:
        CellarError: as `Engine.open`, or the state could not be put into its slot; there is no
            session then.
    """
    engine.check_ready()
    require_model(served.name)
    if not seed.position:  # where a session has an initial state, its own or the model's
        return engine.open(
            served,
            session_id,
            idle_timeout_s=idle_timeout_s,
            ephemeral=ephemeral,
            initial=seed.states or None,
            history_steps=history_steps,
            arrived=arrived,
        )
    directory = engine.directory
    opening = directory.begin(
        served,
        session_id,
        idle_timeout_s=idle_timeout_s,
        ephemeral=ephemeral,
        history_steps=history_steps,
        arrived=arrived,
    )
    try:
        opening.session.shard.check_room(1, engine.flows.current)
        own = await _put(opening, seed)
    except BaseException:  # the caller may have gone away
        directory.call_off(opening)
        raise
    return directory.adopt(opening, own)


async def _put(opening: Opening, seed: Seed) -> Seed:
    """Put a seed into the slot of a session that is made; returns it on the session's branch."""
    session = opening.session
    shard, slot = session.shard, session.slot
    own = replace(seed, branch=shard.on_branch(slot))
    load = load_of([(slot, own)])
    load.branches = np.array([own.branch], np.uint64)
    shard.table.begins_at(slot, own.position)
    (delivery,) = await shard.outcomes(load)
    if shard.table.lost[slot] and not isinstance(delivery.error, OverloadedError):
        raise InternalError(  # there is no session whose state would be lost
            "the state could not be put in place, and nothing was opened; the log tells why"
        )
    if delivery.error is not None:
        raise delivery.error
    return own
