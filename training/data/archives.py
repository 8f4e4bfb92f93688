"""The files of a folder or an archive, by their path in it. Nothing is unpacked to the disk."""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from training.data.files import read_bytes
from training.errors import DataError

TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ZIP = (".zip",)
LARGEST_ARCHIVE = 2 << 30
"""Bytes that an archive may unpack to: it is read into memory."""
_UTF8_NAME = 0x800
_ENCRYPTED = 0x1
_OF_SYSTEMS = ("__MACOSX", "Thumbs.db", "desktop.ini")

Parts = tuple[str, ...]
Files = Mapping[Parts, bytes]
"""Contents by path: of a folder in the order of the paths, of an archive in its own."""


def is_archive(path: Path) -> bool:
    """Whether a name is that of a ZIP or a tar archive."""
    return path.name.lower().endswith(TAR + ZIP)


def read_files(path: Path, encoding: str | None = None) -> Files:
    """All files of a folder or an archive but hidden ones; links are not followed in archives.

    ``encoding`` is that of names in an archive which are not UTF-8.

    Raises:
        DataError: it is missing, broken, too large, or names in it are in an unknown encoding.
    """
    found = dict(_of_folder(path) if path.is_dir() else _of_archive(path, encoding))
    return {_readable(path, parts, encoding): data for parts, data in found.items()}


def _of_folder(path: Path) -> Iterator[tuple[Parts, bytes]]:
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        if _visible(parts) and file.is_file():
            yield parts, read_bytes(file)


def _of_archive(path: Path, encoding: str | None) -> Iterator[tuple[Parts, bytes]]:
    try:
        if path.name.lower().endswith(ZIP):
            yield from _of_zip(path, encoding)
        else:
            yield from _of_tar(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable archive: {error}; unpack it yourself") from error
    except (NotImplementedError, RuntimeError) as error:  # zipfile: packed in a rare way, or secret
        raise DataError(f"{path}: cannot be unpacked: {error}; unpack it yourself") from error


def _of_tar(path: Path) -> Iterator[tuple[Parts, bytes]]:
    total = 0
    with tarfile.open(path) as archive:
        for member in archive:
            parts = _parts(member.name)
            if not member.isreg() or not _visible(parts):
                continue
            total = _within_limit(path, total + member.size)
            file = archive.extractfile(member)
            yield parts, b"" if file is None else file.read()


def _of_zip(path: Path, encoding: str | None) -> Iterator[tuple[Parts, bytes]]:
    total = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            parts = _parts(_zip_name(path, member, encoding))
            if member.is_dir() or stat.S_ISLNK(member.external_attr >> 16) or not _visible(parts):
                continue
            if member.flag_bits & _ENCRYPTED:
                raise DataError(f"{path}: it is encrypted; unpack it yourself")
            total = _within_limit(path, total + member.file_size)
            yield parts, archive.read(member)


def _zip_name(path: Path, member: zipfile.ZipInfo, encoding: str | None) -> str:
    """The name as whoever packed it saw it; where nothing tells, it may be in any encoding.

    Raises:
        DataError: it is neither UTF-8 nor in the given encoding.
    """
    if member.flag_bits & _UTF8_NAME or member.filename.isascii():
        return member.filename
    raw = member.filename.encode("cp437")  # what zipfile takes names for that are not marked
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return _in_encoding(path, raw, encoding)


def _readable(path: Path, parts: Parts, encoding: str | None) -> Parts:
    """A path whose names are text: the system's own way to keep other bytes cannot be written.

    Raises:
        DataError: a name is neither UTF-8 nor in the given encoding.
    """
    try:
        "".join(parts).encode()
    except UnicodeEncodeError:
        raw = (part.encode("utf-8", "surrogateescape") for part in parts)
        return tuple(_in_encoding(path, part, encoding) for part in raw)
    return parts


def _in_encoding(path: Path, raw: bytes, encoding: str | None) -> str:
    shown = raw.decode("ascii", "backslashreplace")
    if encoding is None:
        raise DataError(
            f"{path}: the name '{shown}' in it is not UTF-8; say what it is with --encoding"
        )
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the name '{shown}' in it is not {encoding}; rename it") from error


def _parts(name: str) -> Parts:
    return tuple(part for part in Path(name).parts if part not in (".", "/"))


def _visible(parts: Parts) -> bool:
    """Whether no part of a path is hidden, as editors' and systems' own files are."""
    return bool(parts) and not any(part.startswith((".", *_OF_SYSTEMS)) for part in parts)


def _within_limit(path: Path, total: int) -> int:
    if total > LARGEST_ARCHIVE:
        raise DataError(f"{path}: more than 2 GiB of text; unpack it, and take a part")
    return total
