"""What a store says of the sessions in it is what they have done."""

from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.log.groups.entries import Entry, steps_section
from service.engine.log.groups.events import Closed, Event, Opened, Reset, events_sections
from service.engine.log.groups.session_row import SessionRow
from service.engine.log.keys import SESSION, key
from service.engine.log.recovery.reading import read_store
from service.engine.log.recovery.stored import StoredSession
from service.store.records import Section, pack
from tests.service.store.fake import FakeStore

MODELS = ("a/1", "b/1")
DOINGS = st.sampled_from(["steps"] * 6 + ["open", "close", "reset", "group"])


@dataclass
class Plain:
    """A session, kept the plain way."""

    row: SessionRow
    read: list[tuple[int, int, int]] = field(default_factory=list)  # position, token, group
    ends: list[int] = field(default_factory=lambda: [0])  # where its entries end


def opened(number: int, model: str) -> SessionRow:
    return SessionRow(
        number=number,
        id=f"id-{number}",
        model=model.partition("/")[0],
        version=1,
        fingerprint="f",
        branch=1,
        opened_s=1.0,
        idle_timeout_s=1.0,
    )


def tail(session: StoredSession) -> tuple[list[int], list[int]]:
    """Positions of all steps that are to be read again, and their tokens."""
    if session.tail is None:
        return [], []
    found = session.tail.read()
    assert set(found.sessions.tolist()) == {session.row.number}
    pairs = zip(found.positions.tolist(), found.steps.tolist(), strict=True)
    positions = [at + step for at, steps in pairs for step in range(steps)]
    return positions, found.inputs.tolist()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_tails_are_what_was_read_since_the_checkpoints(data: st.DataObject) -> None:
    store, live = FakeStore(), dict[int, Plain]()
    group, next_number, token = 1, 1, 0
    sections: list[Section] = []
    for doing in data.draw(st.lists(DOINGS, max_size=40)):
        number = data.draw(st.sampled_from(sorted(live))) if live else 0
        events: list[Event] = []
        if doing == "group" and sections:
            store.append(group, pack(sections))
            group, sections = group + 1, []
        elif doing == "open" or not live:
            row = opened(next_number, data.draw(st.sampled_from(MODELS)))
            live[next_number] = Plain(row)
            next_number += 1
            events.append(Opened(row=row))
        elif doing == "close":
            del live[number]
            events.append(Closed(number=number))
        elif doing == "reset":
            own = live[number]
            own.row, own.read, own.ends = replace(own.row, branch=own.row.branch + 1), [], [0]
            events.append(Reset(number=number, branch=own.row.branch))
        elif doing == "steps":  # of all sessions of one model, in one entry
            model, count = f"{live[number].row.model}/1", data.draw(st.integers(1, 3))
            whose = [own for own in live.values() if f"{own.row.model}/1" == model]
            at = [own.ends[-1] for own in whose]
            tokens = np.arange(token, token + count * len(whose)) % 200
            for which, own in enumerate(whose):
                for step in range(count):
                    read = at[which] + step, int(tokens[which * count + step]), group
                    own.read.append(read)
                own.ends.append(at[which] + count)
            token += len(tokens)
            numbers = np.array([own.row.number for own in whose])
            entry = Entry(model, numbers, np.array(at), count, 0, tokens)
            sections.append(steps_section(model, [entry]))
        if events:
            sections += events_sections(events)
    if sections:
        store.append(group, pack(sections))
    # The table knows of all that, and of checkpoints that lie between two entries.
    applied = {}
    for own in live.values():
        own.row = replace(own.row, seed=data.draw(st.sampled_from(own.ends)))
        applied[key(SESSION, own.row.number)] = pack([own.row.pack()])
    meta = Section("applied", {"group": group, "next_number": next_number}, {})
    store.write({**applied, b"mapplied": pack([meta])})

    stored = read_store(store)
    assert stored.next_number == next_number
    assert sorted(stored.sessions) == sorted(live)
    for number, own in live.items():
        session = stored.sessions[number]
        left = [each for each in own.read if each[0] >= own.row.seed]
        assert not session.is_damaged
        assert tail(session) == ([at for at, _, _ in left], [step for _, step, _ in left])
        assert session.position == (left[-1][0] + 1 if left else own.row.seed)
        assert session.first_group == (left[0][2] if left else 0)
        if session.tail is not None:  # a later checkpoint
            later = session.tail.read().positions.tolist()[-1]
            session.move_on(later)
            left = [each for each in left if each[0] >= later]
            assert tail(session) == ([at for at, _, _ in left], [step for _, step, _ in left])


def test_what_is_missing_in_between_is_damage() -> None:
    store = FakeStore()
    for group, (number, position) in enumerate([(1, 0), (2, 0), (1, 2), (2, 1)], start=1):
        entry = Entry("a/1", np.array([number]), np.array([position]), 1, 0, np.array([7]))
        store.append(group, pack([steps_section("a/1", [entry])]))
    rows = {key(SESSION, number): pack([opened(number, "a/1").pack()]) for number in (1, 2, 3)}
    store.write(rows)
    found = read_store(store).sessions
    assert [found[number].position for number in (1, 2, 3)] == [1, 2, 0]
    assert [found[number].is_damaged for number in (1, 2, 3)] == [True, False, False]
    assert [found[number].first_group for number in (1, 2, 3)] == [1, 2, 0]
