"""What one session has read, as far back as it can be put: its history.

Parts, one after the other: each begins with a base, the whole state at a position, and has the
steps that were read from there on, as columns. A session is put to a position by the last base
before it, and by reading again what follows. Knows nothing of slots, queues or stores.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.engine.log.groups.entries import DRAWN, Steps
from service.engine.log.seeds import Seed
from service.engine.work.columns import Inputs
from service.engine.work.work import Piece
from service.store.records import Section

ALL = 2**53
"""So many steps and more are all of them."""
BASE_STEPS = 4096  # behind which there is another base: what going back costs at most


@dataclass(slots=True, eq=False)
class Part:
    """A base, and what was read from there on.

    Attributes:
        base: where it begins.
        inputs: token ids, or the values of one step after the other.
        width: values of a step; 0 for tokens.
        pieces: what the steps ran in, three numbers each: the position behind it, the bucket and
            the time steps, as in `Piece`; nothing where bits do not depend on that.
        stored: so many of the steps are in the table as they are here, or on their way; -1: not
            even the base.
        is_there: so many of them for sure.
    """

    base: Seed
    inputs: "array[Any]"
    width: int
    pieces: "array[int]" = field(default_factory=lambda: array("q"))
    stored: int = -1
    is_there: int = -1

    @property
    def steps(self) -> int:
        """How many."""
        return len(self.inputs) // max(1, self.width)

    @property
    def end(self) -> int:
        """The position behind the last of them."""
        return self.base.position + self.steps

    @property
    def nbytes(self) -> int:
        """Memory that it takes, about."""
        return self.base.nbytes + self.inputs.itemsize * len(self.inputs) + 8 * len(self.pieces)

    def read(self, inputs: Inputs, pieces: Sequence[Piece]) -> None:
        """Steps were read; the pieces' stops count from the first of them."""
        first = self.end
        columns = inputs.astype(np.float32 if self.width else np.int32, copy=False)
        self.inputs.frombytes(columns.tobytes())
        if not pieces and not self.pieces:
            return
        if not self.pieces and first > self.base.position:  # of these nobody knew
            self.pieces.extend((first, 0, 0))
        for piece in pieces or [Piece(len(inputs))]:
            own = self.pieces
            if len(own) and not piece.run_steps and own[-2:].tolist() == [piece.bucket, 0]:
                del own[-3:]  # where they may be cut anywhere, those of one bucket are one piece
            own.extend((first + piece.stop, piece.bucket, piece.run_steps))

    def cut(self, position: int) -> None:
        """Forget what was read from a position on, which lies within."""
        del self.inputs[(position - self.base.position) * max(1, self.width) :]
        first = bisect_right(self.pieces[::3], position - 1)
        if 3 * first < len(self.pieces):
            begins = self.pieces[3 * first - 3] if first else self.base.position
            own = self.pieces[3 * first : 3 * first + 3]
            del self.pieces[3 * first :]
            if begins < position:
                self.pieces.extend((position, own[1], own[2]))
        self.stored = min(self.stored, self.steps)
        self.is_there = min(self.is_there, self.steps)

    def since(self, base: Seed) -> "Part":
        """What was read from another base on, which lies within."""
        done = base.position - self.base.position
        pieces = self.pieces[3 * bisect_right(self.pieces[::3], base.position) :]
        return Part(base, self.inputs[done * max(1, self.width) :], self.width, pieces)

    def until(self, position: int) -> Steps:
        """What was read up to a position, as if it had come one by one."""
        count = position - self.base.position
        found = np.array(self.inputs[: count * max(1, self.width)])
        if self.width:
            found = found.reshape(-1, self.width)
        own = np.array(self.pieces, np.int64).reshape(-1, 3)
        own = own[: bisect_right(self.pieces[::3], position - 1) + 1]
        if not len(own):
            own = np.array([[position, 0, 0]], np.int64)
        stops = np.minimum(own[:, 0], position)
        if count and stops[-1] < position:  # of the last ones nobody knows
            own = np.concatenate([own, [[position, 0, 0]]])
            stops = np.append(stops, position)
        steps = np.diff(stops, prepend=self.base.position)
        is_there = steps > 0
        stops, steps, own = stops[is_there], steps[is_there], own[is_there]
        nothing = np.zeros(len(steps), np.int64)
        return Steps(
            sessions=nothing,
            positions=stops - steps,
            steps=steps,
            flags=nothing + DRAWN,
            buckets=own[:, 1],
            run_steps=own[:, 2],
            inputs=found,
        )

    def pack(self, position: int, arithmetic: str) -> list[Section]:
        """For the table, as far as a position."""
        tail = self.until(position)
        columns: dict[str, Any] = {
            "steps": tail.steps,
            "bucket": tail.buckets,
            "run_steps": tail.run_steps,
        }
        meta: dict[str, str | int] = {"arithmetic": arithmetic, "width": self.width}
        columns["inputs"] = tail.inputs
        return [self.base.pack(), Section("history", meta, columns)]

    @classmethod
    def unpack(cls, sections: Sequence[Section], arithmetic: str) -> "Part":
        """What `pack` made; of another arithmetic what it ran in is not known.

        Raises:
            ValueError: it makes no sense.
        """
        base, told = Seed.unpack(sections[0]), sections[1]
        width = int(told.meta["width"])
        inputs = np.asarray(told.columns["inputs"])
        names = ("steps", "bucket", "run_steps")
        steps, buckets, run_steps = (told.columns[name].astype(np.int64) for name in names)
        counts = steps.tolist()
        if sum(counts) != len(inputs) or any(count < 1 for count in counts):
            raise ValueError(f"{sum(counts)} steps have {len(inputs)} inputs")
        if inputs.shape[1:] != ((width,) if width else ()):
            raise ValueError(f"inputs of {inputs.shape} in a history of width {width}")
        found = cls(base, array("f" if width else "i"), width)
        pieces: list[Piece] = []
        if told.meta["arithmetic"] == arithmetic and (buckets.any() or run_steps.any()):
            stops = np.cumsum(steps).tolist()
            pieces = list(map(Piece, stops, buckets.tolist(), run_steps.tolist()))
        found.read(inputs, pieces)
        found.stored = found.is_there = found.steps
        return found


