"""The channel numbers of one stream: a row for each, with where its session lives."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Ints
from service.engine.work.memory import Account, Held
from service.errors import BadInputError

PLACE = np.dtype(
    [
        ("attached", np.bool_),
        ("shard", np.int16),
        ("tenancy", np.int32),
        ("slot", np.int64),
        ("branch", np.uint64),
    ],
    align=True,
)
"""Where a session lives; of a channel that is not attached, the other fields mean nothing. The
branch is the one that the session had when it was attached; the slot's tenancy tells whether the
slot has changed hands since."""


class Channels:
    """Which session each channel stands for.

    Args:
        limit: channel numbers are below this.
        account: counts the memory they take.
    """

    def __init__(self, limit: int, account: Account) -> None:
        self._account = account
        self._limit = limit
        self._places = np.zeros(16, PLACE)

    def check_new(self, channels: Ints) -> None:
        """Check that channels can be attached, and make room for them.

        Raises:
            BadInputError: a number is too high, given twice, or in use.
            OverloadedError: there is no memory for a table that long.
        """
        highest = int(channels.max())
        if highest >= self._limit:
            raise BadInputError("attach.channels", f"{highest} is not below {self._limit}")
        if len(np.unique(channels)) != len(channels):
            raise BadInputError("attach.channels", "a channel appears twice")
        more = max(len(self._places), highest + 1 - len(self._places))
        if highest >= len(self._places):
            self._account.take(Held.CHANNELS, more * PLACE.itemsize)
            self._places = np.concatenate([self._places, np.zeros(more, PLACE)])
        taken = channels[self._places["attached"][channels]]
        if len(taken):
            raise BadInputError(
                "attach.channels", f"{int(taken[0])} is in use: detach it or take another"
            )

    def attach(self, channel: int, *, shard: int, tenancy: int, slot: int, branch: int) -> None:
        """Let a channel stand for a branch of the session in a slot of a shard."""
        self._places[channel] = (True, shard, tenancy, slot, branch)

    def detach(self, channels: Ints) -> Ints:
        """Let go of channels; returns those that were attached."""
        known: Ints = np.unique(channels[channels < len(self._places)])
        known = known[self._places["attached"][known]]
        self._places["attached"][known] = False
        return known

    def attached(self) -> NDArray[np.void]:
        """The `PLACE` of every channel that is attached."""
        found: NDArray[np.void] = self._places[self._places["attached"]]
        return found

    def move(self, channel: int, branch: int) -> None:
        """Let a channel stand for another branch of its session."""
        self._places["branch"][channel] = branch

    def look_up(self, channels: Ints) -> NDArray[np.void]:
        """The `PLACE` where each channel's session lives, or did."""
        inside = channels < len(self._places)
        found = self._places[channels if inside.all() else np.where(inside, channels, 0)]
        found["attached"] &= inside
        return found

    def place(self, channel: int) -> Any:
        """The `PLACE` of one channel, if it is attached."""
        if channel >= len(self._places) or not self._places["attached"][channel]:
            return None
        return self._places[channel].item()
