"""What a comma means in the columns of a table: see `cellar.reading.fields.commas`."""

import pandas as pd

from cellar.reading.errors import TableError
from cellar.reading.fields import commas
from training.data.notes import Note
from training.errors import DataError


def meaning_of_commas(
    wanted: list["pd.Series[str]"],
    others: list["pd.Series[str]"],
    *,
    told: bool | None,
    separator: str | None,
    path: str,
) -> tuple[bool, list[Note]]:
    """Whether a comma is a decimal one in the wanted columns; and what to say of it.

    Raises:
        DataError: fields contradict each other, or may all be meant both ways.
    """
    try:
        found = commas.meaning_of_commas(
            [_column(each) for each in wanted],
            [_column(each) for each in others],
            told=told,
            separator=separator,
            path=path,
        )
    except TableError as error:
        raise DataError(str(error)) from None
    if not found.note:
        return found.is_decimal, []
    detail = f"for example '{found.example}'"
    return found.is_decimal, [Note(what=found.note, rows=found.rows, detail=detail)]


def _column(texts: "pd.Series[str]") -> commas.Column:
    return commas.Column(name=str(texts.name), lines=texts.index.tolist(), fields=texts.tolist())
