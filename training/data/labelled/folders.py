"""Labelled texts that lie in files: a folder for each label, or a file for each label.

Either of them may lie in folders named train, test and validation.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.archives import Files, Parts
from training.data.files import decode
from training.data.labelled.examples import Example, Labelled
from training.data.labelled.parts import Part, part_of
from training.data.notes import Note
from training.errors import DataError

UNLABELLED = ("unsup", "unlabeled", "unlabelled", "unsupervised")
"""Folders of texts without labels, as published beside the others."""
NUMBERS = (".csv", ".tsv", ".json", ".jsonl", ".npy", ".npz", ".parquet", ".ts", ".arff", ".mat")
OTHERS = 0.05
"""Files of another kind may make up so much of the folders."""
ABOUT = ("readme", "license", "licence", "changelog", "copying", "citation")
"""Files of such names speak of the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file, and where it stands."""

    place: str
    part: Part | None
    parts: Parts
    """Within its part."""
    data: bytes


def without_outer(files: Files) -> Files:
    """Files less the folders around all of them, unless one of these names a part."""
    while files and all(len(parts) > 1 for parts in files):
        outer = {parts[0] for parts in files}
        if len(outer) > 1 or part_of(*outer) is not None:
            break
        files = {parts[1:]: data for parts, data in files.items()}
    return files


def read_texts_in(
    files: Files, path: Path, *, encoding: str | None = None, group: str | None = None
) -> Labelled:
    """Read labelled texts.

    ``group`` is a regular expression: what its first parenthesis finds in a file's path, or all
    that it finds, is the group of the file's texts.

    Raises:
        DataError: a file is in another encoding, the files are laid out in another way, or it is
            unclear what the labels are.
    """
    placed, unlabelled = _placed(without_outer(files), path)
    by_folder = len({file.parts[0] for file in placed if len(file.parts) > 1}) > 1
    stray = [file for file in placed if _is_stray(file.parts, by_folder=by_folder)]
    kept = [file for file in placed if not _is_stray(file.parts, by_folder=by_folder)]
    if by_folder:
        _check_folders(kept, path)
        kept, others = _of_one_kind(kept, path)
        stray += others
    pattern = _pattern(group)
    read = _a_file_each if by_folder else _a_line_each
    texts = [
        text for file in kept for text in read(file, path, encoding, _group_of(file, pattern, path))
    ]
    notes = []
    if unlabelled:
        folder = unlabelled[0].rsplit("/", 1)[0]
        notes.append(Note(what=f"ignored: {folder}", rows=len(unlabelled), detail="has no labels"))
    if stray:
        detail = f"not part of the layout; first: {stray[0].place}"
        notes.append(Note(what="ignored: files", rows=len(stray), detail=detail))
    whole = [text for text in texts if text.sequence]
    if len({text.label for text in whole}) < 2:
        raise DataError(
            f"{path}: no two labels in it; give a folder with a folder of texts for each label, "
            "or with a .txt file for each label and a sequence in each line"
        )
    if not by_folder and max(Counter((t.label, t.part) for t in whole).values()) == 1:
        raise DataError(
            f"{path}: every file holds one line, so that their names are no labels; give a folder "
            "of texts for each label"
        )
    if len(whole) < len(texts):
        first = next(text for text in texts if not text.sequence)
        detail = f"first: {first.place}"
        notes.append(Note(what="dropped: empty", rows=len(texts) - len(whole), detail=detail))
    return Labelled(examples=tuple(whole), source=path.name, notes=tuple(notes))


def _placed(files: Files, path: Path) -> tuple[list[_File], list[str]]:
    """Files by part, and the places of those that lie in folders without labels.

    Folders that name parts stand outside those of the labels, or within them.

    Raises:
        DataError: several folders name one part.
    """
    outside = _parts_of({parts[0] for parts in files if len(parts) > 1}, path)
    inner = {parts[1] for parts in files if len(parts) > 2}
    inside = {} if outside or not all(map(part_of, inner)) else _parts_of(inner, path)
    placed, unlabelled = [], []
    for parts, data in files.items():
        part, within = None, parts
        if outside:
            part = outside.get(parts[0])
            within = () if part is None else parts[1:]
        elif len(parts) > 2 and parts[1] in inside:
            part, within = inside[parts[1]], (parts[0], *parts[2:])
        place = "/".join(parts)
        if any(folder.lower() in UNLABELLED for folder in parts[:-1]):
            unlabelled.append(place)
        else:
            placed.append(_File(place=place, part=part, parts=within, data=data))
    return placed, unlabelled


def _parts_of(folders: set[str], path: Path) -> dict[str, Part]:
    """The part of each folder that names one, if they are such folders: one alone may be a label.

    Raises:
        DataError: several folders name one part.
    """
    named = {folder: part for folder in sorted(folders) if (part := part_of(folder)) is not None}
    parts = set(named.values())
    others = {folder for folder in folders if folder.lower() not in UNLABELLED} - set(named)
    if not named or (others and len(parts) == 1):
        return {}
    if len(parts) < len(named):
        if len(parts) == 1:
            return {}
        raise DataError(
            f"{path}: folders {', '.join(list(named)[:6])}: which of them is for training, and "
            "which for testing? Give one of each"
        )
    return named


def _is_stray(parts: Parts, *, by_folder: bool) -> bool:
    """Whether a file is not where the layout has its texts, or speaks of them."""
    if not parts or parts[-1].lower().startswith(ABOUT):
        return True
    if by_folder:
        return len(parts) == 1
    return len(parts) > 1 or not parts[0].lower().endswith(".txt")


def _check_folders(files: Iterable[_File], path: Path) -> None:
    """Refuse where the folders within folders might be the labels as well.

    Raises:
        DataError: several folders have folders of the same names in them.
    """
    inner: dict[str, set[str]] = {}
    for file in files:
        if len(file.parts) > 2:
            inner.setdefault(file.parts[0], set()).add(file.parts[1])
    times = Counter(name for names in inner.values() for name in names)
    shared = [name for name, count in times.items() if count > 1]
    if shared:
        owners = [outer for outer, names in inner.items() if shared[0] in names]
        raise DataError(
            f"{path}: are the labels {owners[0]}, {owners[1]} or what lies in them, such as "
            f"{shared[0]}? Give one folder for each label, with its texts in it"
        )


def _of_one_kind(files: list[_File], path: Path) -> tuple[list[_File], list[_File]]:
    """The texts among files in folders, and the few others.

    Raises:
        DataError: there are many others, or they are no texts.
    """
    kinds = Counter(_kind(file.parts[-1]) for file in files)
    if not kinds:
        return [], []
    (kind, count), *_ = kinds.most_common(1)
    if kind in NUMBERS:
        raise DataError(
            f"{path}: its folders hold {kind} files, which are not read as sequences; put them "
            "into one table with a row per step and columns for the sequence and its label"
        )
    if count < (1 - OTHERS) * len(files):
        other = kinds.most_common(2)[1][0]
        raise DataError(
            f"{path}: its folders hold files that end in '{kind}' and in '{other}': which are the "
            "texts? Take the others out"
        )
    return (
        [file for file in files if _kind(file.parts[-1]) == kind],
        [file for file in files if _kind(file.parts[-1]) != kind],
    )


def _kind(name: str) -> str:
    """What a name ends in, where it is an ending as systems know it, and no number or hash."""
    found = re.search(r"\.[a-z]{1,7}$", name.lower())
    return found[0] if found else ""


def _pattern(group: str | None) -> re.Pattern[str] | None:
    if group is None:
        return None
    try:
        return re.compile(group)
    except re.error as error:
        raise DataError(f"--group '{group}': not a regular expression: {error}") from error


def _group_of(file: _File, pattern: re.Pattern[str] | None, path: Path) -> str:
    if pattern is None:
        return ""
    found = pattern.search(file.place)
    if found is None:
        raise DataError(f"{path}: --group '{pattern.pattern}' finds nothing in {file.place}")
    return found[1] if pattern.groups else found[0]


def _a_file_each(file: _File, path: Path, encoding: str | None, group: str) -> Iterator[Example]:
    text = decode(file.data, path / file.place, encoding).replace("\r\n", "\n").strip()
    yield Example(sequence=text, label=file.parts[0], place=file.place, part=file.part, group=group)


def _a_line_each(file: _File, path: Path, encoding: str | None, group: str) -> Iterator[Example]:
    lines = decode(file.data, path / file.place, encoding).split("\n")
    for number, line in enumerate(lines, start=1):
        if line or number < len(lines):  # the last line ends in a line break, too
            yield Example(
                sequence=line.strip(),
                label=Path(file.parts[0]).stem,
                place=f"{file.place}, line {number}",
                part=file.part,
                group=group,
            )
