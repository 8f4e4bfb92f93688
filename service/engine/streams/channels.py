"""The channel numbers of one stream: columns from channel to slot."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Ints
from service.errors import BadInputError

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the sessions of some channels live, a column each, (rows,).

    Of a channel that is not attached, the other columns mean nothing.
    """

    attached: NDArray[np.bool_]
    shards: NDArray[np.int16]
    slots: Ints
    generations: NDArray[np.int32]


class Channels:
    """Which session each channel stands for.

    A channel remembers its shard, its slot there, and the slot's generation, by which a slot is
    known to have changed hands.

    Args:
        limit: channel numbers are below this.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._shards = np.zeros(16, np.int16)
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
            self._shards = _grown(self._shards, size)
            self._slots = _grown(self._slots, size)
            self._generations = _grown(self._generations, size)
            self._attached = _grown(self._attached, size)
        taken = channels[self._attached[channels]]
        if len(taken):
            raise BadInputError(
                "attach.channels", f"{int(taken[0])} is in use: detach it or take another"
            )

    def attach(self, channel: int, *, shard: int, slot: int, generation: int) -> None:
        """Let a channel stand for the session in a slot of a shard."""
        self._shards[channel] = shard
        self._slots[channel] = slot
        self._generations[channel] = generation
        self._attached[channel] = True

    def detach(self, channels: Ints) -> Ints:
        """Let go of channels; returns those that were attached."""
        known = np.unique(channels[channels < len(self._attached)])
        known = known[self._attached[known]]
        self._attached[known] = False
        return known

    def look_up(self, channels: Ints) -> Places:
        """Where each channel's session lives, or did."""
        inside = channels < len(self._attached)
        known = channels if inside.all() else np.where(inside, channels, 0)
        return Places(
            attached=inside & self._attached[known],
            shards=self._shards[known],
            slots=self._slots[known],
            generations=self._generations[known],
        )

    def place(self, channel: int) -> tuple[int, int, int] | None:
        """Shard, slot and generation of one channel, if it is attached."""
        if channel >= len(self._attached) or not self._attached.item(channel):
            return None
        return (
            self._shards.item(channel),
            self._slots.item(channel),
            self._generations.item(channel),
        )


def _grown(column: NDArray[_Scalar], size: int) -> NDArray[_Scalar]:
    longer = np.zeros(size, column.dtype)
    longer[: len(column)] = column
    return longer
