"""A session that goes on in a slot of another version: what tables and logs are told of it."""

from service.engine.directory.session import Opening, Session
from service.engine.log.chronicle import Chronicle
from service.engine.served.registry import ServedModel
from service.engine.shard.shard import Shard


def begin_beside(
    session: Session, served: ServedModel, shard: Shard, *, owner: int, now_s: float
) -> Opening:
    """Begin a slot of another version, which is hidden, with what an open session was opened with.

    Args:
        session: as it is.
        served: the other version.
        shard: of that.
        owner: see `SlotManager.owners`.
        now_s: see `SessionTable`.

    Raises:
        SessionLimitError: every slot of the shard is taken.
    """
    old, ephemeral = session.slot, session.shard.slots.ephemeral
    kept = session.shard.chronicles.find(old)
    slot = shard.slots.begin(
        owner=owner,
        opened_s=float(session.shard.table.opened_s[old]),
        now_s=now_s,
        idle_timeout_s=float(ephemeral.idle_timeout_s[old]),
        ephemeral=old in ephemeral,
    )
    shard.table.hide(slot)
    return Opening(
        session=Session(
            id=session.id,
            owner=session.owner,
            served=served,
            shard=shard,
            slot=slot,
        ),
        idle_timeout_s=float(ephemeral.idle_timeout_s[old]),
        ephemeral=old in ephemeral,
        keeps=0 if kept is None else kept.keeps,
    )


def go_on_there(session: Session, opening: Opening, history: Chronicle) -> None:
    """Let tables and logs know that a session goes on in the slot that was begun for it.

    Args:
        session: as it was.
        opening: where it is then.
        history: all that it has read.
    """
    new = opening.session
    base, tail = history.not_there(0)
    branch = int(new.shard.table.branch[new.slot])
    session.shard.table.goes_on(session.slot, branch=branch, position=history.end)
    new.shard.table.left[new.slot] = session.shard.table.branch[session.slot]
    new.shard.admit_inbox()
    session.shard.admit_inbox()
    # One after the other, so that they are in one group of the log.
    if session.shard.log is not None and new.shard.log is not None:
        initial = new.shard.initials.of(new.slot)
        session.shard.log.close(session.slot)
        new.shard.log.open(new.slot, opening.row(has_initial=initial is not None))
        if initial is not None:
            new.shard.log.begin_with(new.slot, initial)
        new.shard.log.has_read(new.slot, base, tail)
