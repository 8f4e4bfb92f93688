"""Reads a caller's inputs for one model: text, token ids or values, checked step by step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compile.series_graphs import bounds as value_bounds
from models.manifest import Manifest, TokensInput, ValuesInput
from service.engine.work.columns import Floats, Inputs, Ints
from service.errors import BadInputError


@dataclass(slots=True, kw_only=True)  # not frozen: one is made per frame
class CheckedSteps:
    """Steps as the model takes them, and which of them are bad."""

    inputs: Inputs  # (steps,) token ids or (steps, width) values; bad ones are replaced
    bad: NDArray[np.bool_]  # (steps,)
    explain: Callable[[int], BadInputError]  # why a bad step is bad

    def __len__(self) -> int:
        return len(self.inputs)

    def require(self) -> Inputs:
        """The inputs, all of them good and at least one.

        Raises:
            BadInputError: none, or the first bad one.
        """
        if not len(self):
            raise no_step(self.inputs)
        if self.bad.any():
            raise self.explain(int(self.bad.argmax()))
        return self.inputs


def no_step(inputs: Inputs) -> BadInputError:
    """What is wrong with empty inputs, and where steps belong: libraries drop misplaced ones."""
    place = "inputs.values.data" if inputs.ndim == 2 else "inputs.text or inputs.tokens.ids"
    return BadInputError("inputs", f"no step in it: send at least one, in {place}")


class InputReader:
    """Turns inputs into arrays; what it cannot use it names by field and row.

    Args:
        largest: what a value may be, whatever its sign; ``None``: anything finite.
    """

    def __init__(self, manifest: Manifest, *, largest: float | None = None) -> None:
        self._largest = largest
        self._readable: Callable[[Floats], Any] = np.isfinite
        if largest is not None:
            self._readable = partial(_is_within, np.float32(largest))
        self._input = manifest.input
        self.symbols: tuple[str, ...] = ()
        """By token id; none for a model that reads values."""
        self._token_of: Ints | None = None
        self.single_tokens = _single_tokens(manifest.input)
        """The token of each character that is one step by itself, its unknown one aside."""
        if isinstance(manifest.input, TokensInput):
            self.symbols = manifest.input.vocabulary
            self._token_of = _code_points(self.single_tokens, manifest.input.unknown)
        else:
            self._positive = np.array(manifest.input.are_positive)  # (width,)
        self.width = manifest.input.width
        """Numbers per step."""
        self.has_tokens = isinstance(manifest.input, TokensInput)
        """Whether steps are tokens, and not values."""

    def text(self, text: str) -> CheckedSteps:
        """One step per character; those the vocabulary lacks are its unknown one, if it has one."""
        if isinstance(self._input, ValuesInput):
            raise BadInputError("inputs.text", "the model reads values: send inputs.values")
        if self._token_of is None:
            raise BadInputError(
                "inputs.text", "the vocabulary is not made of characters: send inputs.tokens"
            )
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        tokens = self._token_of[np.minimum(points, len(self._token_of) - 1)]
        bad = tokens < 0
        return CheckedSteps(
            inputs=np.where(bad, 0, tokens), bad=bad, explain=partial(self._explain_text, text)
        )

    def tokens(self, ids: Ints) -> CheckedSteps:
        """One step per token id."""
        if isinstance(self._input, ValuesInput):
            raise BadInputError("inputs.tokens", "the model reads values: send inputs.values")
        bad: NDArray[np.bool_] = np.logical_or(ids < 0, ids >= len(self.symbols))
        return CheckedSteps(
            inputs=np.where(bad, 0, ids), bad=bad, explain=partial(self._explain_token, ids)
        )

    def values(self, data: Floats) -> CheckedSteps:
        """One step per row of ``width`` values, given flat."""
        if isinstance(self._input, TokensInput):
            raise BadInputError(
                "inputs.values", "the model reads tokens: send inputs.text or inputs.tokens"
            )
        if len(data) % self.width:
            raise BadInputError(
                "inputs.values",
                f"{len(data)} values are no whole number of rows: each row has {self.width} "
                f"({', '.join(self._input.features)})",
            )
        rows = data.reshape(-1, self.width)
        good = self._readable(rows)
        if self._positive.any():
            good &= (rows > 0) | ~self._positive
        bad: NDArray[np.bool_] = np.logical_not(good.all(axis=1))
        return CheckedSteps(
            inputs=np.where(bad[:, None], np.float32(1.0), rows),
            bad=bad,
            explain=partial(self._explain_value, rows),
        )

    def one_row(self, values: Floats) -> Floats | None:
        """The step of one row of values (width,), (1, width), if it is a good one."""
        if self.has_tokens or not self._readable(values).all():
            return None
        if (self._positive & (values <= 0)).any():
            return None
        return values[None]

    def future(self, data: Floats | None, horizon: int) -> Floats | None:
        """What is read beside the draws of a forecast, (horizon - 1, width - 1).

        Args:
            data: a row per step ahead of all features but the first, flat; one for the last step
                is checked and left out. ``None``: nothing was given.
            horizon: steps ahead.

        Returns:
            ``None`` where there is nothing beside the draws.

        Raises:
            BadInputError: it does not fit the model or the horizon, or a value cannot be used.
        """
        assert isinstance(self._input, ValuesInput), "tokens are generated"
        value, *others = self._input.features
        if not others:
            if data is None:
                return None
            raise BadInputError(
                "future", f"the model reads nothing beside {value}: leave the field out"
            )
        names, width = ", ".join(others), len(others)
        given = 0 if data is None else len(data)
        if given % width:
            raise BadInputError(
                "future",
                f"{given} values are no whole number of rows: each row has {width} ({names})",
            )
        rows, needed = given // width, horizon - 1
        if not needed <= rows <= horizon:
            raise BadInputError(
                "future",
                f"the model reads {names} beside {value}: a forecast of {horizon} steps takes "
                f"{needed} rows of them, or one more for the last step, not {rows}",
            )
        if data is None:
            return np.empty((0, width), np.float32)
        whole = np.ones((rows, 1 + width), np.float32)  # as if the value were good
        whole[:, 1:] = data.reshape(rows, width)
        steps = self.values(whole.ravel())
        if steps.bad.any():
            row = int(steps.bad.argmax())
            raise BadInputError("future", steps.explain(row).message, row=row)
        return whole[:needed, 1:]

    def _explain_text(self, text: str, row: int) -> BadInputError:
        return BadInputError(
            "inputs.text",
            f"{text[row]!r} (U+{ord(text[row]):04X}) is not among the model's "
            f"{len(self.symbols)} characters",
            row=row,
        )

    def _explain_token(self, ids: Ints, row: int) -> BadInputError:
        return BadInputError(
            "inputs.tokens",
            f"token {int(ids[row])} is outside 0..{len(self.symbols) - 1}",
            row=row,
        )

    def _explain_value(self, rows: Floats, row: int) -> BadInputError:
        assert isinstance(self._input, ValuesInput)
        values = rows[row]
        wrong = ~self._readable(values)
        if not wrong.any():
            wrong = self._positive & (values <= 0)
        column = int(wrong.argmax())
        if not np.isfinite(values[column]):
            wanted = "it must be finite"
        elif not self._readable(values[column]):
            wanted = f"beyond {self._largest:g} the session's state would hold no numbers any more"
        else:
            wanted = "the model works on logarithms, send values above 0"
        return BadInputError(
            "inputs.values",
            f"{self._input.features[column]} is {values[column]:g}: {wanted}",
            row=row,
        )


def _is_within(largest: np.float32, values: Floats) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = np.abs(values) <= largest  # NaN is not
    return within


def bounds(manifest: Manifest) -> tuple[np.float32, np.float32] | None:
    """What drawn values are kept within to be read again; ``None`` for a model of tokens."""
    values = manifest.input
    return value_bounds(values) if isinstance(values, ValuesInput) else None


def _single_tokens(steps: TokensInput | ValuesInput) -> dict[str, int]:
    """Token id by character; longer symbols are left to those who send tokens."""
    if not isinstance(steps, TokensInput):
        return {}
    return {symbol: token for token, symbol in enumerate(steps.vocabulary) if len(symbol) == 1}


def _code_points(characters: Mapping[str, int], unknown: int | None) -> Ints | None:
    """Token id by code point, the last one for all beyond; ``None`` where none is a character.

    What the vocabulary lacks has its unknown token, or -1 where it has none.
    """
    if not characters:
        return None
    points = [ord(symbol) for symbol in characters]
    table = np.full(max(points) + 2, -1 if unknown is None else unknown, np.int64)
    table[points] = list(characters.values())
    return table
