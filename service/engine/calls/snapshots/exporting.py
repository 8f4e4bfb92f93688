"""Sessions as snapshots, and snapshots as sessions. Knows nothing of gRPC."""

import hmac
from dataclasses import dataclass, replace

from service.auth.principal import calling
from service.engine.calls.copies.adopt import adopt
from service.engine.calls.copies.taking import Taken, take
from service.engine.calls.snapshots.snapshot import Facts, Snapshot, read
from service.engine.directory.session import Key, Session
from service.engine.engine import Engine
from service.engine.served.registry import ServedModel
from service.engine.sessions.info import SessionInfo
from service.engine.sessions.moving import transfer_of
from service.engine.work.flow import asked_model
from service.errors import BadInputError, SessionExistsError, StateMismatchError

_BESIDE_BYTES = 4096  # of a message, beside the snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A session's snapshot.

    Attributes:
        data: the bytes.
        info: the session, as it was when they were taken.
    """

    data: bytes
    info: SessionInfo


async def export(engine: Engine, session_id: str, *, branch: int = 0) -> Exported:
    """Take a snapshot of a session of the caller, once what was taken for it before has run.

    Where it would not fit into a message, what repeats the last reply of every step is left out.

    Args:
        engine: the engine.
        session_id: which.
        branch: the branch that it must be on; 0 is unchecked.

    Raises:
        CellarError: there is no such session, or its state cannot be had; nothing was changed.
    """
    session = engine.session(session_id)
    return packed(engine, session, await take(engine, session, branch))


def packed(
    engine: Engine,
    session: Session,
    taken: Taken,
    *,
    transfer: str = "",
    exported_s: float | None = None,
) -> Exported:
    """The snapshot of a session whose state was taken.

    Args:
        engine: the engine.
        session: whose.
        taken: the state.
        transfer: what its move is known by, see `Facts`.
        exported_s: when; ``None`` is now.

    Raises:
        BadInputError: it fits into no message.
    """
    served, seed = session.served, taken.seed
    states = served.manifest.states
    facts = Facts(
        model=served.name,
        version=served.version,
        fingerprint=served.fingerprint,
        arithmetic=served.arithmetic,
        id=session.id,
        position=seed.position,
        idle_timeout_s=taken.info.idle_timeout_s,
        ephemeral=taken.info.ephemeral,
        exported_s=engine.directory.wall_s if exported_s is None else exported_s,
        transfer=transfer,
    )
    snapshot = Snapshot(
        facts=facts,
        names=[state.input for state in states][: len(seed.states)],
        states=seed.states[: len(states)],
        prediction=seed.states[-1] if len(seed.states) > len(states) else None,
        last_steps=seed.last_steps,
        content=seed.content,
        history=seed.history,
    )
    most = engine.settings.max_message_bytes - _BESIDE_BYTES
    data = snapshot.pack(engine.snapshot_key())
    if len(data) > most and seed.history is not None:
        data = replace(snapshot, history=None).pack(engine.snapshot_key())
    if len(data) > most:
        raise BadInputError(
            "session_id",
            f"the session's snapshot takes {len(data):,} bytes, and a message has room for "
            f"{most:,}: raise --max-message-bytes",
        )
    return Exported(data=data, info=taken.info)


async def import_session(
    engine: Engine,
    data: bytes,
    session_id: str = "",
    *,
    idle_timeout_s: float | None = None,
    receipt: bytes = b"",
) -> SessionInfo:
    """Open a session of the caller that stands where a snapshot was taken.

    Args:
        engine: the engine.
        data: the snapshot.
        session_id: empty: the one that the session had.
        idle_timeout_s: ``None``: as the session had it, at most the longest there may be.
        receipt: of a session that moves, what it was released with.

    One that moves is opened once: asked again, it is answered as it stands. It counts as a step of
    the caller's, also where it is refused for what it says.

    Raises:
        BadInputError: the receipt is not that of the session's move.
        SessionClosedError: it has come already, and was closed here.
        SnapshotInvalidError: it is damaged, not signed as it has to be, or says what cannot be.
        StateMismatchError: its model is not served here, or its states have other shapes.
        QuotaExceededError: the caller has no step left now.
        CellarError: as `adopt`.
    """
    engine.check_ready()
    engine.flows.current.charge(1, pending=0)  # to read it costs as much as any
    snapshot = read(data, engine.snapshot_key())
    facts = snapshot.facts
    served = _model_of(engine, facts)
    _check_shapes(served, snapshot)
    seed = snapshot.seed
    if facts.arithmetic != served.arithmetic:  # what comes may differ from what was told
        seed = replace(seed, last_steps=-abs(seed.last_steps), history=None)
    transfer, own_id = facts.transfer, session_id or facts.id
    here = engine.directory.arrivals.find(transfer) if receipt and transfer else None
    if here is None:
        engine.directory.check_free(own_id)
    _check_receipt(transfer, receipt)
    if here is not None:
        return await _as_it_came(engine, here)
    if idle_timeout_s is None:
        idle_timeout_s = min(facts.idle_timeout_s, engine.directory.longest_timeout_s())
    session = await adopt(
        engine,
        served,
        seed,
        own_id,
        idle_timeout_s=idle_timeout_s,
        ephemeral=facts.ephemeral,
        arrived=transfer,
    )
    info = engine.directory.info(session)
    await engine.settled(session)
    return info


def _check_receipt(transfer: str, receipt: bytes) -> None:
    """Check that a receipt is what a snapshot wants; last of all, so that one can ask before.

    Raises:
        BadInputError: it is not.
    """
    if transfer and not receipt:
        raise BadInputError(
            "receipt",
            "the session moves, and is opened with the receipt that ReleaseSession answers alone",
        )
    if receipt and not transfer:
        raise BadInputError("receipt", "the snapshot is of no session that moves: leave it empty")
    if receipt and not hmac.compare_digest(transfer_of(receipt), transfer):
        raise BadInputError("receipt", "it is not that of the move that this snapshot is of")


async def _as_it_came(engine: Engine, key: Key) -> SessionInfo:
    """A session that has come already."""
    owner, session_id = key
    if owner != calling.get().name:
        raise SessionExistsError("receipt: the session has come already, and is another's here")
    return await engine.describe(session_id)


def _model_of(engine: Engine, facts: Facts) -> ServedModel:
    """The model whose file a snapshot is of, whatever it is called here.

    What the caller may not use is not there.
    """
    may_use = calling.get().grant.may_use
    usable = [served for served in engine.registry.all() if may_use(served.name)]
    same = [served for served in usable if served.fingerprint == facts.fingerprint]
    for served in same:
        if (served.name, served.version) == (facts.model, facts.version):
            same = [served]
    if same:
        asked_model.set(same[0].label)
        return same[0]
    here = f"{facts.label} is not served here"
    for served in usable:
        if (served.name, served.version) == (facts.model, facts.version):
            here = f"{facts.label} is another file here ({served.fingerprint[:12]})"
    raise StateMismatchError(
        f"snapshot: it is of a session of {facts.label} ({facts.fingerprint[:12]}), and {here}: "
        "serve that model's file here"
    )


def _check_shapes(served: ServedModel, snapshot: Snapshot) -> None:
    """Check that a snapshot has the states of a model; one at position 0 may have none.

    Raises:
        StateMismatchError: it has others.
    """
    manifest = served.manifest
    found = {name: row.shape for name, row in zip(snapshot.names, snapshot.states, strict=True)}
    wanted = {state.input: tuple(state.shape) for state in manifest.states}
    width = manifest.prediction.width
    prediction = (width,) if manifest.prediction_is_resident else None
    if not (snapshot.facts.position or found):
        wanted, prediction = {}, None
    has = None if snapshot.prediction is None else snapshot.prediction.shape
    if list(found.items()) != list(wanted.items()) or has != prediction:
        raise StateMismatchError(
            f"snapshot: it has the states {_shown(found, has)}, and {served.label} has "
            f"{_shown(wanted, prediction)}"
        )
    if snapshot.history is not None and snapshot.history.shape[1] != width:
        raise StateMismatchError(
            f"snapshot: it has predictions of {snapshot.history.shape[1]} numbers, and "
            f"{served.label} makes such of {width}"
        )


def _shown(states: dict[str, tuple[int, ...]], prediction: tuple[int, ...] | None) -> str:
    shown = [f"{ascii(name)[1:-1][:40]} {shape}" for name, shape in states.items()][:8]
    return ", ".join([*shown, *([] if prediction is None else [f"prediction {prediction}"])])
