"""What is told of a session."""

from dataclasses import dataclass

from service.engine.sessions.table.status import SessionStatus, SessionTier


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as a client sees it; times are seconds since the epoch."""

    id: str
    model: str
    version: int
    status: SessionStatus
    branch: int
    position: int
    opened_s: float
    last_used_s: float
    idle_timeout_s: float
    ephemeral: bool
    tier: SessionTier
    owner: str
    history_position: int | None = None
    """The earliest position that it can be put back to; ``None``: it keeps no history."""
