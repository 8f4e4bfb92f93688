"""Numbers as people write them: 1,234.5 and 1.234,5, and what stands for none."""

import re

import numpy as np
import pandas as pd

from training.data.notes import Note
from training.errors import DataError

MISSING = {"", "null", "na", "n/a", "nan", "none", "-", "nil", "?"}
_SPACES = re.compile(r"(?<=\d)[ \u00a0\u202f'](?=\d{3}\b)")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
_POINTS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d*)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
# What can only be meant one way: 1.234,5 and 12,5 against 1,234.5 and 12.5.
_SURELY_COMMA = re.compile(
    r"[+-]?(\d{1,3}(\.\d{3})+,\d*|\d{1,3}(\.\d{3}){2,}|\d*,(\d{1,2}|\d{4,})|(0|\d{4,}),\d+)"
)
_SURELY_POINT = re.compile(
    r"[+-]?(\d{1,3}(,\d{3})+\.\d*|\d{1,3}(,\d{3}){2,}|\d*\.(\d{1,2}|\d{4,})|(0|\d{4,})\.\d+)"
)


def is_missing(texts: "pd.Series[str]") -> "pd.Series[bool]":
    """Where a field says that there is no value."""
    return texts.str.lower().isin(MISSING)


def is_number(text: str) -> bool:
    """Whether a field is a number, or says that there is none."""
    plain = _SPACES.sub("", text.strip())
    if plain.lower() in MISSING or any(way.fullmatch(plain) for way in (_THOUSANDS, _POINTS)):
        return True
    try:
        float(plain.replace(",", ".", 1))
    except ValueError:
        return False
    return True


def meaning_of_commas(texts: "pd.Series[str]", *, told: bool) -> tuple[bool, list[Note]]:
    """Whether a comma is a decimal one in fields that belong together; and what to say of it.

    ``told`` says that it is. One field that can only be meant one way speaks for all.
    """
    if told:
        return True, []
    texts = texts.str.replace(_SPACES, "", regex=True)
    commas, points = (
        texts.str.fullmatch(sure).fillna(False) for sure in (_SURELY_COMMA, _SURELY_POINT)
    )
    if commas.any() and not points.any():
        what, fields = "read with a decimal comma", texts[commas]
    else:
        what, fields = "read with commas between thousands", texts[texts.str.fullmatch(_THOUSANDS)]
        if points.any() or fields.empty:
            return False, []
        what += "; is it --decimal-comma?"
    note = Note(what=what, rows=len(fields), detail=f"for example '{fields.iloc[0]}'")
    return what.startswith("read with a decimal"), [note]


def numbers_of(
    texts: "pd.Series[str]", *, column: str, path: str, decimal_comma: bool
) -> "pd.Series[float]":
    """Read fields, none of them missing, as numbers; the index is their line.

    Raises:
        DataError: a field is no number; the message names line and column.
    """
    texts = texts.str.replace(_SPACES, "", regex=True)
    if decimal_comma:
        separated = texts.str.fullmatch(_POINTS)
        plain = texts.where(~separated, texts.str.replace(".", "", regex=False))
        plain = plain.where(~plain.str.fullmatch(_COMMA), plain.str.replace(",", "."))
    else:
        separated = texts.str.fullmatch(_THOUSANDS)
        plain = texts.where(~separated, texts.str.replace(",", "", regex=False))
    numbers = pd.to_numeric(plain, errors="coerce").astype(np.float64)
    wrong = numbers.isna() | ~np.isfinite(numbers)
    if wrong.any():
        line = int(texts.index[wrong][0])
        others = f" (and {int(wrong.sum()) - 1} more rows)" if wrong.sum() > 1 else ""
        hint = "; or does --decimal-comma fit?" if "," in texts[line] else ""
        raise DataError(
            f"{path}, line {line}, column '{column}': '{texts[line]}' is not a number"
            f"{others}; mend it, or leave the field empty to drop the row{hint}"
        )
    return numbers
