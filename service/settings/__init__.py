"""Every setting and every limit, and how they are read: flags, environment (``CELLAR_*``), file."""

from service.settings.fields import (
    MOST_SESSIONS,
    STOCK_MESSAGE_BYTES,
    ZOO,
    Durability,
    EngineSettings,
    Settings,
)
from service.settings.reading import Reading, read, read_settings

__all__ = [
    "MOST_SESSIONS",
    "STOCK_MESSAGE_BYTES",
    "ZOO",
    "Durability",
    "EngineSettings",
    "Reading",
    "Settings",
    "read",
    "read_settings",
]
