"""Numbers as people write them: 1,234.5 and 1.234,5, $5, 5 %, 1.2M, (3.5) and 12,34,567."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellar.reading.fields.written import UNITS, Number, number_of
from training.data.notes import Note
from training.errors import DataError


def numbers_of(
    texts: "pd.Series[str]", *, column: str, path: str, decimal_comma: bool
) -> tuple[NDArray[np.float64], list[Note]]:
    """Read fields, none of them missing, as numbers ``(rows,)``; the index is their line.

    Raises:
        DataError: a field is no number, or units are mixed; the message names line and column.
    """
    plain = texts
    if decimal_comma:
        joined = "\n".join(texts)
        if "." in joined:  # 1.234 is a thousand here, and only a closer look may say so
            plain = texts.where(~texts.str.contains(".", regex=False), "")
            joined = "\n".join(plain)
        plain = pd.Series(
            joined.replace(",", ".").split("\n") if len(texts) else [],
            index=texts.index,
            dtype=object,
        )
    numbers = pd.to_numeric(plain, errors="coerce").to_numpy(np.float64).copy()
    odd = np.flatnonzero(~np.isfinite(numbers))
    known: dict[str, Number | None] = {}
    written: dict[int, Number] = {}
    for place, text in zip(odd.tolist(), texts.iloc[odd], strict=True):
        if text not in known:
            known[text] = number_of(text, decimal_comma=decimal_comma)
        found = known[text]
        if found is None or not np.isfinite(found.value):
            raise _no_number(texts, known, decimal_comma, column=column, path=path)
        numbers[place] = found.value
        written[place] = found
    return numbers, _notes(texts, written, column=column, path=path)


def _no_number(
    texts: "pd.Series[str]",
    known: dict[str, Number | None],
    decimal_comma: bool,
    *,
    column: str,
    path: str,
) -> DataError:
    def is_wrong(text: str) -> bool:
        if text not in known:
            known[text] = number_of(text, decimal_comma=decimal_comma)
        found = known[text]
        return found is None or not np.isfinite(found.value)

    wrong = [place for place, text in enumerate(texts) if is_wrong(text)]
    field, line = texts.iloc[wrong[0]], texts.index[wrong[0]]
    others = f" (and {len(wrong) - 1:,} more rows)" if len(wrong) > 1 else ""
    hint = ""
    if number_of(field, decimal_comma=not decimal_comma) is not None:
        hint = f"; or does {'--decimal-point' if decimal_comma else '--decimal-comma'} fit?"
    return DataError(
        f"{path}, line {line}, column '{column}': '{field[:60]}' is not a number{others}; mend "
        f"it, or leave the field empty to drop the row, or say --missing '{field[:60]}'{hint}"
    )


def _notes(
    texts: "pd.Series[str]", written: dict[int, Number], *, column: str, path: str
) -> list[Note]:
    """Tell what stood around numbers.

    Raises:
        DataError: some are in per cent and some are not, or two currencies are mixed.
    """
    notes = []
    per_cent = [place for place, number in written.items() if number.unit == "%"]
    if per_cent and len(per_cent) < len(texts):
        other = next(
            place
            for place in range(len(texts))
            if written.get(place) is None or written[place].unit != "%"
        )
        raise DataError(
            f"{path}, column '{column}': '{texts.iat[per_cent[0]]}' in line "
            f"{texts.index[per_cent[0]]} is in per cent and '{texts.iat[other]}' in line "
            f"{texts.index[other]} is not; write all of them in one way"
        )
    money = {number.currency: place for place, number in written.items() if number.currency}
    if len(money) > 1:
        first, second, *_ = money.values()
        raise DataError(
            f"{path}, column '{column}': '{texts.iat[first]}' in line {texts.index[first]} and "
            f"'{texts.iat[second]}' in line {texts.index[second]} are two currencies; keep one"
        )
    units = sorted({number.unit for number in written.values()} & set(UNITS))
    kinds: list[tuple[str, Callable[[Number], bool]]] = [
        ("read without the %: numbers are in per cent", lambda number: number.unit == "%"),
        (f"read without the currency: {', '.join(money)}", lambda number: bool(number.currency)),
        (f"read with units: {', '.join(units)}", lambda number: number.unit in UNITS),
        ("read as negative: numbers in brackets", lambda number: number.in_brackets),
    ]
    for what, chosen in kinds:
        places = [place for place, number in written.items() if chosen(number)]
        if places:
            detail = f"for example '{texts.iat[places[0]]}'"
            notes.append(Note(what=what, rows=len(places), detail=detail))
    return notes
