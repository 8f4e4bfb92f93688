"""The .ts files of the UEA and UCR archives, as sktime and aeon write them.

A head of ``@`` lines says what is in it; after ``@data`` a line holds a sequence: its dimensions
between colons, the values of each between commas, and its label at the end.
"""

from pathlib import Path

import numpy as np

from training.data.labelled.examples import Example, Labelled
from training.data.labelled.tables.wide import FEATURE, finite_numbers, without_missing_end
from training.data.notes import Note
from training.errors import DataError


def read_ts(text: str, path: Path) -> Labelled:
    """Read a file's text.

    Raises:
        DataError: it has no labels, has times of its own, or a line is not what its head says.
    """
    lines = text.splitlines()
    head: dict[str, list[str]] = {}
    first = None
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith(("#", "%")):
            continue
        if not words[0].startswith("@"):
            raise DataError(f"{path}, line {number}: it comes before @data; is this a .ts file?")
        if words[0].lower() == "@data":
            first = number
            break
        head[words[0].lower()] = words[1:]
    if first is None:
        raise DataError(f"{path}: no @data line; is this a .ts file?")
    _check_head(head, path)
    declared = head["@classlabel"][1:]
    examples, ended, dimensions = [], 0, None
    for number, line in enumerate(lines[first:], start=first + 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        *parts, label = (part.strip() for part in line.split(":"))
        if not parts:
            raise DataError(f"{where}: no ':' before a label; mend it")
        if declared and label not in declared:
            raise DataError(
                f"{where}: label '{label[:40]}' is not one that @classLabel names "
                f"({', '.join(declared[:12])}); mend one of them"
            )
        if dimensions is None:
            dimensions = _dimensions(head, len(parts), where)
        if len(parts) != dimensions:
            raise DataError(
                f"{where}: {len(parts)} dimensions, but there are {dimensions}; mend it"
            )
        columns = []
        for place, part in enumerate(parts, start=1):
            fields = [field.strip() for field in part.split(",")]
            used = without_missing_end(fields)
            ended += len(used) < len(fields) and place == 1
            places = [f"dimension {place}, step {step}" for step in range(1, len(used) + 1)]
            columns.append(finite_numbers(used, where, places))
        lengths = {len(column) for column in columns}
        if len(lengths) > 1:
            raise DataError(
                f"{where}: its dimensions have {min(lengths)} to {max(lengths)} steps; all must "
                "have the same number: cut or fill them"
            )
        sequence = np.array(columns, np.float32).T  # (steps, dimensions)
        examples.append(Example(sequence=sequence, label=label, place=f"line {number}"))
    empty = [example.place for example in examples if not len(example.sequence)]
    notes = []
    if ended:
        detail = "missing numbers at the end are no steps"
        notes.append(Note(what="shorter sequences", rows=ended, detail=detail))
    if empty:
        detail = f"no steps; first: {empty[0]}"
        notes.append(Note(what="dropped: empty", rows=len(empty), detail=detail))
    names = [FEATURE] if dimensions == 1 else [f"{FEATURE}_{n + 1}" for n in range(dimensions or 0)]
    return Labelled(
        examples=tuple(example for example in examples if len(example.sequence)),
        features=tuple(names),
        source=path.name,
        notes=tuple(notes),
    )


def _check_head(head: dict[str, list[str]], path: Path) -> None:
    if _is(head, "@timestamps"):
        raise DataError(
            f"{path}: it has times beside its values (@timeStamps true), which are not read; give "
            "a table with a row per step and a step column"
        )
    if _is(head, "@targetlabel"):
        raise DataError(f"{path}: its targets are numbers (@targetLabel true), not labels")
    if not _is(head, "@classlabel"):
        raise DataError(f"{path}: it has no labels: there is no line '@classLabel true'")


def _dimensions(head: dict[str, list[str]], found: int, where: str) -> int:
    said = head.get("@dimensions") or head.get("@dimension")
    expected = 1 if _is(head, "@univariate") else int(said[0]) if said and said[0].isdigit() else 0
    if expected and found != expected:
        raise DataError(f"{where}: {found} dimensions, but the head says {expected}; mend one")
    return found


def _is(head: dict[str, list[str]], name: str) -> bool:
    return [word.lower() for word in head.get(name, [])][:1] == ["true"]
