"""Labelled sequences as people have them: folders, archives and tables of text or of numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from training.data.archives import Files, Parts, is_archive, read_files
from training.data.files import decode, read_bytes, unpacked
from training.data.labelled.cleaning import cut, unique
from training.data.labelled.examples import Labelled
from training.data.labelled.folders import ABOUT, read_texts_in, without_outer
from training.data.labelled.parts import Part, part_of, rest_of
from training.data.labelled.tables.columns import Columns, Layout, choose, suspected_group
from training.data.labelled.tables.steps import read_steps
from training.data.labelled.tables.table import Table, table_of
from training.data.labelled.tables.texts import read_texts
from training.data.labelled.tables.ts import read_ts
from training.data.labelled.tables.wide import read_wide
from training.data.notes import Note
from training.errors import DataError

TABLES = (".ts", ".csv", ".tsv", ".txt")
"""Endings of tables; of one data set in several of them, the first is read."""


def read_labelled(
    path: Path,
    columns: Columns | None = None,
    *,
    longest: int | None = None,
    encoding: str | None = None,
) -> Labelled:
    """Read labelled sequences; a sequence that stands there twice is taken once.

    Of each, ``longest`` steps are read: those that are the same so far are the same.

    * A folder with a folder for each label, which holds a text file for each sequence;
    * a folder with a text file for each label, which holds a sequence in each line;
    * a table (CSV, TSV) with a row for each text, for each step of sequences of numbers, or for
      each sequence of numbers; a .ts file. ``columns`` says what its columns are where their names
      and contents do not tell;
    * a folder of such tables, one for each part: train, test, validation;
    * any of them as a ZIP or tar archive.

    What is named train, test or validation is kept apart in these parts. Files are UTF-8 unless
    ``encoding`` says otherwise.

    Raises:
        DataError: it is none of these, or something in it cannot be used.
    """
    columns = columns or Columns()
    if path.is_dir() or is_archive(path):
        files = read_files(path, encoding)
        if tables := _tables(files, path):
            data = _joined(path, tables, files, columns, encoding)
        else:
            if named := columns.given:
                raise DataError(f"{path}: {named} is for tables, and this holds files of text")
            data = read_texts_in(files, path, encoding=encoding, group=columns.group)
    else:
        data = _read_table(unpacked(read_bytes(path), path), path, columns, encoding)
        data = _with_neighbour(data, path)
    if encoding is not None:
        note = Note(what="encoding", rows=0, detail=f"read as {encoding}, as --encoding says")
        data = replace(data, notes=(note, *data.notes))
    return unique(cut(data, longest), path)


def _read_table(data: bytes, path: Path, columns: Columns, encoding: str | None) -> Labelled:
    text = decode(data, path, encoding)
    if _ending(path.name) == ".ts":
        if given := columns.given or ("--group" if columns.group else None):
            raise DataError(f"{path}: {given} is for tables with columns, and this is a .ts file")
        return read_ts(text, path)
    if path.name.lower().endswith((".arff", ".json", ".jsonl")):
        raise DataError(f"{path}: not a table that is read; give it as CSV, TSV or .ts")
    return _of_table(table_of(text, path, header=columns.header, names=columns.names), columns)


def _of_table(table: Table, columns: Columns) -> Labelled:
    chosen = choose(table, columns)
    read = {Layout.TEXTS: read_texts, Layout.STEPS: read_steps, Layout.WIDE: read_wide}
    found = read[chosen.layout](table, chosen)
    notes = [*table.notes, chosen.note(table)]
    if (note := suspected_group(table, chosen)) is not None:
        notes.append(note)
    return replace(found, notes=(*notes, *found.notes))


def _tables(files: Files, path: Path) -> Mapping[Part | None, Parts]:
    """The tables of a folder by part; none where its files are texts.

    Raises:
        DataError: there are several data sets in it.
    """
    top: dict[Parts, str] = {parts: parts[-1] for parts in without_outer(files)}
    outer = next(iter(files))[: -len(next(iter(top)))] if top else ()
    found: list[Parts] = [
        parts
        for parts, name in top.items()
        if len(parts) == 1 and _ending(name) in TABLES and not name.lower().startswith(ABOUT)
    ]
    named = [parts for parts in found if part_of(_stem(parts[0])) is not None]
    texts = [parts for parts in found if _ending(parts[0]) == ".txt"]
    if not all(parts in named for parts in texts):
        named = [parts for parts in named if parts not in texts]  # a label may be "test", too
    alone: list[Parts] = [parts for parts in found if parts not in texts]
    others: list[Parts] = [
        parts for parts, name in top.items() if not name.lower().startswith(ABOUT)
    ]
    if len(others) == 1 and len(others[0]) == 1 and not _ending(others[0][0]):
        alone = others  # published without an ending
    if named:
        sets = {rest_of(_stem(parts[0])) for parts in named}
        if len(sets) > 1:
            raise DataError(
                f"{path}: several data sets in it ({', '.join(sorted(sets)[:6])}); give one"
            )
        tables = _of_one_ending(named, path)
        return {part: (*outer, *parts) for part, parts in tables.items()}
    if len(alone) == 1 and not any(len(parts) > 1 for parts in top):
        return {None: (*outer, *alone[0])}
    if alone and not any(len(parts) > 1 for parts in top):
        names = ", ".join(parts[0] for parts in alone[:6])
        raise DataError(f"{path}: several tables in it ({names}); give one")
    return {}


def _of_one_ending(named: Sequence[Parts], path: Path) -> dict[Part | None, Parts]:
    """The tables by part, of those that hold the same in several forms.

    Raises:
        DataError: a part is in two files of one form, or no form has all the parts.
    """
    every = {part_of(_stem(parts[0])) for parts in named}
    for ending in TABLES:
        tables: dict[Part | None, Parts] = {}
        for parts in named:
            if _ending(parts[0]) != ending:
                continue
            part = part_of(_stem(parts[0]))
            if part in tables:
                raise DataError(
                    f"{path}: {tables[part][0]} and {parts[0]} are both the {part} part; "
                    "take one out"
                )
            tables[part] = parts
        if set(tables) == every:
            return tables
    names = ", ".join(parts[0] for parts in named[:6])
    raise DataError(f"{path}: parts in different forms ({names}); give all as .csv, .tsv or .ts")


def _joined(
    path: Path,
    tables: Mapping[Part | None, Parts],
    files: Files,
    columns: Columns,
    encoding: str | None,
) -> Labelled:
    """The tables of a folder as one, each its part."""
    examples, notes = [], []
    features: dict[tuple[str, ...], str] = {}
    for part in sorted(tables, key=lambda part: part != "train"):
        parts = tables[part]
        place = path / "/".join(parts)
        content = unpacked(files[parts], place)
        if part == "train" and len(tables) > 1 and _ending(place.name) != ".ts":
            columns = _settled(decode(content, place, encoding), place, columns)
        data = _read_table(content, place, columns, encoding)
        features.setdefault(data.features, place.name)
        if part is not None:
            if data.is_split:
                raise DataError(
                    f"{place}: it is the {part} part, and has parts of its own; give it"
                )
            examples += [
                replace(e, part=part, place=f"{place.name}, {e.place}") for e in data.examples
            ]
        else:
            examples += data.examples
        notes += [replace(note, what=f"{place.name}: {note.what}") for note in data.notes]
    if len(features) > 1:
        (first, one), (second, other), *_ = (
            (", ".join(f) or "none", n) for f, n in features.items()
        )
        raise DataError(
            f"{path}: the columns of numbers are {first} in {one}, but {second} in {other}; make "
            "them alike"
        )
    others = [name for name in files if name not in tables.values()]
    if others:
        detail = f"not part of the layout; first: {'/'.join(others[0])}"
        notes.append(Note(what="ignored: files", rows=len(others), detail=detail))
    return Labelled(
        examples=tuple(examples),
        features=next(iter(features)),
        source=path.name,
        notes=tuple(notes),
    )


def _settled(text: str, path: Path, columns: Columns) -> Columns:
    """What the training part tells of the columns of all parts: others may be too small to tell."""
    table = table_of(text, path, header=columns.header, names=columns.names)
    chosen = choose(table, columns)
    is_wide = chosen.layout is Layout.WIDE
    return replace(
        columns,
        text=chosen.text or None,
        label=chosen.label,
        sequence=chosen.sequence or None,
        step=chosen.step,
        features=() if is_wide and not table.has_header else chosen.features,
        wide=is_wide,
        header=table.has_header,
    )


def _with_neighbour(data: Labelled, path: Path) -> Labelled:
    """A note on the test that lies beside a training file."""
    if part_of(_stem(path.name)) != "train":
        return data
    for other in sorted(path.parent.iterdir()):
        is_test = part_of(_stem(other.name)) == "test" and _ending(other.name) == _ending(path.name)
        if is_test and rest_of(_stem(other.name)) == rest_of(_stem(path.name)):
            detail = f"a part of {path.name} is tested on; --test {other.name} takes that one"
            note = Note(what="not read: a test beside it", rows=0, detail=detail)
            return replace(data, notes=(*data.notes, note))
    return data


def _ending(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _stem(name: str) -> str:
    name = name[:-3] if name.lower().endswith(".gz") else name
    return Path(name).stem
