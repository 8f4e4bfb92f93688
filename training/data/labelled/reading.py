"""Labelled sequences as people have them: folders, archives and tables of text or of numbers."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from training.data.labelled.examples import Example, Labelled
from training.data.labelled.folders import is_archive, read_archive, read_folder
from training.data.labelled.tables import Columns, read_sequences, read_table, read_texts
from training.data.notes import Note
from training.errors import DataError


def read_labelled(
    path: Path, columns: Columns | None = None, *, longest: int | None = None
) -> Labelled:
    """Read labelled sequences; a sequence that stands there twice is taken once.

    Of each, ``longest`` steps are read: those that are the same so far are the same.

    * A folder with a folder for each label, which holds a text file for each sequence;
    * a folder with a text file for each label, which holds a sequence in each line;
    * either of them as a tar archive;
    * a table (CSV, TSV) with a header and a row for each text, or a row for each step of
      sequences of numbers. ``columns`` names its columns where their names do not tell.

    Raises:
        DataError: it is none of these, or something in it cannot be used.
    """
    columns = columns or Columns()
    if path.is_dir() or is_archive(path):
        if named := columns.given:
            raise DataError(f"{path}: {named} is for tables, and this holds files of text")
        data = read_folder(path) if path.is_dir() else read_archive(path)
    else:
        table = read_table(path)
        chosen = columns.found_in(table)
        read = read_sequences if chosen.text is None else read_texts
        data = read(table, chosen)
    return _unique(_cut(data, longest), path)


def without(data: Labelled, others: Labelled) -> Labelled:
    """``data`` less what stands in ``others`` too, sequence and label."""
    known = {(example.key, example.label) for example in others.examples}
    kept = tuple(e for e in data.examples if (e.key, e.label) not in known)
    if len(kept) == len(data.examples):
        return data
    first = next(e for e in data.examples if (e.key, e.label) in known)
    note = Note(
        what=f"dropped: also in {others.source}",
        rows=len(data.examples) - len(kept),
        detail=f"a test must be of new sequences; first: {first.place}",
    )
    return replace(data, examples=kept, notes=(*data.notes, note))


def _cut(data: Labelled, longest: int | None) -> Labelled:
    long = [e for e in data.examples if longest is not None and len(e.sequence) > longest]
    if not long:
        return data
    note = Note(
        what="cut off: long sequences",
        rows=len(long),
        detail=f"after {longest} steps (--longest); first: {long[0].place}",
    )
    cut = tuple(replace(example, sequence=example.sequence[:longest]) for example in data.examples)
    return replace(data, examples=cut, notes=(*data.notes, note))


def _unique(data: Labelled, path: Path) -> Labelled:
    if not data.examples:
        raise DataError(f"{path}: no sequence in it; give at least a few for each label")
    notes = list(data.notes)
    kept: dict[tuple[bytes, str], Example] = {}
    repeated: list[Example] = []
    for example in data.examples:
        if (example.key, example.label) in kept:
            repeated.append(example)
        else:
            kept[example.key, example.label] = example
    if repeated:
        detail = f"the same sequence with the same label; first: {repeated[0].place}"
        notes.append(Note(what="dropped: duplicates", rows=len(repeated), detail=detail))
    labels_of = Counter(key for key, _ in kept)
    ambiguous = [example for (key, _), example in kept.items() if labels_of[key] > 1]
    if ambiguous:
        first = ambiguous[0]
        others = sorted(label for key, label in kept if key == first.key)
        notes.append(
            Note(
                what="kept: one sequence, several labels",
                rows=len(ambiguous),
                detail=f"nobody can get all of these right; first: {first.place}, as "
                f"{' and '.join(others)}",
            )
        )
    return replace(data, examples=tuple(kept.values()), notes=tuple(notes))
