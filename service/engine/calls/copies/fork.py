"""New sessions that stand where others stand. Knows nothing of gRPC."""

from dataclasses import replace

import numpy as np

from service.engine.calls.copies.adopt import adopt
from service.engine.calls.copies.earlier import earlier
from service.engine.calls.copies.taking import take
from service.engine.engine import Engine
from service.engine.log.seeds import Seed
from service.engine.served.registry import ServedModel
from service.engine.sessions.info import SessionInfo
from service.errors import StateMismatchError


async def fork(
    engine: Engine,
    session_id: str,
    new_session_id: str = "",
    *,
    branch: int = 0,
    position: int | None = None,
    model: str = "",
    version: int = 0,
    idle_timeout_s: float | None = None,
    ephemeral: bool = False,
    history_steps: int | None = None,
) -> SessionInfo:
    """Open a session of the caller that stands where one of his stands, which stays as it is.

    It stands at one moment: what was taken for the other before has run, and what comes later is
    not in it.

    Args:
        engine: the engine.
        session_id: the other.
        new_session_id: empty lets the server choose.
        branch: the branch that the other must be on; 0 is unchecked.
        position: where the new one stands; ``None`` is where the other stands.
        model: of the new one; empty: the other's.
        version: of that model; 0: the highest, or the other's where no model is named.
        idle_timeout_s: ``None``: as the other's, at most the longest there may be.
        ephemeral: see `Directory.open`.
        history_steps: the same; ``None``: as the other keeps. It begins where the new one stands.

    Raises:
        StateMismatchError: that model's states have other shapes.
        BadInputError: the other has not been at that position yet.
        HistoryMissingError: the other's state at that position is not kept.
        CellarError: as `adopt`, or the other's state cannot be had.
    """
    session = engine.session(session_id)
    source = session.served
    target = source
    if model or version:
        target = engine.registry.find(model or source.name, version)
        target.require_streamable()
    if idle_timeout_s is None:
        own_s = float(session.shard.slots.ephemeral.idle_timeout_s[session.slot])
        idle_timeout_s = min(own_s, engine.directory.longest_timeout_s())
    if history_steps is None:
        kept = session.shard.chronicles.find(session.slot)
        history_steps = 0 if kept is None else kept.keeps
    seed = (await take(engine, session, branch)).seed
    if position is not None and position != seed.position:
        seed = await earlier(engine, session, position, branch=seed.branch)
    opened = await adopt(
        engine,
        target,
        carried(seed, source, target),
        new_session_id,
        idle_timeout_s=idle_timeout_s,
        ephemeral=ephemeral,
        history_steps=history_steps,
    )
    info = engine.directory.info(opened)
    await engine.settled(opened)
    return info


def carried(seed: Seed, source: ServedModel, target: ServedModel) -> Seed:
    """A state of one model's as another's begins with it: states in their order, no prediction.

    Raises:
        StateMismatchError: their shapes differ.
    """
    if target.fingerprint == source.fingerprint:
        if target.arithmetic == source.arithmetic:
            return seed
        return replace(seed, last_steps=-abs(seed.last_steps), history=None)
    shapes = [
        [tuple(state.shape) for state in served.manifest.states] for served in (source, target)
    ]
    if shapes[0] != shapes[1]:
        raise StateMismatchError(
            f"model: the states of {source.label} have the shapes {_listed(shapes[0])}, and those "
            f"of {target.label} {_listed(shapes[1])}"
        )
    states = list(seed.states[: len(shapes[0])])
    if states and target.manifest.prediction_is_resident:
        states.append(np.zeros(target.manifest.prediction.width, np.float32))
    return replace(seed, states=states, last_steps=0, content=0, history=None)


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes)) or "of none"
