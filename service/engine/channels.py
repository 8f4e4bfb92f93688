"""The channel numbers of one stream: columns from channel to slot."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.batch import Ints
from service.errors import BadInputError

_Scalar = TypeVar("_Scalar", bound=np.generic)


class Channels:
    """Which session each channel stands for.

    A channel remembers its slot and the slot's generation, by which a slot is known to have
    changed hands.

    Args:
        limit: channel numbers are below this.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots = np.zeros(16, np.int64)
        self._generations = np.zeros(16, np.int32)
        self._attached = np.zeros(16, np.bool_)

    def check_new(self, channels: Ints) -> None:
        """Check that channels can be attached, and make room for them.

        Raises:
            BadInputError: a number is too high, given twice, or in use.
        """
        highest = int(channels.max())
        if highest >= self._limit:
            raise BadInputError("attach.channels", f"{highest} is not below {self._limit}")
        if len(np.unique(channels)) != len(channels):
            raise BadInputError("attach.channels", "a channel appears twice")
        if highest >= len(self._attached):
            size = max(2 * len(self._attached), highest + 1)
            self._slots = _grown(self._slots, size)
            self._generations = _grown(self._generations, size)
            self._attached = _grown(self._attached, size)
        taken = channels[self._attached[channels]]
        if len(taken):
            raise BadInputError(
                "attach.channels", f"{int(taken[0])} is in use: detach it or take another"
            )

    def attach(self, channel: int, slot: int, generation: int) -> None:
        """Let a channel stand for the session in a slot."""
        self._slots[channel] = slot
        self._generations[channel] = generation
        self._attached[channel] = True

    def detach(self, channels: Ints) -> Ints:
        """Let go of channels; returns those that were attached."""
        known = np.unique(channels[channels < len(self._attached)])
        known = known[self._attached[known]]
        self._attached[known] = False
        return known

    def look_up(self, channels: Ints) -> tuple[NDArray[np.bool_], Ints, NDArray[np.int32]]:
        """Whether each channel is attached, its slot, and the slot's generation then.

        Slot and generation of a channel that is not attached mean nothing.
        """
        inside = channels < len(self._attached)
        known = np.where(inside, channels, 0)
        return inside & self._attached[known], self._slots[known], self._generations[known]


def _grown(column: NDArray[_Scalar], size: int) -> NDArray[_Scalar]:
    longer = np.zeros(size, column.dtype)
    longer[: len(column)] = column
    return longer
