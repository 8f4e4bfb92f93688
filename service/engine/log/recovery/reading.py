"""What a store says of the sessions in it, when a server starts.

The catalogue is in the table, as of some group; what opened, closed and reset sessions since is in
the journal, and so is what each session has read since its checkpoint. Knows nothing of models.
"""

from collections.abc import Mapping
from contextlib import suppress

from service.engine.log.checking import read_of, whole
from service.engine.log.groups.events import (
    Began,
    Closed,
    Event,
    Moved,
    Opened,
    Rebranched,
    Reset,
    after_move,
)
from service.engine.log.groups.session_row import SessionRow, after_crash, after_moving, after_reset
from service.engine.log.keys import APPLIED, HISTORY, INITIAL, SESSION, key, part_of
from service.engine.log.recovery.journal import read_journal
from service.engine.log.recovery.stored import Stored, StoredSession
from service.engine.log.recovery.tails import with_tails
from service.engine.sessions.moving import Moving
from service.store.records import DamagedError, unpack
from service.store.store import Store


def read_store(store: Store) -> Stored:
    """Read what is in a store.

    Raises:
        StoreError: it cannot be read, or something in it makes no sense.
    """
    stored, rows = Stored(), dict[int, SessionRow]()
    with read_of("its catalogue"):
        for _, value in store.rows(SESSION):
            row = SessionRow.unpack(unpack(value)[0])
            rows[row.number] = row
        applied = store.row(APPLIED)
        if applied is not None:
            meta = unpack(applied)[0].meta
            stored.applied = stored.last_group = whole(meta["group"])
            stored.next_number = whole(meta["next_number"])

    def happened(number: int, events: list[Event]) -> None:
        if number > stored.applied:
            _apply(events, rows, stored)

    found = read_journal(store, happened)
    stored.last_group = max(stored.last_group, found.last_group)
    stored.damaged_groups = found.damaged_groups
    with read_of("its journal"):
        stored.sessions = with_tails(rows, found)
    for session in stored.sessions.values():
        if session.row.has_initial:
            _find_initial(session, store, stored)
    with read_of("its histories"):
        for name, value in store.rows(HISTORY):
            number, position = part_of(name)
            stored.histories.setdefault(number, set()).add(position)
            if number in stored.sessions:
                stored.sessions[number].history[position] = value
    stored.next_number = max([stored.next_number, *[number + 1 for number in rows]])
    return stored


def _find_initial(session: StoredSession, store: Store, stored: Stored) -> None:
    """What a session was opened with: in the journal, or in the table by now."""
    number = session.row.number
    began = stored.began.get(number)
    if began is None:
        value = store.row(key(INITIAL, number))
        if value is not None:
            with suppress(DamagedError), read_of("the state that a session was opened with"):
                began = Began.unpack(unpack(value)[0])
    if began is not None:
        session.initial = began.states
    elif not session.begins:  # it has no other to read on from
        session.is_damaged = True


def read_sessions(store: Store, rows: Mapping[int, SessionRow]) -> dict[int, StoredSession]:
    """Some sessions of a store, of which the catalogue says this."""
    return with_tails(rows, read_journal(store, lambda _number, _events: None))


def _apply(events: list[Event], rows: dict[int, SessionRow], stored: Stored) -> None:
    """Let the catalogue know what has happened since it was written."""
    for event in events:
        match event:
            case Opened(row=row):
                rows[row.number] = stored.changes[row.number] = row
                stored.next_number = max(stored.next_number, row.number + 1)
            case Began(number=number):
                stored.began[number] = event
            case Closed(number=number):
                rows.pop(number, None)
                stored.began.pop(number, None)
                stored.changes[number] = None
            case Reset(number=number, branch=branch):
                if number in rows:
                    row = after_reset(rows[number], branch)
                    rows[number] = stored.changes[number] = row
            case Moved(number=number):
                if number in rows:
                    row = after_move(rows[number], event)
                    rows[number] = stored.changes[number] = row
            case Moving(number=number):
                if number in rows:
                    row = after_moving(rows[number], event)
                    rows[number] = stored.changes[number] = row
            case Rebranched(number=number, branch=branch, position=position):
                if number in rows and rows[number].branch != branch:  # the table may know it
                    row = after_crash(rows[number], branch, position)
                    rows[number] = stored.changes[number] = row
