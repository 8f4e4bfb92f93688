"""What a crash may have cost: sessions that may have lost acknowledged steps begin new branches.

A server that answers steps before they are durable leaves a mark in its store while it runs. Where
the next one finds it, whoever was told of steps that are lost must not take what is left for what
he knows. Knows nothing of models.
"""

import structlog

from service.engine.log.groups.events import Rebranched, events_sections
from service.engine.log.groups.session_row import after_crash
from service.engine.log.keys import APPLIED, CHECKPOINT, IN_DOUBT, INITIAL, SESSION, key
from service.engine.log.recovery.stored import Stored, StoredSession
from service.engine.sessions.table.table import new_branch
from service.settings import Durability
from service.store.records import Section, pack
from service.store.store import Store

_AT_ONCE = 2000  # sessions, in one write
_log = structlog.get_logger(__name__)


def resolve(store: Store, stored: Stored) -> None:
    """Let every session go on on a new branch, where steps may have been lost; nothing else runs.

    Raises:
        StoreError: that cannot be written.
    """
    if store.row(IN_DOUBT) is None:
        return
    sessions = list(stored.sessions.values())
    for start in range(0, len(sessions), _AT_ONCE):
        _begin_branches(store, stored, sessions[start : start + _AT_ONCE])
    _let_the_table_know(store, stored)
    if sessions:
        _log.warning(
            "the server before ended in no good order, and what it answered last may be lost: "
            "sessions go on on new branches",
            sessions=len(sessions),
        )


def _begin_branches(store: Store, stored: Stored, sessions: list[StoredSession]) -> None:
    events = [
        Rebranched(number=own.row.number, branch=new_branch(), position=own.position)
        for own in sessions
    ]
    store.append(stored.last_group + 1, pack(events_sections(events)))
    stored.last_group += 1
    for own, event in zip(sessions, events, strict=True):
        own.row = after_crash(own.row, event.branch, event.position)
    puts = {key(SESSION, own.row.number): pack([own.row.pack()]) for own in sessions}
    for own in sessions:
        began = stored.began.pop(own.row.number, None)
        if began is not None:
            puts[key(INITIAL, own.row.number)] = pack([began.pack()])
    store.write(
        puts,
        [key(CHECKPOINT, own.row.number) for own in sessions if not own.row.seed],
    )
    for own in sessions:
        stored.changes.pop(own.row.number, None)  # the table has it


def _let_the_table_know(store: Store, stored: Stored) -> None:
    """The catalogue is in the table as it is now, and nobody is in doubt any more.

    Else the next start would take the branches of this one for new ones, and as a session remembers
    only so many, a few starts in a row would make it forget the one that its client knows.
    """
    ended = [number for number, row in stored.changes.items() if row is None]
    gone = [key(kind, number) for number in ended for kind in (SESSION, CHECKPOINT, INITIAL)]
    meta = {"group": stored.last_group, "next_number": stored.next_number}
    store.write({APPLIED: pack([Section("applied", meta, {})])}, [IN_DOUBT, *gone])
    stored.applied = stored.last_group
    stored.changes.clear()


def mark(store: Store, durability: Durability) -> None:
    """Say that steps may be lost, before any is answered that may be.

    Raises:
        StoreError: that cannot be written.
    """
    if durability is not Durability.COMMIT:
        says = Section("in_doubt", {"durability": durability.value}, {})
        store.write({IN_DOUBT: pack([says])})
