"""What sessions have read, and their server may lose in a crash: kept to be sent once more.

A server may answer steps before they are on its disk, and says so. Knows nothing of connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellar.streams.pending import Rows
from cellar.values.inputs import Steps

Data = str | npt.NDArray[Any]
"""Steps of one session: text, token ids (steps,), or values (steps, width)."""

MOST_KEPT = 2**18
"""Characters or numbers, of one session; what is older is let go of."""
MOST_KEPT_STREAM = 2**22
"""The same, of all sessions of a stream."""
_PIECE = 32  # numbers that it costs to know of a piece
_STEPS_AT_ONCE = 256  # of one session: few enough for any server
_NUMBERS_AT_ONCE = 2**14


def size_of(data: Data) -> int:
    """Characters or numbers."""
    return len(data) if isinstance(data, str) else data.size


def as_steps(data: Data) -> Steps:
    """The steps of one session, to be sent."""
    return Steps(data, np.array([len(data)]))


def between(pieces: Iterable[tuple[int, Data]], start: int, stop: int) -> list[tuple[int, Data]]:
    """What leads from one position to another, as it may be sent: each with its position before.

    Equal arguments are cut alike, so that what is sent once more is what was sent.

    Args:
        pieces: what was read, with the position before each; of two at one place the later holds.
        start: where the session is.
        stop: where it was.

    Raises:
        LookupError: some of it is not there.
    """
    found: list[tuple[int, Data]] = []
    at = start
    for position, data in sorted(dict(pieces).items(), key=lambda piece: piece[0]):
        if position + len(data) <= at or position >= stop:
            continue
        if position > at:
            break
        part = data[at - position : stop - position]
        joined = _joined(found[-1][1], part) if found else None
        if joined is None:
            found.append((at, part))
        else:
            found[-1] = found[-1][0], joined
        at += len(part)
    if at < stop:
        raise LookupError(f"what was read at {at} is not there")
    return found


def _joined(first: Data, second: Data) -> Data | None:
    """Both in one, if they may be sent so."""
    if len(first) + len(second) > _STEPS_AT_ONCE:
        return None
    if size_of(first) + size_of(second) > _NUMBERS_AT_ONCE:
        return None
    if isinstance(first, str) and isinstance(second, str):
        return first + second
    if isinstance(first, str) or isinstance(second, str):
        return None
    return np.concatenate([first, second])


class Tail:
    """What one session has read behind the last position that is known to be durable."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._pieces: deque[tuple[int, Data]] = deque()
        self._size = 0
        self._end = 0

    def add(self, position: int, data: Data, durable: int | None) -> None:
        """Steps were read at a position; up to ``durable`` it is kept (None: nobody says)."""
        if durable is None:
            self.clear()
            return
        while self._pieces and self._pieces[-1][0] >= position:  # the same once more
            self._size -= size_of(self._pieces.pop()[1]) + _PIECE
        if self._pieces and self._pieces[-1][0] + len(self._pieces[-1][1]) != position:
            self.clear()
        self._end = position + len(data)
        self._pieces.append((position, data))
        self._size += size_of(data) + _PIECE
        self.trim(durable)
        while self._size > MOST_KEPT:
            self._drop()

    def trim(self, durable: int) -> None:
        """What was read up to a position is durable."""
        while self._pieces and self._pieces[0][0] + len(self._pieces[0][1]) <= durable:
            self._drop()

    def moved(self, position: int) -> None:
        """The session was found at a position, whoever has led it there."""
        if position != self._end:
            self.clear()

    def clear(self) -> None:
        """Nothing of it is needed."""
        self._pieces.clear()
        self._size = 0

    def between(self, start: int, stop: int) -> list[tuple[int, Data]]:
        """What leads from one position to another; see ``between``."""
        return between(self._pieces, start, stop)

    def _drop(self) -> None:
        _, data = self._pieces.popleft()
        self._size -= size_of(data) + _PIECE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """Rows of a frame that were answered together."""

    group: int
    channels: Rows
    tenancies: Rows
    positions: Rows
    steps: Steps

    @property
    def size(self) -> int:
        """Characters or numbers, and what it costs to know of them."""
        return size_of(self.steps.data) + 4 * len(self.channels) + _PIECE


class StreamTail:
    """What the sessions of a stream have read in groups that are not known to be durable."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._kept: deque[_Kept] = deque()  # groups in order
        self._size = 0

    def add(
        self,
        group: int,
        *,
        channels: Rows,
        tenancies: Rows,
        positions: Rows,
        steps: Steps,
    ) -> None:
        """Rows were answered that are in a group.

        Args:
            group: the group, which is not durable.
            channels: whose, (rows,).
            tenancies: of the channels, (rows,).
            positions: before the steps, (rows,).
            steps: what they have read.
        """
        kept = _Kept(
            group=group, channels=channels, tenancies=tenancies, positions=positions, steps=steps
        )
        self._kept.append(kept)
        self._size += kept.size
        while self._size > MOST_KEPT_STREAM:
            self._drop()

    def trim(self, durable: int) -> None:
        """Groups up to this are durable."""
        while self._kept and self._kept[0].group <= durable:
            self._drop()

    def of(self, tenancies: Mapping[int, int]) -> dict[int, list[tuple[int, Data]]]:
        """What some channels have read, as long as they have these tenancies, in order."""
        found: dict[int, list[tuple[int, Data]]] = {channel: [] for channel in tenancies}
        for kept in self._kept:
            stops = np.cumsum(kept.steps.counts)
            for row, (channel, tenancy) in enumerate(
                zip(kept.channels.tolist(), kept.tenancies.tolist(), strict=True)
            ):
                if tenancies.get(channel) == tenancy:
                    start = int(stops[row] - kept.steps.counts[row])
                    data = kept.steps.data[start : int(stops[row])]
                    found[channel].append((int(kept.positions[row]), data))
        return found

    def _drop(self) -> None:
        self._size -= self._kept.popleft().size
