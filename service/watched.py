"""Files that the server reads again: whether one is another by now, and who may read it."""

import os
import stat
from contextlib import suppress
from pathlib import Path

Mark = tuple[int, int, int, int, int]


def mark_of(path: Path) -> Mark | None:
    """Tells a file from what it was before, or was put in its place; ``None``: there is none.

    Links are followed, so that Kubernetes' secrets are seen to change.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def is_open_to_all(path: Path) -> bool:
    """Whether everybody on this machine may read a file, where that can be told."""
    with suppress(OSError):
        return os.name == "posix" and bool(path.stat().st_mode & stat.S_IROTH)
    return False
