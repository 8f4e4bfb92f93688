"""Read what people give: a file of text, packed or not, in the encoding they name."""

import gzip
import io
import re
import zlib
from pathlib import Path

from training.data.encodings import known_encoding, likely_encodings, wide_encoding
from training.errors import DataError

SURELY_UTF8 = 4
"""So many characters beyond ASCII are valid UTF-8 by accident in no other encoding's text."""
LARGEST_UNPACKED = 2 << 30
"""Bytes that a packed file may unpack to: it is read into memory."""
_SURELY_HARMLESS = 64 << 20
_MOST_TIMES = 250
_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_BEYOND_ASCII = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")


def read_text(path: Path, encoding: str | None = None) -> str:
    """The whole of a text file, unpacked if it is packed with gzip, without its byte order mark.

    Raises:
        DataError: it is missing, cannot be read, or is not UTF-8 or what ``encoding`` says.
    """
    return decode(unpacked(read_bytes(path), path), path, encoding)


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


def unpacked(data: bytes, path: Path) -> bytes:
    """The bytes that gzip packed; others as they are.

    Raises:
        DataError: they are broken.
    """
    if not data.startswith(_GZIP):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            most = most_unpacked(len(data))
            found = packed.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: broken gzip file: {error}; fetch it again") from error
    if len(found) > most:
        raise DataError(too_much(path, most))
    return found


def most_unpacked(packed: int) -> int:
    """Bytes that a packed file of so many may unpack to: text shrinks to a tenth, not to nothing.

    What unpacks to more was made to fill somebody's memory, or is of one letter.
    """
    return min(LARGEST_UNPACKED, max(_SURELY_HARMLESS, _MOST_TIMES * packed))


def too_much(path: Path, most: int) -> str:
    """What to say of a file that unpacks to more."""
    return (
        f"{path}: unpacks to more than {most:,} bytes, the most for a file of its size and at all "
        f"{LARGEST_UNPACKED:,}; unpack it, and take a part"
    )


def decode(data: bytes, path: Path, encoding: str | None = None) -> str:
    """The text of a file's bytes, without its byte order mark; ``path`` names it in errors.

    It is UTF-8 unless ``encoding`` says otherwise: a guess could be wrong by a few letters, which
    nobody would notice. Where ``encoding`` cannot be right either, it is refused.

    Raises:
        DataError: it is not in that encoding; the message names the likely one.
    """
    name = "utf-8" if encoding is None else known_encoding(encoding)
    if data.startswith(_ZIP):
        raise DataError(
            f"{path}: a ZIP file, or a workbook; save a workbook as CSV, and give a ZIP file of "
            "texts with a name that ends in .zip"
        )
    if name == "utf-8" and (wide := wide_encoding(data)) is not None:
        raise DataError(f"{path}: not UTF-8: every other byte is 0; give --encoding {wide}")
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        place = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        called = "UTF-8" if name == "utf-8" else name
        raise DataError(f"{path}: not {called}: {place}; {_advice(data, path, name)}") from error
    except UnicodeError as error:  # of UTF-16 and 32: no mark, or half a character
        raise DataError(f"{path}: not {name}: {error}; {_advice(data, path, name)}") from error
    if not name.startswith("utf"):
        _check_not_utf8(data, text, path, name)
    if name == "iso8859-1" and (found := re.search("[\x80-\x9f]", text)) is not None:
        raise DataError(
            f"{path}: byte 0x{ord(found[0]):02x} at offset {found.start()} is no letter in {name}; "
            "cp1252 has one there: give --encoding cp1252"
        )
    return text.removeprefix("\ufeff")


def _advice(data: bytes, path: Path, tried: str) -> str:
    if tried != "utf-8" and _is_utf8(data):
        return "it is UTF-8: leave out --encoding"
    guesses = [guess for guess in likely_encodings(data) if guess.encoding != tried]
    if not guesses:
        return f"save the file as UTF-8 (`file '{path.name}'` may tell what it is now)"
    first, *others = guesses
    if not first.reads:
        return f"it is {first.encoding}: give --encoding {first.encoding}"
    also = "".join(f", {other.encoding} '{other.reads}'" for other in others)
    return (
        f"it looks like {first.encoding}, in which it says '{first.reads}'"
        f"{f' (less likely: {also[2:]})' if also else ''}; if that reads right, give "
        f"--encoding {first.encoding}, or save the file as UTF-8"
    )


def _check_not_utf8(data: bytes, text: str, path: Path, name: str) -> None:
    """Refuse UTF-8 that was read as something else: nearly any bytes are text in one-byte ones.

    Raises:
        DataError: it is UTF-8.
    """
    if data.isascii() or not _is_utf8(data):
        return
    if len(_BEYOND_ASCII.findall(data)) >= SURELY_UTF8:
        found = _BEYOND_ASCII.search(data)
        assert found is not None, "it was just found"
        right, wrong = found[0].decode(), found[0].decode(name, errors="replace")
        if right not in text:
            raise DataError(
                f"{path}: it is UTF-8, and --encoding {name} makes '{wrong}' of '{right}'; "
                "leave it out"
            )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
