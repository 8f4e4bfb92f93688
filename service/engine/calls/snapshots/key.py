"""The key that snapshots are signed with: a file, read again when it changes."""

from pathlib import Path

import structlog

from service.watched import Mark, is_open_to_all, mark_of

LEAST_BYTES, MOST_BYTES = 32, 4096
_log = structlog.get_logger(__name__)


class SnapshotKeyError(Exception):
    """The file of the key cannot be used; the message says why, and names it."""


def read_key(path: Path) -> bytes:
    """The key in a file: what is in it, without line ends behind it.

    Raises:
        SnapshotKeyError: it cannot be read, everybody may read it, or it is too short or too long.
    """
    if is_open_to_all(path):
        raise SnapshotKeyError(f"everybody on this machine may read {path}: chmod o= {path}")
    try:
        with path.open("rb") as file:
            key = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SnapshotKeyError(f"{path} cannot be read: {error.strerror}") from error
    if len(key) > MOST_BYTES:
        raise SnapshotKeyError(f"{path} has more than {MOST_BYTES:,} bytes: it is no key")
    key = key.rstrip(b"\r\n")
    if len(key) < LEAST_BYTES:
        raise SnapshotKeyError(
            f"{path} has {len(key)} bytes, and a key at least {LEAST_BYTES}: make one with "
            f"openssl rand -hex 32 > {path}"
        )
    return key


class SnapshotKey:
    """The key in a file, as it is now.

    Raises:
        SnapshotKeyError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: Mark | None = mark_of(path)
        self._key = read_key(path)

    def now(self) -> bytes:
        """The key. Where the file has become unusable, the one before it, which is logged."""
        mark = mark_of(self._path)
        if mark != self._mark:
            self._mark = mark
            try:
                self._key = read_key(self._path)
            except SnapshotKeyError as error:
                _log.error("snapshot key not taken", reason=str(error))
            else:
                _log.info("snapshot key read again")
        return self._key
