"""Which session is on which channel of a stream, and at which position."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from cellar.errors import BadInputError, CellarError
from cellar.values.arguments import MOST_CHANNELS
from cellar.values.predictions import Positions


class Channels:
    """The channels of one stream. Positions are those that the next frame will carry."""

    def __init__(self) -> None:
        """No channels yet."""
        self.sessions: dict[int, str] = {}
        self._lost: dict[int, CellarError] = {}
        self.in_doubt: set[int] = set()
        """Those whose session a reset of ours may have put on another branch, without an answer."""
        self._free: list[int] = []
        self._used = 0
        self.branches: dict[int, int] = {}
        """Of the sessions, by channel, where the server has told them."""
        self._positions = np.zeros(64, np.int64)  # (capacity,)
        self._ready = np.zeros(64, np.bool_)  # (capacity,)
        self._tenancies = np.zeros(64, np.int64)  # (capacity,) how often each was let go or lost

    def reserve(self, session_ids: Sequence[str]) -> dict[int, str]:
        """Gives each session the lowest free channel number; returns ids by channel.

        Raises:
            BadInputError: more channels than a stream can have.
        """
        if len(self.sessions) + len(session_ids) > MOST_CHANNELS:
            raise BadInputError(f"a stream has at most {MOST_CHANNELS} channels")
        reserved: dict[int, str] = {}
        for session_id in session_ids:
            if self._free:
                channel = heapq.heappop(self._free)
            else:
                channel = self._used
                self._used += 1
            reserved[channel] = session_id
        if self._used > len(self._ready):
            grow = max(self._used, 2 * len(self._ready)) - len(self._ready)
            self._positions = np.pad(self._positions, (0, grow))
            self._ready = np.pad(self._ready, (0, grow))
            self._tenancies = np.pad(self._tenancies, (0, grow))
        self.sessions.update(reserved)
        return reserved

    def attached(self, channel: int, position: int, branch: int) -> None:
        """A channel is ready, its session at this position of a branch (0: unknown)."""
        self._ready[channel] = True
        if branch:
            self.branches[channel] = branch
        self._positions[channel] = position

    def begin_resets(self, channels: Iterable[int]) -> None:
        """Channels are being reset; they are not ready."""
        for channel in channels:
            self._ready[channel] = False
            self.in_doubt.add(channel)

    def begin_anew(self, channel: int, branch: int, position: int = 0) -> None:
        """A channel's session was reset; whatever was before is of another tenancy."""
        self.stay(channel)
        self._tenancies[channel] += 1
        self.attached(channel, position, branch)

    def stay(self, channel: int) -> None:
        """A channel was not reset."""
        self.in_doubt.discard(channel)
        self._ready[channel] = channel in self.sessions

    def leave_resets(self, channels: Iterable[int]) -> None:
        """Resets were given up: whether they were done is found out when the stream resumes."""
        for channel in channels:
            self._ready[channel] = channel in self.sessions

    def release(self, channels: Iterable[int]) -> None:
        """Channels are gone; their numbers may be used again."""
        for channel in channels:
            self.in_doubt.discard(channel)
            self.branches.pop(channel, None)
            if self.sessions.pop(channel, None) is not None:
                self._ready[channel] = False
                self._tenancies[channel] += 1
                heapq.heappush(self._free, channel)
            elif self._lost.pop(channel, None) is not None:
                heapq.heappush(self._free, channel)

    def lose(self, channel: int, error: CellarError) -> None:
        """A session could not be attached again; whoever names its channel is told why."""
        del self.sessions[channel]
        self.branches.pop(channel, None)
        self.in_doubt.discard(channel)
        self._ready[channel] = False
        self._tenancies[channel] += 1
        self._lost[channel] = error

    def check(self, channels: npt.NDArray[np.int64]) -> None:
        """Checks that all channels (rows,) are ready.

        Raises:
            BadInputError: one never was, or was let go.
            CellarError: one was lost when the stream was resumed.
        """
        known = (channels >= 0) & (channels < len(self._ready))
        if known.all() and self._ready[channels].all():
            return
        for channel in channels.tolist():
            if channel in self._lost:
                raise self._lost[channel]
            if channel in self.in_doubt and not self._ready[channel]:
                raise BadInputError(f"channel {channel} is being reset: wait for that")
            if channel not in self.sessions or not self._ready[channel]:
                raise BadInputError(f"channel {channel} is not attached")

    def positions(self, channels: npt.NDArray[np.int64]) -> Positions:
        """The positions that the next frame will carry (rows,)."""
        return self._positions[channels]

    def tenancies(self, channels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Tells whether channels have changed hands since (rows,)."""
        return self._tenancies[channels]

    def move(self, channels: npt.NDArray[np.int64], positions: Positions) -> None:
        """Sets the positions that the next frame will carry (rows,)."""
        self._positions[channels] = positions
