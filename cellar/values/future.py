"""What a forecast is told of the steps ahead: the features beside the value, by place or by name.

Checks forms and shapes only: the server judges the values, and names the row it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cellar.errors import BadInputError
from cellar.values.model_info import ModelInfo
from cellar.values.predictions import Floats

Future = (
    npt.NDArray[Any]
    | Sequence[float]
    | Sequence[Sequence[float]]
    | Mapping[str, Sequence[float]]
    | Mapping[str, npt.NDArray[Any]]
)
"""What a model reads at the steps ahead beside the value that it predicts, see
``ModelInfo.beside``: rows (steps, features) in that order, numbers (steps,) where there is one
feature, or columns by name, as a mapping or a data frame; a column of another name is left out."""

_FIELD = {"field": "future"}


def encode_future(future: Future, model: ModelInfo) -> Floats:
    """The rows of a forecast's future (steps, features).

    Raises:
        BadInputError: the model reads nothing beside the value, or the form, the shape or the
            columns do not suit it.
    """
    names = model.beside
    if not names:
        raise BadInputError(
            f"future: model {model.name!r} reads nothing beside the value that it predicts: leave "
            "it out",
            metadata=_FIELD,
        )
    columns = _names_of(future)
    if columns is None:
        rows = _floats(future, "future")
    else:
        if missing := [name for name in names if name not in columns]:
            raise BadInputError(
                f"future: no column {missing[0]!r}: model {model.name!r} reads {', '.join(names)}",
                metadata=_FIELD,
            )
        by_name: Any = future
        read = [_floats(by_name[name], f"future, {name}") for name in names]
        if len({column.shape for column in read}) > 1 or read[0].ndim != 1:
            lengths = ", ".join(
                f"{name} {column.shape}" for name, column in zip(names, read, strict=True)
            )
            raise BadInputError(
                f"future: columns are (steps,), all of one length: {lengths}", metadata=_FIELD
            )
        rows = np.stack(read, axis=1)
    if rows.ndim == 1 and (len(names) == 1 or not rows.size):
        rows = rows.reshape(-1, len(names))
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise BadInputError(
            f"future: model {model.name!r} reads {len(names)} value(s) beside the one that it "
            f"predicts ({', '.join(names)}), so it takes (steps, {len(names)}), not {rows.shape}",
            metadata=_FIELD,
        )
    return rows


def _names_of(future: object) -> set[str] | None:
    """The names of the columns of a table; None: it is none."""
    if isinstance(future, Mapping):
        return set(future)
    columns = getattr(future, "columns", None)  # of a data frame
    return {str(name) for name in columns} if isinstance(columns, Iterable) else None


def _floats(numbers: object, place: str) -> Floats:
    try:
        array = np.asarray(numbers)
    except ValueError as error:
        raise BadInputError(
            f"{place}: the rows differ in length: {error}", metadata=_FIELD
        ) from error
    if array.size and array.dtype.kind not in "iuf":
        raise BadInputError(f"{place}: values are numbers, not {array.dtype}", metadata=_FIELD)
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
