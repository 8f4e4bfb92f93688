"""Sessions that end and begin again: opened, reset, closed, and what comes too late for them."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.chaos.callers.calls import (
    HAS_BRANCHES,
    Connection,
    Subject,
    World,
    branch_of,
    is_gone,
    is_stale,
    on,
)
from benchmarks.chaos.oracle.history import DIGEST, DUPLICATE, REPLAYED, Floats, digest
from cellar.errors import CellarError, SessionExistsError
from cellar.v1 import session_pb2, values_pb2

RAW = values_pb2.Outputs(raw=True)
EVERY = values_pb2.Outputs(raw=True, every_step=True)
_QUIET_S = 10.0
"""Without branches a session may begin anew under its id if nothing of its is on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ghost:
    """A step that was answered, in an era that is over."""

    era: int
    position: int
    inputs: Floats  # (steps,)


def inputs_of(subject: Subject, steps: Floats) -> values_pb2.Inputs:
    """Steps as they travel."""
    if subject.tokens:
        return values_pb2.Inputs(tokens=values_pb2.Tokens(ids=steps.astype(np.int64).tolist()))
    return values_pb2.Inputs(values=values_pb2.Values(data=steps.tolist()))


def some_steps(world: World, subject: Subject, count: int) -> Floats:
    """Steps by dice, (count,)."""
    dice = np.random.default_rng(world.chance.getrandbits(64))
    if subject.tokens:
        return dice.integers(0, subject.tokens, count).astype(np.float32)
    return dice.uniform(90, 110, count).astype(np.float32)


async def open_session(
    world: World, connection: Connection, subject: Subject, session: str
) -> int | None:
    """Open a session; its era, or ``None`` where it does not stand at its beginning."""
    asked = world.history.tick()
    opening = session_pb2.OpenSessionRequest(model=subject.name, session_id=session)
    try:
        opened = (await connection.call("OpenSession", opening)).session
    except SessionExistsError:  # the first of several tries was not answered
        asking = session_pb2.GetSessionRequest(session_id=session)
        opened = (await connection.call("GetSession", asking)).session
    if opened.position:
        world.history.note("doubled", f"{session} was opened, and stands at {opened.position}")
        return None
    return world.history.begin(session, subject.name, branch=branch_of(opened), asked=asked)


async def begin_again(
    world: World, connection: Connection, subject: Subject, era: int, *, trouble_s: float
) -> int | None:
    """Let a session begin again: by a reset, by closing and opening it, or under another id.

    Nothing of its era is on its way; ``trouble_s`` is when one of its requests was last made again,
    by the monotonic clock. Returns its new era; ``None`` where it is of no use.
    """
    history, old = world.history, world.history.eras[era]
    if not HAS_BRANCHES and time.monotonic() - trouble_s < _QUIET_S:
        return await _open_another(world, connection, subject, era)
    retries, asked = history.faults["retry"], history.tick()
    if world.chance.random() < 0.6:
        request = session_pb2.ResetSessionRequest(session_id=old.session, **on(old.branch))
        try:
            reset = (await connection.call("ResetSession", request)).session
            branch, position = branch_of(reset), reset.position
        except CellarError as error:
            if is_gone(error):
                return await lost(world, connection, subject, era, error)
            if not is_stale(error) or error.position is None:
                raise
            # An earlier try was taken, or the server came back without the tail.
            branch, position = int(error.metadata.get("branch", 0)), error.position
            if position and world.may_lose_tails:
                return await _open_another(world, connection, subject, era)
        history.end(era)
        history.faults["reset"] += 1
        if position:
            history.note("doubled", f"{old.session} was reset, and stands at {position}")
            return None
        if not HAS_BRANCHES and history.faults["retry"] > retries:
            return await _open_another(world, connection, subject, era)
        return history.begin(old.session, subject.name, branch=branch, asked=asked)
    await _close(world, connection, era)
    history.faults["re-opening"] += 1
    if not HAS_BRANCHES and history.faults["retry"] > retries:
        return await _open_another(world, connection, subject, era)
    return await open_session(world, connection, subject, old.session)


async def _close(world: World, connection: Connection, era: int) -> None:
    old, ask = world.history.eras[era], world.history.ask(era, "CloseSession")
    request = session_pb2.CloseSessionRequest(session_id=old.session, **on(old.branch))
    retries, has_lost = world.history.faults["retry"], False
    while True:
        try:
            closed = await connection.call("CloseSession", request)
        except CellarError as error:
            if is_stale(error) and world.may_lose_tails and not has_lost:
                has_lost = True
                request = session_pb2.CloseSessionRequest(session_id=old.session)
                continue
            # An earlier try of the same was taken, and not answered.
            if not is_gone(error) or world.history.faults["retry"] == retries:
                raise
        else:
            if not has_lost:
                world.history.tell(ask, closed.position)
        break
    world.history.end(era)


async def _open_another(
    world: World, connection: Connection, subject: Subject, era: int
) -> int | None:
    world.history.end(era)
    world.history.current.pop(world.history.eras[era].session, None)
    session = world.new_id(world.history.eras[era].session.partition("-")[0])
    return await open_session(world, connection, subject, session)


async def lost(
    world: World, connection: Connection, subject: Subject, era: int, error: CellarError
) -> int | None:
    """The server does not know a session that it has opened: go on with another."""
    world.history.note("lost", f"{world.history.eras[era].session} is gone: {error}")
    return await _open_another(world, connection, subject, era)


async def haunt(world: World, connection: Connection, subject: Subject, ghost: Ghost) -> None:
    """Send what belongs to an era that is over: it is to be refused, and only branches can tell."""
    if not HAS_BRANCHES:
        return
    history, era = world.history, world.history.eras[ghost.era]
    sent = history.tick()
    history.faults["late duplicate"] += 1
    method, request = _late(world, subject, ghost)
    try:
        reply = await connection.call(method, request)
    except CellarError as error:
        history.stale_refused += is_stale(error) or is_gone(error)
        return
    if method != "Step":
        history.note("doubled", f"{era.session}: a late {method} was taken")
        return
    told = digest(np.array([reply.predictions.raw], np.float32))
    flags = DIGEST | DUPLICATE | (REPLAYED if reply.replayed else 0)
    history.tell_steps(
        ghost.era,
        np.array([ghost.position + len(ghost.inputs) - 1]),
        ghost.inputs[-1:],
        flags=flags,
        digests=told,
        sent=sent,
    )


def _late(world: World, subject: Subject, ghost: Ghost) -> tuple[str, Any]:
    """A step mostly, and sometimes what would end the session's new era."""
    era, dice = world.history.eras[ghost.era], world.chance.random()
    if dice < 0.1:
        closing = session_pb2.CloseSessionRequest(session_id=era.session, **on(era.branch))
        return "CloseSession", closing
    if dice < 0.2:
        reset = session_pb2.ResetSessionRequest(session_id=era.session, **on(era.branch))
        return "ResetSession", reset
    step = session_pb2.StepRequest(
        session_id=era.session,
        inputs=inputs_of(subject, ghost.inputs),
        position=ghost.position,
        outputs=RAW,
        **on(era.branch),
    )
    return "Step", step


__all__ = [
    "EVERY",
    "RAW",
    "Ghost",
    "begin_again",
    "haunt",
    "inputs_of",
    "lost",
    "open_session",
    "some_steps",
]
