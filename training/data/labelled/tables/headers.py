"""Whether the first row of a table names its columns, and the names they usually have.

A header that is taken for a sequence, or a sequence for a header, would be lost in silence.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from training.data.delimited import Row
from training.errors import DataError

TEXT_NAMES = (
    "text",
    "sentence",
    "string",
    "message",
    "review",
    "content",
    "tweet",
    "comment",
    "comment_text",
    "question_text",
    "utterance",
    "body",
    "name",
    "title",
)
LABEL_NAMES = (
    "label",
    "class",
    "category",
    "target",
    "language",
    "sentiment",
    "emotion",
    "intent",
    "y",
)
SEQUENCE_NAMES = ("sequence", "sequence_id", "series", "series_id", "sample_id", "case", "id")
STEP_NAMES = ("step", "time_step", "timestep", "frame", "position", "time", "t")
GROUP_NAMES = (
    "group",
    "group_id",
    "subject",
    "subject_id",
    "speaker",
    "speaker_id",
    "recording",
    "recording_id",
    "session",
    "session_id",
    "patient",
    "patient_id",
    "user",
    "user_id",
    "author",
)
"""Columns of what must not be on both sides of a split; told, and taken where asked for."""
USUAL = frozenset((*TEXT_NAMES, *LABEL_NAMES, *SEQUENCE_NAMES, *STEP_NAMES, *GROUP_NAMES))
ENOUGH = 10
"""Rows below which it is not told by labels that come but once."""
LONGEST_NAME = 30
"""Characters of a name that nothing else tells to be one."""
FEW = 3
"""Rows that may be all numbers by accident, where texts are meant."""
SURELY_COUNTED = 20
"""So many numbers that count up are no values."""


def has_header(
    rows: Sequence[Row], *, path: Path, given: bool | None, names: Sequence[str]
) -> bool:
    """Whether the first row is a header; ``given`` says so where a person did.

    Raises:
        DataError: the rows do not tell, or tell both.
    """
    first = rows[0].fields
    others = [row.fields for row in rows[1:] if row.fields != first]
    if given is not None:
        return given
    if names and all(name in first for name in names):
        return True
    if names and all(name.isdigit() for name in names):
        return False
    known = {field.lower().replace(" ", "_") for field in first} & USUAL
    by_numbers = _by_numbers(first, others) if known or len(others) >= FEW else None
    again = next(
        (n for n, field in enumerate(first) if field and _comes_again(field, n, others)), None
    )
    if by_numbers is True or (by_numbers is False and not known):
        return by_numbers
    if again is None and known and by_numbers is None:
        return True
    if again is not None and not known and by_numbers is None:
        return False
    may_name = again is None and not known and all(map(_may_name, first))
    if may_name and len(others) >= ENOUGH and _labels_repeat(others):
        return True
    reason = (
        f"'{first[again]}' stands in other rows, too"
        if again is not None
        else f"it says {', '.join(first)[:60]}"
    )
    raise DataError(
        f"{path}, line {rows[0].line}: does it name the columns, or is it the first sequence? "
        f"({reason}); say --header yes or --header no"
    )


def _by_numbers(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool | None:
    """What columns of numbers tell; None where there are none, or where they tell both."""
    numeric = [
        n
        for n, field in enumerate(first)
        if field
        and all(n >= len(row) or is_number(row[n]) for row in others)
        and any(n < len(row) and row[n] for row in others)
    ]
    if not numeric:
        return None
    numbers = [first[n] for n in numeric if is_number(first[n])]
    counts = _count_up(numbers)
    if len(numbers) < len(numeric):
        return True if counts or not numbers else None
    if counts and len(numbers) == len(first) < SURELY_COUNTED:
        return None
    return counts


def _count_up(fields: Sequence[str]) -> bool:
    """Whether fields are 0, 1, 2 … or 1, 2, 3 …, as columns are numbered."""
    if len(fields) < 2 or not all(field.isdigit() for field in fields):
        return False
    begin = int(fields[0])
    return begin in (0, 1) and list(fields) == [str(begin + n) for n in range(len(fields))]


def _may_name(field: str) -> bool:
    """Whether a field is as short as names of columns are."""
    return len(field) <= LONGEST_NAME and len(field.split()) <= 3


def _comes_again(field: str, column: int, others: Sequence[Sequence[str]]) -> bool:
    return any(len(row) > column and row[column] == field for row in others)


def _labels_repeat(others: Sequence[Sequence[str]]) -> bool:
    """Whether a column holds few values, each of them several times, as labels do."""
    for column in range(min(map(len, others))):
        counts = Counter(row[column] for row in others)
        if 1 < len(counts) <= len(others) // 4 and min(counts.values()) > 1:
            return True
    return False


def is_number(field: str) -> bool:
    """Whether a field is a number, or stands for a missing one."""
    try:
        float(field or "nan")
    except ValueError:
        return field == "?"
    return True
