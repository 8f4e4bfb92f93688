"""What the numbers of a network stand for, and whether other data can be read in the same way."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from training.errors import DataError, listed

Meaning: TypeAlias = dict[str, Any]
"""Words and numbers that a checkpoint keeps beside the weights."""


def translation(
    own: Sequence[str],
    known: Sequence[str],
    *,
    unknown: int | None,
    what: str,
    source: str,
    of: str,
) -> Tensor:
    """The number that each of one's own names has among the known ones, ``(own,)`` int64.

    A name that is not known gets ``unknown``.

    Args:
        own: names of the data, by their numbers in it.
        known: names of the network, by their numbers in it.
        unknown: the number of what is not known; None: there is none.
        what: what the names are, in the plural.
        source: the data.
        of: the run that the network comes from.

    Raises:
        DataError: some are not known, and the network has nothing to take them for.
    """
    numbers = {name: number for number, name in enumerate(known)}
    strangers = [name for name in own if name not in numbers]
    if strangers and unknown is None:
        raise DataError(
            f"{source}: {what} that {of} does not know: {listed(map(repr, strangers))}; leave them "
            "out, or train anew without --from"
        )
    return torch.tensor([numbers.get(name, unknown) for name in own], dtype=torch.int64)


def require_same(own: object, known: object, *, what: str, source: str, of: str) -> None:
    """See that something is the same in the data and in the run that the network comes from.

    Raises:
        DataError: it is not.
    """
    if own == known:
        return
    raise DataError(
        f"{source}: {what}: here {_shown(own)}, in {of} {_shown(known)}; make them alike, or train "
        "anew without --from"
    )


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return listed(value) or "none"
    return str(value)
