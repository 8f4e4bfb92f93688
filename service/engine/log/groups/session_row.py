"""What the catalogue says of a session, and how that changes with what happens to it."""

from dataclasses import dataclass, replace
from typing import Any

from service.engine.log.checking import check_facts
from service.engine.sessions.moving import Moving
from service.store.records import Section

# Of a session that came back from so many crashes: who knows an older one is lost.
_PAST_BRANCHES = 8
_STAYS = Moving(number=0, move_to="")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """What the catalogue says of a session."""

    number: int
    id: str
    model: str
    version: int
    fingerprint: str
    branch: int
    opened_s: float
    idle_timeout_s: float
    idle_s: float = 0.0
    """How long it has been idle, of the time that it was served."""
    seed: int = 0
    """The position of its checkpoint; 0: it has none on this branch."""
    seed_branch: int = 0
    """The branch that its checkpoint was written on; 0: its own."""
    past: tuple[tuple[int, int], ...] = ()
    """Branches that crashes have ended, the last one last, and how many steps of each were kept."""
    seed_group: int = 0
    """What it read in groups up to this one, its checkpoint has; 0: nobody knows."""
    left: int = 0
    """The branch that it has gone back from, see `SessionTable.go_back`; 0: none."""
    ephemeral: bool = False
    """See `EphemeralSessions`."""
    owner: str = ""
    """The principal that has opened it."""
    has_initial: bool = False
    """It was opened with a state of its own, see `Began`."""
    history_steps: int = 0
    """So many of its steps are kept at least, see `Chronicle`."""
    move_to: str = ""
    """It moves to another server, or has moved, see `Moving`."""
    move_secret: str = ""
    """The same."""
    frozen_s: float = 0.0
    """The same."""
    released: bool = False
    """The same."""
    arrived: str = ""
    """It came from another server: what its move is known by, see `Moving.transfer`."""

    @property
    def moving(self) -> "Moving | None":
        """How it moves, if it does."""
        if not self.move_to:
            return None
        return Moving(
            number=self.number,
            move_to=self.move_to,
            secret=self.move_secret,
            frozen_s=self.frozen_s,
            released=self.released,
        )

    def pack(self) -> Section:
        """For the table."""
        return Section("session", facts_of(self), {})

    @classmethod
    def unpack(cls, section: Section) -> "SessionRow":
        """What `pack` made."""
        return row_of(dict(section.meta))


def after_reset(row: SessionRow, branch: int) -> SessionRow:
    """The session, back at position 0."""
    return replace(
        row,
        branch=branch,
        seed=0,
        seed_group=0,
        seed_branch=0,
        past=(),
        left=0,
        move_to="",
        move_secret="",
        frozen_s=0.0,
        released=False,
    )


def after_moving(row: SessionRow, event: Moving) -> SessionRow:
    """The session, as it moves to another server then."""
    return replace(
        row,
        move_to=event.move_to,
        move_secret=event.secret,
        frozen_s=event.frozen_s,
        released=event.released,
    )


def as_moving(row: SessionRow, latest: SessionRow) -> SessionRow:
    """A session, that was looked at before, as it moves by now."""
    return row if row.moving == latest.moving else after_moving(row, latest.moving or _STAYS)


def after_crash(row: SessionRow, branch: int, position: int) -> SessionRow:
    """The session, on a branch that begins with so many steps of its former one."""
    return replace(
        row,
        branch=branch,
        seed_branch=(row.seed_branch or row.branch) if row.seed else 0,
        past=(*row.past, (row.branch, position))[-_PAST_BRANCHES:],
        left=0,
    )


def with_seed(row: SessionRow, position: int, group: int, idle_s: float) -> SessionRow:
    """The session with a checkpoint at a position, which has all of the groups up to one."""
    return replace(row, seed=position, seed_group=group, seed_branch=0, idle_s=idle_s)


def facts_of(row: SessionRow) -> dict[str, Any]:
    """For a store; what no crash and no way back has touched says nothing of these.

    Nor does a session that is not ephemeral, or that nobody was asked about.
    """
    # `asdict` takes nine times as long, and there may be 100,000 at a stop.
    facts = {name: getattr(row, name) for name in row.__slots__}
    for name in (
        "seed_branch", "past", "left", "ephemeral", "owner", "has_initial", "history_steps",
        "move_to", "move_secret", "frozen_s", "released", "arrived",
    ):  # fmt: skip
        if not facts[name]:
            del facts[name]
    return facts


def row_of(facts: dict[str, Any]) -> SessionRow:
    """What `facts_of` told of."""
    if "past" in facts:
        facts["past"] = tuple((int(branch), int(steps)) for branch, steps in facts["past"])
    row = SessionRow(**facts)
    check_facts(row)
    assert row.moving is None or row.moving.move_to, "it makes sense"
    return row
