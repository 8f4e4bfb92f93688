"""What becomes of a closing that fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from cellar.errors import CellarError

_log = logging.getLogger("cellar")


@contextmanager
def not_hiding(what: str) -> Iterator[None]:
    """Logs a failure to close, where to raise it would hide the result of a block, or its error."""
    try:
        yield
    except CellarError as error:
        _log.info("%s could not be closed, and stays until it is idle: %s", what, error)