class Chronicle:
    """The history of one session: its parts, each of which begins where the one before ends.

    Attributes:
        keeps: so many of its last steps are kept at least; `ALL` is all.
        waits: its next base is on its way.
        counted: what it takes, in bytes, as whoever counts that knows.
        owner: whose it is, as that one knows.

    Args:
        width: values of a step; 0 for tokens.
    """

    def __init__(self, keeps: int, width: int) -> None:
        self.keeps = min(keeps, ALL)
        self.parts: list[Part] = []
        self.waits = False
        self.counted = 0
        self.owner = 0
        self._width = width

    @property
    def _dtype(self) -> type[np.generic]:
        return np.float32 if self._width else np.int32

    @property
    def begins(self) -> int | None:
        """The earliest position that the session can be put to; ``None``: there is none yet."""
        return self.parts[0].base.position if self.parts else None

    @property
    def end(self) -> int:
        """How far it goes; -1 where there is nothing yet."""
        return self.parts[-1].end if self.parts else -1

    @property
    def wants_base(self) -> bool:
        """Whether it is time for another base."""
        if self.waits:
            return False
        return not self.parts or len(self.parts[-1].inputs) >= BASE_STEPS * (self._width or 1)

    @property
    def nbytes(self) -> int:
        """Memory that it takes, about."""
        return sum([part.nbytes for part in self.parts])

    def begin(self, base: Seed) -> None:
        """Begin anew with a state."""
        self.parts = [self._part(base.without_history())]

    def read_plainly(self, position: int, data: bytes) -> bool:
        """Steps were read where it ends, in whatever runs; False where they are to be `read`.

        It is counted as grown by them. ``data`` is of int32 or float32.
        """
        if not self.parts:
            return False
        part = self.parts[-1]
        stands = part.base.position + len(part.inputs) // (self._width or 1)
        if stands != position or part.pieces:
            return False
        part.inputs.frombytes(data)
        self.counted += len(data)
        return True

    def read(self, position: int, inputs: Inputs, pieces: Sequence[Piece] = ()) -> None:
        """Steps were read from a position on; what is known of them is not taken twice."""
        if not self.parts:
            return
        part, end = self.parts[-1], self.parts[-1].end
        if position > end:  # something is missing: what follows can only begin with another base
            self.parts = []
            return
        known = end - position
        if known >= len(inputs):
            return
        if known:
            inputs = inputs[known:]
            pieces = [own._replace(stop=own.stop - known) for own in pieces if own.stop > known]
        part.read(inputs, pieces)

    def add(self, base: Seed) -> None:
        """The session's state at a position; lets go of what is not to be kept any more."""
        position = base.position
        if not self.parts:
            self.begin(base)
            return
        at = self._at(position)
        if at is None or position > self.end or self.parts[at].base.position == position:
            return
        part = self.parts[at]
        self.parts.insert(at + 1, part.since(base.without_history()))
        part.cut(position)
        while len(self.parts) > 1 and self.end - self.parts[1].base.position >= self.keeps:
            del self.parts[0]

    def cut(self, position: int) -> bool:
        """Forget what was read from a position on; False where it begins behind that."""
        at = self._at(position)
        if at is None:
            return False
        del self.parts[at + 1 :]
        if position < self.end:
            self.parts[at].cut(position)
        return True

    def back_to(self, position: int) -> tuple[Seed, Steps] | None:
        """What puts the session to a position: a state, and what it reads from there on.

        ``None`` where that is not kept.
        """
        at = self._at(position)
        if at is None or position > self.end:
            return None
        part = self.parts[at]
        return part.base, part.until(position)

    def inputs(self, start: int) -> Inputs:
        """What was read from a position on, which is not before it begins."""
        found = [np.zeros((0, self._width) if self._width else 0, self._dtype)]
        for part in self.parts:
            if part.end > start:
                done = max(start - part.base.position, 0)
                own = np.array(part.inputs[done * max(1, self._width) :], self._dtype)
                found.append(own.reshape(-1, self._width) if self._width else own)
        return np.concatenate(found)

    def not_there(self, base: int) -> tuple[Seed, Steps]:
        """What of it may not be in the table yet: a state, and what was read from there on.

        With the part in which ``base`` lies, and what follows: not every state that a session goes
        back to is one of these.
        """
        first, last = 0, self._at(base) or 0
        while first < last and self.parts[first].is_there == self.parts[first].steps:
            first += 1
        own = self.parts[first:]
        tails = [part.until(part.end) for part in own]
        some = [tail for tail in tails if len(tail)]
        return own[0].base, Steps.joined(some) if some else tails[0]

    def _at(self, position: int) -> int | None:
        """The part in which a position lies, or behind which, if none."""
        found = bisect_right(self.parts, position, key=lambda part: part.base.position) - 1
        return None if found < 0 else found

    def _part(self, base: Seed) -> Part:
        return Part(base, array("f" if self._width else "i"), self._width)
