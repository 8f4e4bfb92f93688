"""Sessions as a store holds them: what the catalogue says of each, and what it has read since."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from service.engine.log.groups.entries import Steps
from service.engine.log.groups.events import Began
from service.engine.log.groups.session_row import SessionRow
from service.engine.log.seeds import Seed
from service.engine.work.columns import Floats, Ints


@dataclass(slots=True, kw_only=True)
class Tail:
    """What a session has read since its checkpoint, among the entries of its model."""

    entries: Steps  # session after session, those of each in order
    groups: Ints  # (entries,) in which each is
    start: int
    stop: int
    first_step: int  # where its inputs begin

    @property
    def own_groups(self) -> Ints:
        """In which group each of the session's is, (entries of the session,)."""
        return self.groups[self.start : self.stop]

    def read(self) -> Steps:
        """The session's own."""
        return self.entries.part(self.start, self.stop, first_step=self.first_step)

    def since(self, position: int) -> "Tail | None":
        """What was read from a position on."""
        own = self.entries.positions[self.start : self.stop]
        start = self.start + int(np.searchsorted(own, position))
        if start == self.stop:
            return None
        before = int(self.entries.steps[self.start : start].sum())
        return replace(self, start=start, first_step=self.first_step + before)


@dataclass(slots=True, kw_only=True)
class StoredSession:
    """A session in the store.

    Attributes:
        row: what the catalogue says of it.
        position: where it stands; what it has read is whole up to there.
        first_group: where its tail begins, or its seed is, or what is lost of it; 0 where it has
            none of these.
        last_group: where its tail ends; 0 where it has none.
        tail: what it has read since its checkpoint.
        seed: where it has no checkpoint on its branch, what the journal has instead, if it was
            moved there.
        initial: what it was opened with, if that was a state of its own.
        is_damaged: some of what it had read is lost; it stands where it was before.
        is_stowed: it is here but for its state: the table says where it stands, and its last reply.
        is_aside: to read its tail has ended the process; it is not read any more.
        history: the parts of its history as they are in the table, by where they begin.
        history_begins: those that begin before are of branches that it has left.
    """

    row: SessionRow
    position: int = 0
    first_group: int = 0
    last_group: int = 0
    tail: Tail | None = None
    seed: Seed | None = None
    initial: Sequence[Floats] | None = None
    is_damaged: bool = False
    is_stowed: bool = False
    is_aside: bool = False
    history: dict[int, bytes] = field(default_factory=dict)
    history_begins: int = 0

    @property
    def begins(self) -> int:
        """Where its tail begins: the position of its checkpoint, or of its seed in the journal."""
        return self.row.seed if self.seed is None else self.seed.position

    @property
    def tail_steps(self) -> int:
        """Steps since its checkpoint."""
        return self.position - self.begins

    def move_on(self, seed: int) -> None:
        """It has a later checkpoint by now: only what was read since then is its tail."""
        self.row, self.seed = replace(self.row, seed=seed), None
        if self.tail is not None:
            self.tail = self.tail.since(seed)


@dataclass(slots=True, kw_only=True)
class Stored:
    """All that a store holds.

    Attributes:
        sessions: by number.
        last_group: the number of the last group; 0 where there was none.
        applied: the group up to which the catalogue is in the table.
        changes: of the catalogue, since then.
        began: what sessions were opened with, by number, since then.
        next_number: of a session that is opened.
        damaged_groups: groups of the journal of which something cannot be read.
        histories: by number, also of sessions that have ended, where the parts of its history begin
            that are in the table.
    """

    sessions: dict[int, StoredSession] = field(default_factory=dict)
    last_group: int = 0
    applied: int = 0
    changes: dict[int, SessionRow | None] = field(default_factory=dict)
    began: dict[int, Began] = field(default_factory=dict)
    next_number: int = 1
    damaged_groups: int = 0
    histories: dict[int, set[int]] = field(default_factory=dict)
