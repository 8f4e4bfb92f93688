"""Predictions, decoded from their columns on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cellar.errors import ProtocolError
from cellar.v1 import values_pb2

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]


_MOST_SHOWN = 8  # numbers of a raw output


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the most likely next tokens, or labels: its id, its symbol or name, its probability.

    The symbol is None where the model has no vocabulary.
    """

    token: int
    symbol: str | None
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Prediction:
    """One prediction. What was not asked for is None (or empty).

    Attributes:
        position: the session's position: after the step predicted from, or, when nothing was
            committed, where the session stays. Of a whole sequence, the steps read.
        replayed: True when this is the stored answer of a step that had been applied before.
        argmax: the most likely next token, or label, by its number.
        symbol: its symbol, for models with a vocabulary; the label's name, for models that label.
        top: the most likely next tokens or labels, most likely first.
        probabilities: the probability of every token (vocabulary,), or of every label (labels,).
        sample: the draw: a token id, or a value.
        sample_symbol: the symbol of a drawn token.
        levels: the levels of ``quantiles``.
        quantiles: quantiles of the next value (levels,), in the user's units.
        raw: the model's own output (prediction width,).
    """

    position: int
    replayed: bool = False
    argmax: int | None = None
    symbol: str | None = None
    top: tuple[Candidate, ...] = ()
    probabilities: Floats | None = None
    sample: int | float | None = None
    sample_symbol: str | None = None
    levels: tuple[float, ...] = ()
    quantiles: Floats | None = None
    raw: Floats | None = None

    def __repr__(self) -> str:
        """What there is of it."""
        facts = {
            "argmax": self.argmax,
            "symbol": self.symbol,
            "top": [(each.symbol or each.token, round(each.probability, 4)) for each in self.top],
            "probabilities": _size(self.probabilities),
            "sample": self.sample,
            "sample_symbol": self.sample_symbol,
            "quantiles": _by_level(self.levels, self.quantiles),
            "raw": self._shown_raw(),
            "replayed": self.replayed or None,
        }
        told = ", ".join(
            f"{name}={fact!r}" for name, fact in facts.items() if fact not in (None, [])
        )
        return f"<prediction at {self.position}{f': {told}' if told else ''}>"

    def _shown_raw(self) -> list[float] | str | None:
        if self.raw is None or len(self.raw) > _MOST_SHOWN:
            return _size(self.raw)
        numbers: list[float] = self.raw.tolist()
        return numbers

    @property
    def label(self) -> str | None:
        """The most likely label, for models that label: its ``symbol``."""
        return self.symbol


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Predictions(Sequence[Prediction]):
    """Several predictions, n of them, column by column. A column not asked for is None.

    Indexing and iterating give single ``Prediction`` objects; the columns are faster.

    Attributes:
        positions: (n,) as in ``Prediction.position``.
        replayed: (n,) as in ``Prediction.replayed``.
        vocabulary: the model's symbols by token id, or the names of its labels; empty where there
            are none.
        levels: the levels of ``quantiles``.
        argmax: most likely tokens, or labels (n,).
        top_tokens: most likely tokens, or labels (n, k).
        top_probabilities: their probabilities (n, k).
        probabilities: all probabilities (n, vocabulary), or (n, labels).
        sampled_tokens: drawn tokens (n,).
        sampled_values: drawn values (n,).
        quantiles: quantiles of the next value (n, levels), in the user's units.
        raw: the model's own output (n, prediction width).
    """

    positions: Positions
    replayed: npt.NDArray[np.bool_]
    vocabulary: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()
    argmax: Ints | None = None
    top_tokens: Ints | None = None
    top_probabilities: Floats | None = None
    probabilities: Floats | None = None
    sampled_tokens: Ints | None = None
    sampled_values: Floats | None = None
    quantiles: Floats | None = None
    raw: Floats | None = None

    def __repr__(self) -> str:
        """How many, where, and which columns."""
        columns = [name for name in self.columns() if name not in ("positions", "replayed")]
        ends = dict.fromkeys((int(self.positions[0]), int(self.positions[-1]))) if len(self) else {}
        where = f" at {' to '.join(map(str, ends))}" if ends else ""
        return f"<{len(self)} predictions{where}: {', '.join(columns) or 'no columns'}>"

    def __len__(self) -> int:
        """The number of predictions."""
        return len(self.positions)

    def __getitem__(self, index: Any) -> Any:
        """The prediction at an index, or the predictions of a slice."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"prediction {index} of {len(self)}")
        return self._row(index)

    def __iter__(self) -> Iterator[Prediction]:
        """The predictions, one by one."""
        return (self._row(index) for index in range(len(self)))

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols of ``argmax``, n; empty without a vocabulary."""
        return self._symbols(self.argmax)

    @property
    def labels(self) -> tuple[str, ...]:
        """The most likely labels, n, for models that label: ``symbols``."""
        return self.symbols

    @property
    def sampled_symbols(self) -> tuple[str, ...]:
        """The symbols of ``sampled_tokens``, n; empty without a vocabulary."""
        return self._symbols(self.sampled_tokens)

    def take(self, rows: npt.NDArray[np.int64]) -> Predictions:
        """The predictions at ``rows``, in that order."""
        taken: dict[str, Any] = {name: data[rows] for name, data in self.columns().items()}
        return replace(self, **taken)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that are there, by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    def _symbols(self, tokens: Ints | None) -> tuple[str, ...]:
        if tokens is None or not self.vocabulary:
            return ()
        return tuple(self.vocabulary[token] for token in tokens.tolist())

    def _symbol(self, token: int | None) -> str | None:
        if token is None or not 0 <= token < len(self.vocabulary):
            return None
        return self.vocabulary[token]

    def _row(self, row: int) -> Prediction:
        top: tuple[Candidate, ...] = ()
        if self.top_tokens is not None and self.top_probabilities is not None:
            pairs = zip(
                self.top_tokens[row].tolist(), self.top_probabilities[row].tolist(), strict=True
            )
            top = tuple(Candidate(token, self._symbol(token), chance) for token, chance in pairs)
        argmax = None if self.argmax is None else int(self.argmax[row])
        token = None if self.sampled_tokens is None else int(self.sampled_tokens[row])
        value = None if self.sampled_values is None else float(self.sampled_values[row])
        return Prediction(
            position=int(self.positions[row]),
            replayed=bool(self.replayed[row]),
            argmax=argmax,
            symbol=self._symbol(argmax),
            top=top,
            probabilities=None if self.probabilities is None else self.probabilities[row],
            sample=value if token is None else token,
            sample_symbol=self._symbol(token),
            levels=self.levels if self.quantiles is not None else (),
            quantiles=None if self.quantiles is None else self.quantiles[row],
            raw=None if self.raw is None else self.raw[row],
        )


