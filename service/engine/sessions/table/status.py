"""Where a session is: in its life, and its state."""

from enum import Enum, StrEnum


class SessionStatus(Enum):
    """Where a session is in its life."""

    OPEN = "open"
    MOVING = "moving"
    LOST = "lost"
    MODEL_CHANGED = "model changed"


class SessionTier(StrEnum):
    """Where a session's state is."""

    DEVICE = "device"
    HOST = "host"
    STORE = "store"
