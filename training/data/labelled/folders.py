"""Labelled texts that lie in files: a folder for each label, or a file for each label."""

import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from training.data.files import decode, read_bytes
from training.data.labelled.examples import Example, Labelled
from training.data.notes import Note
from training.errors import DataError

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LARGEST_ARCHIVE = 2 << 30
"""Bytes of text that an archive may unpack to: it is read into memory."""

Parts = tuple[str, ...]


def is_archive(path: Path) -> bool:
    """Whether a name is that of a tar archive."""
    return path.name.lower().endswith(ARCHIVES)


def read_folder(path: Path) -> Labelled:
    """Read a folder of labelled texts.

    Raises:
        DataError: a file is not UTF-8, or the folder is laid out in another way.
    """
    files = {
        file.relative_to(path).parts: file for file in sorted(path.rglob("*")) if file.is_file()
    }
    visible = {parts: file for parts, file in files.items() if _visible(parts)}
    return _texts(path, {parts: read_bytes(file) for parts, file in visible.items()})


def read_archive(path: Path) -> Labelled:
    """Read a tar archive of labelled texts. Nothing is unpacked to the disk.

    Raises:
        DataError: it is broken or too large, a file in it is not UTF-8, or it is laid out in
            another way.
    """
    files: dict[Parts, bytes] = {}
    total = 0
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                parts = tuple(part for part in Path(member.name).parts if part not in (".", "/"))
                if not member.isreg() or not _visible(parts):
                    continue
                total += member.size
                if total > LARGEST_ARCHIVE:
                    raise DataError(f"{path}: more than 2 GiB of text; unpack it, and take a part")
                file = archive.extractfile(member)
                files[parts] = b"" if file is None else file.read()
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{path}: not a readable archive: {error}; unpack it yourself") from error
    return _texts(path, files)


def _texts(path: Path, files: Mapping[Parts, bytes]) -> Labelled:
    """Sort files by layout: those in folders are sequences, those beside each other are labels."""
    while len({parts[0] for parts in files}) == 1 and all(len(parts) > 1 for parts in files):
        files = {parts[1:]: data for parts, data in files.items()}  # one folder around it all
    notes = []
    by_folder = len({parts[0] for parts in files if len(parts) > 1}) > 1
    read = _a_file_each if by_folder else _a_line_each
    stray = [parts for parts in files if (len(parts) == 1 if by_folder else not _is_text(parts))]
    texts = [
        text
        for parts, data in files.items()
        if parts not in stray
        for text in read(path, parts, data)
    ]
    if stray:
        detail = f"not part of the layout; first: {'/'.join(stray[0])}"
        notes.append(Note(what="ignored: files", rows=len(stray), detail=detail))
    kept = [text for text in texts if text.sequence]
    if len({text.label for text in kept}) < 2:
        raise DataError(
            f"{path}: no two labels in it; give a folder with a folder of texts for each label, "
            "or with a .txt file for each label and a sequence in each line"
        )
    if len(kept) < len(texts):
        first = next(text for text in texts if not text.sequence)
        notes.append(
            Note(what="dropped: empty", rows=len(texts) - len(kept), detail=f"first: {first.place}")
        )
    return Labelled(examples=tuple(kept), source=path.name, notes=tuple(notes))


def _a_file_each(path: Path, parts: Parts, data: bytes) -> Iterable[Example]:
    place = "/".join(parts)
    text = decode(data, path / place).replace("\r\n", "\n").strip()
    yield Example(sequence=text, label=parts[0], place=place)


def _a_line_each(path: Path, parts: Parts, data: bytes) -> Iterable[Example]:
    lines = decode(data, path / parts[0]).split("\n")
    for number, line in enumerate(lines, start=1):
        if line or number < len(lines):  # the last line ends in a line break, too
            place = f"{parts[0]}, line {number}"
            yield Example(sequence=line.strip(), label=Path(parts[0]).stem, place=place)


def _is_text(parts: Parts) -> bool:
    return len(parts) == 1 and parts[0].lower().endswith(".txt")


def _visible(parts: Parts) -> bool:
    """Whether no part of a path is hidden, as editors' and systems' own files are."""
    return bool(parts) and not any(part.startswith((".", "__MACOSX")) for part in parts)
