"""Read what people give: a file of text."""

import codecs
import shlex
from pathlib import Path

from training.errors import DataError

GUESSED_BYTES = 100_000
"""As much of a file is looked at to guess what it is."""
_WINDOWS_MARKS = frozenset(b"\x80\x85\x91\x92\x93\x94\x96\x97\xa0\xa3\xa9\xab\xb0\xbb")
"""What Western text has beyond ASCII and letters: quotes, dashes, currencies."""


def read_text(path: Path) -> str:
    """The whole of a UTF-8 file, without its byte order mark.

    Raises:
        DataError: it is missing, cannot be read, or is not UTF-8.
    """
    return decode(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """The whole of a file.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def decode(data: bytes, path: Path) -> str:
    """The text of a UTF-8 file's bytes, without its byte order mark; ``path`` names it in errors.

    Raises:
        DataError: it is not UTF-8.
    """
    if (wide := _wide_encoding(data)) is not None:
        raise DataError(f"{path}: not UTF-8: every other byte is 0; {_advice(wide, path)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; "
            f"{_advice(_encoding(data), path)}"
        ) from error


def _advice(encoding: str | None, path: Path) -> str:
    if encoding is None:
        return f"save the file as UTF-8 (`file {shlex.quote(path.name)}` may tell what it is now)"
    name, new_name = shlex.quote(path.name), shlex.quote(f"utf8-{path.name}")
    return (
        f"save the file as UTF-8 (it looks like {encoding}; this converts it: "
        f"iconv -f {encoding} -t UTF-8 {name} > {new_name})"
    )


def _wide_encoding(data: bytes) -> str | None:
    """The encoding of ASCII in two bytes each, without a mark: as UTF-8 it is full of NUL."""
    head = data[:GUESSED_BYTES]
    if len(head) < 8 or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None
    for first, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if head[first::2].count(0) > 0.8 * (len(head) // 2):
            return encoding
    return None


def _encoding(data: bytes) -> str | None:
    """The encoding of text that is not UTF-8, where it is plain to see."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    head = data[:GUESSED_BYTES]
    foreign = [byte for byte in head if byte >= 0x80]
    western = all(byte >= 0xC0 or byte in _WINDOWS_MARKS for byte in foreign)
    if b"\0" not in head and western and 0 < len(foreign) <= 0.1 * len(head):
        return "WINDOWS-1252"
    return None