def _size(numbers: Floats | None) -> str | None:
    return None if numbers is None else f"{len(numbers)} numbers"


def _by_level(levels: Sequence[float], quantiles: Floats | None) -> dict[float, float] | None:
    if quantiles is None:
        return None
    return dict(zip(levels, quantiles.tolist(), strict=False))


def decode(
    message: values_pb2.Predictions,
    *,
    positions: Positions,
    replayed: npt.NDArray[np.bool_],
    vocabulary: tuple[str, ...],
    levels: tuple[float, ...],
) -> Predictions:
    """Decodes n predictions, where n is the length of ``positions`` and ``replayed``.

    ``levels`` are those asked for, if the server says nothing else.

    Raises:
        ProtocolError: a column cannot be that of n predictions.
    """
    n = len(positions)
    if message.count not in (0, n):  # 0: it is left out
        raise ProtocolError(f"{message.count} predictions where {n} were asked for")
    top_tokens = table(message.top_tokens, n, np.int32, "top_tokens")
    argmax = column(message.argmax, n, np.int32, "argmax")
    if argmax is None and top_tokens is not None:
        argmax = top_tokens[:, 0]
    return Predictions(
        positions=positions,
        replayed=replayed,
        vocabulary=vocabulary,
        levels=told_levels(message.levels, levels),
        argmax=argmax,
        top_tokens=top_tokens,
        top_probabilities=table(message.top_probabilities, n, np.float32, "top_probabilities"),
        probabilities=table(message.probabilities, n, np.float32, "probabilities"),
        sampled_tokens=column(message.sampled_tokens, n, np.int32, "sampled_tokens"),
        sampled_values=column(message.sampled_values, n, np.float32, "sampled_values"),
        quantiles=table(message.quantiles, n, np.float32, "quantiles"),
        raw=table(message.raw, n, np.float32, "raw"),
    )


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Joins predictions that have the same columns.

    Raises:
        ProtocolError: they do not have the same columns.
    """
    tables = [part.columns() for part in parts]
    if any(table.keys() != tables[0].keys() for table in tables):
        raise ProtocolError("replies to one frame carry different predictions")
    joined: dict[str, Any] = {
        name: np.concatenate([table[name] for table in tables]) for name in tables[0]
    }
    return replace(parts[0], **joined)


def told_levels(told: Sequence[float], asked: tuple[float, ...]) -> tuple[float, ...]:
    """The levels that came back: as they were asked for, unless the server names others."""
    if not told or np.array_equal(np.array(told, np.float32), np.array(asked, np.float32)):
        return asked
    return tuple(round(level, 6) for level in told)


def table(numbers: Sequence[Any], n: int, dtype: Any, name: str) -> npt.NDArray[Any] | None:
    """A column of the wire as (n, width); None when it is empty.

    Raises:
        ProtocolError: it does not divide into n rows.
    """
    if not len(numbers):
        return None
    if not n or len(numbers) % n:
        raise ProtocolError(f"{len(numbers)} numbers in {name} for {n} predictions")
    return np.array(numbers, dtype).reshape(n, -1)


def column(numbers: Sequence[Any], n: int, dtype: Any, name: str) -> npt.NDArray[Any] | None:
    """A column of the wire as (n,); None when it is empty.

    Raises:
        ProtocolError: it does not hold one number per row.
    """
    rows = table(numbers, n, dtype, name)
    if rows is not None and rows.shape[1] != 1:
        raise ProtocolError(f"{len(numbers)} numbers in {name} for {n} predictions")
    return None if rows is None else rows[:, 0]
