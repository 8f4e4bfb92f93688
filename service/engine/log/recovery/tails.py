"""What each session has read since its checkpoint, found among all that is in the journal."""

from collections.abc import Mapping

import numpy as np

from service.engine.log.groups.entries import Steps
from service.engine.log.groups.session_row import SessionRow
from service.engine.log.recovery.journal import Damage, Found
from service.engine.log.recovery.stored import StoredSession, Tail

_NEVER = np.iinfo(np.int64).max


def with_tails(rows: Mapping[int, SessionRow], found: Found) -> dict[int, StoredSession]:
    """Sessions of which the catalogue says this, with what the journal holds of each; by number.

    Lets go of the entries that were found, as there may be hundreds of MB of them.
    """
    sessions = {number: StoredSession(row=row, position=row.seed) for number, row in rows.items()}
    for number, (event, group, branch) in found.moved.items():
        session = sessions.get(number)
        # Of a branch that was left again, or before a checkpoint, it says nothing any more.
        if session is not None and session.row.branch == branch and not session.row.seed:
            session.seed, session.position = event.seed, event.seed.position
            begins = event.history
            session.history_begins = session.position if begins is None else begins
            session.first_group = session.last_group = group
    for model, parts in found.parts.items():
        _tails(model, parts, found, sessions)
    for number in found.damaged:
        if number in sessions:
            _lose(sessions[number], found.damage_of(sessions[number]))
    if found.unknown:
        for session in sessions.values():
            _lose(session, found.may_damage(session))
    return sessions


def _lose(session: StoredSession, damage: Damage | None) -> None:
    """Some of what a session has read is lost; the journal is kept from there on."""
    if damage is not None:
        session.is_damaged = True
        session.first_group = min(session.first_group or damage.group, damage.group)


def _tails(
    model: str, parts: list[Steps], found: Found, sessions: Mapping[int, StoredSession]
) -> None:
    """Find what each session of a model has read since its checkpoint.

    There may be millions of entries and 100,000 sessions, so this goes by columns.
    """
    entries = Steps.joined(parts)
    lengths = [len(part) for part in parts]
    parts.clear()  # hundreds of MB, of millions of entries
    places = np.repeat(np.array(found.places[model], np.int64), lengths)
    numbers, whose = np.unique(entries.sessions, return_inverse=True)
    own = [sessions.get(number) for number in numbers.tolist()]
    seeds = np.array([_NEVER if session is None else session.begins for session in own])
    branches = np.array([found.begins.get(number, -1) for number in numbers.tolist()])
    damaged = np.full(len(own), _NEVER)
    for index, session in enumerate(own):
        if session is not None and session.row.number in found.damaged:
            lost = found.damage_of(session)
            damaged[index] = _NEVER if lost is None else lost.place
    # What was read before the checkpoint, on an earlier branch too, stands before it; sessions
    # that have ended need nothing.
    needs = entries.positions >= seeds[whose]
    needs &= (places > branches[whose]) & (places < damaged[whose])
    all_ends = entries.positions + entries.steps
    crashes = [found.crashes.get(number, ()) for number in numbers.tolist()]
    for turn in range(max(map(len, crashes), default=0)):  # what a crash took is not there again
        own_turn = [ended[turn] if turn < len(ended) else (-1, _NEVER) for ended in crashes]
        until, kept = np.array(own_turn, np.int64).T
        needs &= (places > until[whose]) | (all_ends <= kept[whose])
    needed = np.flatnonzero(needs)
    order = needed[np.argsort(whose[needed], kind="stable")]
    whose, entries = whose[order], entries.take(order)
    groups = np.repeat(np.array(found.groups[model], np.int64), lengths)[order]
    # In what is left each entry begins where the one before it ended.
    ends = entries.positions + entries.steps
    first_steps = np.cumsum(entries.steps) - entries.steps
    starts = np.flatnonzero(np.diff(whose, prepend=-1))
    begins = np.concatenate([[0], ends[:-1]])[: len(ends)]
    begins[starts] = seeds[whose[starts]]
    gaps = np.flatnonzero(entries.positions != begins)
    stops = [*starts[1:].tolist(), len(ends)]
    first_gaps = [*gaps.tolist(), len(ends)]
    for which, start, end, gap in zip(
        whose[starts].tolist(),
        starts.tolist(),
        stops,
        np.searchsorted(gaps, starts).tolist(),
        strict=False,
    ):
        session = own[which]
        assert session is not None, "entries of others were left out"
        stop = min(end, first_gaps[gap])
        if stop < end:
            _lose(session, Damage(place=0, group=int(groups[stop])))
        if start < stop:
            session.position = int(ends[stop - 1])
            first = int(groups[start])
            session.first_group = min(session.first_group or first, first)
            session.last_group = int(groups[stop - 1])
            session.tail = Tail(
                entries=entries,
                groups=groups,
                start=start,
                stop=stop,
                first_step=int(first_steps[start]),
            )
