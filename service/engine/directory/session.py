"""A session as callers name it, and where it lives."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from service.engine.log.groups.session_row import SessionRow
from service.engine.served.registry import ServedModel
from service.engine.shard.shard import Shard

Key = tuple[str, str]
"""A session's owner and id."""


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One client-visible sequence in progress, and where it lives.

    Attributes:
        id: unique among its owner's.
        owner: the principal that has opened it.
    """

    id: str
    owner: str
    served: ServedModel
    shard: Shard
    slot: int
    arrived: str = ""
    """What its move is known by that has led here, see `Arrivals`."""
    moving: asyncio.Lock | None = None
    """Is had by whoever moves it on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opening:
    """A session that is about to be open: it has an id and a slot, and nobody finds it."""

    session: Session
    idle_timeout_s: float
    ephemeral: bool
    keeps: int  # of what it reads, in steps, see `Chronicle`

    def row(self, *, has_initial: bool) -> SessionRow:
        """What the catalogue is to say of it."""
        session = self.session
        served, table, slot = session.served, session.shard.table, session.slot
        assert session.shard.log is not None, "there is a catalogue"
        return SessionRow(
            number=session.shard.log.log.catalogue.new_number(),
            id=session.id,
            model=served.name,
            version=served.version,
            fingerprint=served.fingerprint,
            branch=int(table.branch[slot]),
            opened_s=float(table.opened_s[slot]),
            idle_timeout_s=self.idle_timeout_s,
            ephemeral=self.ephemeral,
            owner=session.owner,
            has_initial=has_initial,
            history_steps=self.keeps,
            left=int(table.left[slot]),
            arrived=session.arrived,
        )


NO_SESSIONS: Mapping[str, Session] = {}
