"""The files of a folder or an archive, by their path in it. Nothing is unpacked to the disk."""

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

from training.data.files import most_unpacked, read_bytes, too_much
from training.errors import DataError

TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ZIP = (".zip",)
MOST_FILES = 1_000_000
"""In an archive."""
_UTF8_NAME = 0x800
_ENCRYPTED = 0x1
_OF_SYSTEMS = ("__MACOSX", "Thumbs.db", "desktop.ini")

_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"

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
    except (
        OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
        ValueError, OverflowError,
    ) as error:  # fmt: skip
        raise DataError(f"{path}: not a readable archive: {error}; unpack it yourself") from error
    except (NotImplementedError, RuntimeError) as error:  # zipfile: packed in a rare way, or secret
        raise DataError(f"{path}: cannot be unpacked: {error}; unpack it yourself") from error


class _Bounded:
    """Reads a file, as whoever unpacks a tar does, up to a number of bytes."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self._most = self._left = most_unpacked(path.stat().st_size)

    def read(self, size: int) -> bytes:
        """So many bytes, or what is left of the file.

        Raises:
            DataError: that is more in all than may be.
        """
        found = self._file.read(min(size, self._left + 1))
        self._left -= len(found)
        if self._left < 0:
            raise DataError(too_much(self._path, self._most))
        return found


def _unpacking(file: IO[bytes]) -> IO[bytes]:
    """What a file packs, unpacked as it is read."""
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(_GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if magic.startswith(_BZIP2):
        return cast("IO[bytes]", bz2.BZ2File(file))
    return cast("IO[bytes]", lzma.LZMAFile(file)) if magic.startswith(_XZ) else file


def _of_tar(path: Path) -> Iterator[tuple[Parts, bytes]]:
    # As a stream, so that what tarfile skips or reads for itself counts as well.
    with (
        path.open("rb") as file,
        _unpacking(file) as content,
        tarfile.open(fileobj=cast("IO[bytes]", _Bounded(content, path)), mode="r|") as archive,
    ):
        for count, member in enumerate(archive):
            _check_count(path, count)
            parts = _parts(member.name)
            if not member.isreg() or not _visible(parts):
                continue
            text = archive.extractfile(member)
            yield parts, b"" if text is None else text.read()


def _of_zip(path: Path, encoding: str | None) -> Iterator[tuple[Parts, bytes]]:
    total, most = 0, most_unpacked(path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        for count, member in enumerate(archive.infolist()):
            _check_count(path, count)
            parts = _parts(_zip_name(path, member, encoding))
            if member.is_dir() or stat.S_ISLNK(member.external_attr >> 16) or not _visible(parts):
                continue
            if member.flag_bits & _ENCRYPTED:
                raise DataError(f"{path}: it is encrypted; unpack it yourself")
            total += member.file_size  # more of it is not unpacked, whatever there is
            if total > most:
                raise DataError(too_much(path, most))
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


def _check_count(path: Path, count: int) -> None:
    if count >= MOST_FILES:
        raise DataError(f"{path}: more than {MOST_FILES:,} files; unpack it, and take a part")
