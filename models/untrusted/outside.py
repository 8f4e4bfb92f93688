"""Weights that a model keeps in other files: they lie in its own folder, or are not read.

Nothing is opened here; who reads the files has to do it right after.
"""

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from models.errors import ModelError

_MOST_ENTRIES = 16
"""Of what a tensor says of its place; four are known."""


def external_bytes(tensor: onnx.TensorProto, folder: Path, *, where: str) -> int:
    """Bytes of a tensor that lies in another file; its place is checked.

    Args:
        tensor: a constant whose data is elsewhere.
        folder: the model's.
        where: names the model in the error.

    Raises:
        ModelError: the file is not in the folder, is none, or is too short; the message names
            tensor and path.
    """
    subject = f"{where}: tensor '{tensor.name}'"
    if len(tensor.external_data) > _MOST_ENTRIES:
        raise ModelError(f"{subject}: its external data has more than {_MOST_ENTRIES} entries")
    told = {entry.key: entry.value for entry in tensor.external_data}
    if len(told) != len(tensor.external_data):
        raise ModelError(f"{subject}: its external data has an entry twice")
    location = told.get("location", "")
    size = _size_of(location, folder, subject)
    offset, length = (_number(told, key, subject) for key in ("offset", "length"))
    begin = offset or 0
    end = size if length is None else begin + length
    if not begin <= end <= size:
        raise ModelError(
            f"{subject} keeps its data in '{location}' up to byte {end}, and that has {size}: "
            "copy the file anew, or export the model again"
        )
    return end - begin


def _size_of(location: str, folder: Path, subject: str) -> int:
    """Bytes of the file at a place; no link on the way leads out of the folder."""
    kept = f"{subject} keeps its data in '{location}', and it must be in the model's folder"
    windows = PureWindowsPath(location)
    if not location or "\0" in location or windows.drive or windows.root:
        raise ModelError(f"{kept}: export the model anew, with a relative path")
    if ".." in PurePosixPath(location).parts or ".." in windows.parts:
        raise ModelError(f"{kept}: export the model anew, with a path without '..'")
    try:
        base = folder.resolve(strict=True)
        path = (folder / location).resolve(strict=True)
        if not path.is_relative_to(base):
            raise ModelError(f"{kept}: a link leads out of it; copy the file itself there")
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        raise ModelError(
            f"{subject} keeps its data in '{location}', which cannot be read: there is no such "
            "file: copy it beside the model"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(
            f"{subject} keeps its data in '{location}', which cannot be read: {reason}"
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{kept}: that is no regular file")
    return found.st_size


def _number(told: dict[str, str], key: str, subject: str) -> int | None:
    text = told.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ModelError(f"{subject}: the {key} of its external data is no number of bytes")
    return int(text)
