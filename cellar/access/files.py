"""Files that an argument names: read, or refused with the argument's name and the file's."""

from __future__ import annotations

import os
from pathlib import Path

from cellar.errors import BadInputError
from cellar.values.arguments import unusable

_MOST_BYTES = 2**20


def path_of(field: str, value: object) -> str:
    """The path that an argument is.

    Raises:
        BadInputError: it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise unusable(field, f"give the path of a file, not {type(value).__name__}")
    path = os.fsdecode(os.fspath(value))
    if not path.isprintable() or "-----BEGIN" in path:  # which is not shown: it may be a key
        raise unusable(field, "give the path of a file, not what is in it")
    if not path:
        raise unusable(field, "the path of the file is empty")
    return path


def read(field: str, path: str) -> bytes:
    """What is in a file.

    Raises:
        BadInputError: it cannot be read, or is far too large.
    """
    try:
        is_file = Path(path).is_file()  # a pipe or a terminal would be waited for
        data = Path(path).read_bytes() if is_file and os.stat(path).st_size <= _MOST_BYTES else None
    except OSError as error:
        raise refused(field, path, f"it cannot be read: {error.strerror}") from None
    if not is_file:
        raise refused(field, path, "there is no such file")
    if data is None:
        raise refused(field, path, f"it is larger than {_MOST_BYTES} bytes")
    return data


def refused(field: str, path: str, message: str) -> BadInputError:
    """What is wrong with a file."""
    return unusable(field, f"{path}: {message}")
