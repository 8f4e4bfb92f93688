"""What a session has read, as another version of its model reads it.

Tokens by their text, values by the names of their features: what has no place there is refused, and
nothing is ever guessed. Knows nothing of sessions.
"""

from collections.abc import Callable

import numpy as np

from models.manifest import TokensInput, ValuesInput
from service.engine.served.registry import ServedModel
from service.engine.work.columns import Inputs
from service.errors import BadInputError

Reread = Callable[[Inputs, int], Inputs]
"""Steps as the other version reads them: of steps (steps,) or (steps, width), and the position of
the first. Raises a `BadInputError` that names the first one without a place."""


def rereading(source: ServedModel, target: ServedModel) -> Reread:
    """How a version of a model reads what another one has read.

    Raises:
        BadInputError: it reads what the other one was never given.
    """
    old, new = source.manifest.input, target.manifest.input
    if isinstance(old, TokensInput) and isinstance(new, TokensInput):
        return _tokens(old, new, target)
    if isinstance(old, ValuesInput) and isinstance(new, ValuesInput):
        return _values(old, new, target)
    raise _refused(f"{target.label} reads {new.kind}, and the session has read {old.kind}")


def _tokens(old: TokensInput, new: TokensInput, target: ServedModel) -> Reread:
    ids = {symbol: token for token, symbol in enumerate(new.vocabulary)}
    found = np.array([ids.get(symbol, -1) for symbol in old.vocabulary], np.int64)

    def reread(inputs: Inputs, first: int) -> Inputs:
        tokens = found[inputs]
        missing = np.flatnonzero(tokens < 0)
        if len(missing):
            at = int(missing[0])
            symbol = old.vocabulary[int(inputs[at])]
            raise _refused(
                f"{symbol!a}, which the session has read at position {first + at}, is not in the "
                f"vocabulary of {target.label}"
            )
        return tokens

    return reread


def _values(old: ValuesInput, new: ValuesInput, target: ServedModel) -> Reread:
    columns: list[int] = []
    for feature in new.features:
        if feature not in old.features:
            raise _refused(
                f"{target.label} reads {feature!a}, which the session was never given: it has read "
                f"{', '.join(map(ascii, old.features))}"
            )
        columns.append(old.features.index(feature))

    def reread(inputs: Inputs, first: int) -> Inputs:
        values = np.ascontiguousarray(inputs[:, columns], np.float32)
        checked = target.reader.values(values.ravel())
        if checked.bad.any():
            at = int(checked.bad.argmax())
            why = checked.explain(at).message
            raise _refused(f"{target.label} cannot read position {first + at}: {why}")
        return values

    return reread


def _refused(why: str) -> BadInputError:
    return BadInputError("model_version", f"{why}: name another version, or open a new session")
