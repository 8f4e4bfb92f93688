"""Whether folders and disks take what a run writes: asked beforehand, and said in one line after.

Knows nothing of training.
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from models.errors import ModelError
from training.errors import ConfigError, StorageError

FreeBytes: TypeAlias = Callable[[Path], int]
"""How many bytes the disk of a folder still takes."""

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "no file may be so large here",
}
_MEGABYTE = 1_000_000


def free_bytes(folder: Path) -> int:
    """What the disk of a folder that exists has free."""
    return shutil.disk_usage(folder).free


def check_folder(path: Path, *, what: str, remedy: str) -> Path:
    """See that a folder can be made, or written to where it exists; leaves nothing behind.

    Returns the folder itself or, where it is still to be made, the nearest one above it.

    Args:
        path: the folder.
        what: the setting that names it.
        remedy: what to do where it cannot be used.

    Raises:
        ConfigError: it cannot; the message names the place, the reason and the remedy.
    """
    place = _nearest(path, what, remedy)
    try:
        handle, probe = tempfile.mkstemp(prefix=".probe-", dir=place)
    except OSError as error:
        raise ConfigError(
            f"{what}: nothing can be written to {place}: {reason_of(error)}; {remedy}"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(handle)
    except OSError as error:
        raise ConfigError(
            f"{what}: nothing can be written to {place}: {reason_of(error)}; free some space, or "
            f"{remedy}"
        ) from error
    finally:
        Path(probe).unlink(missing_ok=True)
    return place


def check_room(needs: Mapping[Path, int], *, free: FreeBytes = free_bytes) -> None:
    """See that the disks have room for so many bytes in each folder, which all exist.

    Raises:
        ConfigError: one has not.
    """
    by_disk: dict[int, list[Path]] = {}
    for folder in needs:
        by_disk.setdefault(folder.stat().st_dev, []).append(folder)
    for folders in by_disk.values():
        needed, there = sum(needs[folder] for folder in folders), free(folders[0])
        if there < needed:
            raise ConfigError(
                f"the disk of {' and '.join(map(str, folders))} has {_size(there)} free, and a run "
                f"of this network writes some {_size(needed)}: free some space, or name another "
                "disk's folders with --runs and --models"
            )


@contextmanager
def storing(remedy: str, *, where: Path | None = None) -> Iterator[None]:
    """Turn what the file system refuses into one line; ``remedy`` says how to go on afterwards.

    ``where`` stands for the file where its own name would say little.

    Raises:
        StorageError: a file cannot be written or read.
    """
    try:
        yield
    except OSError as error:
        named = where or error.filename2 or error.filename
        place = "" if named is None else f"{os.fsdecode(named)}: "
        first = "free some space" if error.errno in _FULL else "mend that"
        raise StorageError(f"{place}{reason_of(error)}; {first}, then {remedy}") from error
    except ModelError as error:
        raise StorageError(f"{error}; then {remedy}") from error


def reason_of(error: OSError) -> str:
    """Why, in a few words."""
    known = None if error.errno is None else _FULL.get(error.errno)
    return known or error.strerror or str(error) or type(error).__name__


def _nearest(path: Path, what: str, remedy: str) -> Path:
    """The folder, or the nearest one above it that exists."""
    for place in (path, *path.parents, *Path.cwd().parents):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                raise ConfigError(f"{what}: {place} is a link to nowhere; {remedy}") from None
            continue
        except OSError as error:
            raise ConfigError(
                f"{what}: {place} cannot be used: {reason_of(error)}; {remedy}"
            ) from error
        if not stat.S_ISDIR(mode):
            raise ConfigError(f"{what}: {place} is a file, not a folder; {remedy}")
        return place
    raise ConfigError(f"{what}: there is no folder above {path}; {remedy}")


def _size(count: int) -> str:
    if count >= 1000 * _MEGABYTE:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB"
