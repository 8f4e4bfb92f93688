"""Reads a caller's inputs for one model: text, token ids or values, checked step by step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from models.compile.series_graphs import bounds
from models.manifest import Manifest, TokensInput, ValuesInput
from service.engine.work.work import Floats, Inputs, Ints
from service.errors import BadInputError

_GOOD = np.zeros(1, np.bool_)


def _not_bad(step: int) -> BadInputError:
    raise AssertionError(f"step {step} is a good one")


@dataclass(slots=True, kw_only=True)  # not frozen: one is made per lone step
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
            raise BadInputError("inputs", "no step in it: send at least one")
        if self.bad.any():
            raise self.explain(int(self.bad.argmax()))
        return self.inputs


class InputReader:
    """Turns inputs into arrays; what it cannot use it names by field and row."""

    def __init__(self, manifest: Manifest) -> None:
        self._input = manifest.input
        self._symbols: tuple[str, ...] = ()
        self._token_of: Ints | None = None
        if isinstance(manifest.input, TokensInput):
            self._symbols = manifest.input.vocabulary
            self._token_of = _code_points(manifest.input)
        else:
            self._positive = np.array(manifest.input.are_positive)  # (width,)
        self._ids = np.arange(len(self._symbols))

    @property
    def width(self) -> int:
        """Numbers per step."""
        return self._input.width

    @property
    def has_tokens(self) -> bool:
        """Whether steps are tokens, and not values."""
        return isinstance(self._input, TokensInput)

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
        bad: NDArray[np.bool_] = np.logical_or(ids < 0, ids >= len(self._symbols))
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
        good = np.isfinite(rows)
        if self._positive.any():
            good &= (rows > 0) | ~self._positive
        bad: NDArray[np.bool_] = np.logical_not(good.all(axis=1))
        return CheckedSteps(
            inputs=np.where(bad[:, None], np.float32(1.0), rows),
            bad=bad,
            explain=partial(self._explain_value, rows),
        )

    def is_token(self, token: int) -> bool:
        """Whether it is the id of a token that the model reads."""
        return 0 <= token < len(self._symbols)

    def one_token(self, token: int) -> CheckedSteps | None:
        """The step of one token id, if it is a good one."""
        return self._one(token) if self.is_token(token) else None

    def one_symbol(self, character: str) -> CheckedSteps | None:
        """The step of one character, if it is a good one."""
        points = self._token_of
        if points is None:
            return None
        token: int = points.item(min(ord(character), len(points) - 1))
        return self._one(token) if token >= 0 else None

    def one_row(self, values: Floats) -> CheckedSteps | None:
        """The step of one row of values (width,), if it is a good one."""
        if isinstance(self._input, TokensInput) or not np.isfinite(values).all():
            return None
        if (self._positive & (values <= 0)).any():
            return None
        return CheckedSteps(inputs=values[None], bad=_GOOD, explain=_not_bad)

    def _one(self, token: int) -> CheckedSteps:
        return CheckedSteps(inputs=self._ids[token : token + 1], bad=_GOOD, explain=_not_bad)

    def within(self, drawn: Floats) -> Floats:
        """Drawn values, those that run away kept within what the model reads."""
        assert isinstance(self._input, ValuesInput), "tokens are drawn from the vocabulary"
        kept: Floats = np.clip(drawn, *bounds(self._input))
        return kept

    def text_of(self, tokens: Sequence[int]) -> str:
        """The symbols of token ids, joined."""
        symbols = self._symbols
        return "".join([symbols[token] for token in tokens])

    def symbol(self, token: int) -> str:
        """The symbol of a token id."""
        return self._symbols[token]

    def _explain_text(self, text: str, row: int) -> BadInputError:
        return BadInputError(
            "inputs.text",
            f"{text[row]!r} (U+{ord(text[row]):04X}) is not among the model's "
            f"{len(self._symbols)} characters",
            row=row,
        )

    def _explain_token(self, ids: Ints, row: int) -> BadInputError:
        return BadInputError(
            "inputs.tokens",
            f"token {int(ids[row])} is outside 0..{len(self._symbols) - 1}",
            row=row,
        )

    def _explain_value(self, rows: Floats, row: int) -> BadInputError:
        assert isinstance(self._input, ValuesInput)
        values = rows[row]
        wrong = ~np.isfinite(values)
        if not wrong.any():
            wrong = self._positive & (values <= 0)
        column = int(wrong.argmax())
        wanted = (
            "it must be finite"
            if not np.isfinite(values[column])
            else ("the model works on logarithms, send values above 0")
        )
        return BadInputError(
            "inputs.values",
            f"{self._input.features[column]} is {values[column]}: {wanted}",
            row=row,
        )


def _code_points(tokens: TokensInput) -> Ints | None:
    """Token id by code point, the last one for all beyond; ``None`` where none is a character.

    What the vocabulary lacks has its unknown token, or -1 where it has none. Longer symbols are
    left to those who send tokens.
    """
    characters = {
        ord(symbol): token for token, symbol in enumerate(tokens.vocabulary) if len(symbol) == 1
    }
    if not characters:
        return None
    absent = -1 if tokens.unknown is None else tokens.unknown
    table = np.full(max(characters) + 2, absent, np.int64)
    table[list(characters)] = list(characters.values())
    return table
