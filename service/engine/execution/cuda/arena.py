"""The arena on a device: resident tensors that are read and written in place.

Each tensor lies by itself, so that a row's index is its slot: on a GPU nothing is gained from
tensors that lie side by side, and ONNX Runtime's scatter counts the numbers of one tensor in 32
bits. Behind the slots come the initial row and a row for each lane of a run, which holds a
session's state in the midst of a chunk.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.compile.serving import ArenaTensor, read_rows, write_rows
from models.errors import ModelError
from service.engine.execution.cuda import graphs
from service.engine.execution.runner import check_rows, check_slots
from service.engine.execution.runtime import (
    Block,
    Place,
    View,
    input_shapes,
    open_session,
    run_to_host,
)
from service.engine.work.columns import Floats, Ints

MOST_NUMBERS = 2**31 - 1
"""In one tensor: offsets beyond it would wrap around and write to another row."""
_FILLED_AT_ONCE = 2**26
_MOVED_AT_ONCE = 1024  # rows to or from the host, which bounds what a device needs for them


class DeviceArena:
    """The resident tensors of one model, zeroed, with the initial row filled in.

    Args:
        tensors: the arena's tensors.
        slots: rows that the engine names, the scratch row included, which is the last.
        lanes: the most rows of a run.
        stream: see `open_session`.

    Raises:
        ModelError: a tensor would be too large.
        MemoryError: the device has not that much.
    """

    def __init__(
        self,
        tensors: Sequence[ArenaTensor],
        *,
        slots: int,
        lanes: int,
        place: Place,
        stream: int | None = None,
    ) -> None:
        self.tensors = tuple(tensors)
        self.slots = slots
        self.scratch = slots - 1
        self.initial = slots
        self.lanes = np.arange(slots + 1, slots + 1 + lanes)  # of lane 0, 1, ...
        rows = slots + 1 + lanes
        widest = max(math.prod(tensor.shape) for tensor in tensors)
        if rows * widest > MOST_NUMBERS:
            too_many = rows - MOST_NUMBERS // widest
            raise ModelError(
                f"{slots} rows of {widest} numbers are more than a tensor on a GPU may hold "
                f"(2^31): lower --max-sessions by {too_many}, or spread the sessions over more "
                "--shards"
            )
        self._blocks = [Block(place, (rows, *tensor.shape), np.float32) for tensor in tensors]
        self.nbytes = sum(4 * rows * math.prod(tensor.shape) for tensor in tensors)
        """Bytes it takes on the device."""
        self._fill(place)
        self._gather = open_session(
            graphs.gather(self.tensors), place, gpu_only=True, stream=stream
        )
        new = graphs.given(len(self.tensors))
        self._scatter = open_session(
            graphs.scatter(self.tensors, new), place, gpu_only=True, stream=stream
        )

    def views(self, wanted: Sequence[str]) -> "tuple[dict[str, View], dict[str, View]]":
        """What to bind: of the graph inputs that are wanted, and every output."""
        pairs = list(zip(self.tensors, self._blocks, strict=True))
        return (
            {tensor.input: block.view() for tensor, block in pairs if tensor.input in wanted},
            {tensor.output: block.view() for tensor, block in pairs},
        )

    def index(self, wanted: Sequence[str], read: View, write: View) -> dict[str, View]:
        """The graph inputs with the rows to read (batch,) and to write (batch, 1)."""
        found = {}
        for siblings in {tensor.siblings for tensor in self.tensors}:
            found[read_rows(siblings)] = read
            found[write_rows(siblings)] = write
        return {name: view for name, view in found.items() if name in wanted}

    def bindings(
        self, wanted: Sequence[str], read: View, write: View
    ) -> "tuple[dict[str, View], dict[str, View]]":
        """`views` and `index` together: the graph inputs that are wanted, and every output."""
        resident, after = self.views(wanted)
        return {**resident, **self.index(wanted, read, write)}, after

    def starts(self, read: Ints, fresh: NDArray[np.bool_]) -> Ints:
        """The row each lane starts from: its slot, or the initial row if it is fresh."""
        return np.where(fresh, self.initial, read)

    def check(self, *slots: Ints) -> None:
        """A GPU does not say that an index is out of range: it writes to another row.

        Raises:
            ValueError: a slot that there is not.
        """
        for some in slots:
            check_slots(some, self.slots)

    def read(self, slots: Ints) -> list[Floats]:
        """See ``Runner.read``."""
        self.check(slots)
        names = graphs.fetched(len(self.tensors))
        resident, _ = self.views(list(input_shapes(self._gather)))
        pieces = []
        for cut in range(0, len(slots), _MOVED_AT_ONCE) or (0,):  # of no rows, too
            index = {
                read_rows(siblings): slots[cut : cut + _MOVED_AT_ONCE]
                for siblings in {tensor.siblings for tensor in self.tensors}
            }
            pieces.append(run_to_host(self._gather, {**resident, **index}, {}, fetched=names))
        if len(pieces) == 1:
            return [pieces[0][name] for name in names]
        return [np.concatenate([piece[name] for piece in pieces]) for name in names]

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        """See ``Runner.write``."""
        self.check(slots)
        check_rows(slots, rows, [tensor.shape for tensor in self.tensors])
        resident, after = self.views(list(input_shapes(self._scatter)))
        new = graphs.given(len(self.tensors))
        for cut in range(0, len(slots), _MOVED_AT_ONCE):
            piece = slice(cut, cut + _MOVED_AT_ONCE)
            index = {
                write_rows(siblings): slots[piece, None]
                for siblings in {tensor.siblings for tensor in self.tensors}
            }
            given = {name: own[piece] for name, own in zip(new, rows, strict=True)}
            run_to_host(self._scatter, {**resident, **index, **given}, after)

    def copied(self) -> list[NDArray[np.float32]]:
        """Each tensor's rows as they are now, the initial one and the lanes' included."""
        return [block.read() for block in self._blocks]

    def load(self, rows: Sequence[NDArray[np.float32]]) -> None:
        """Put back what `copied` returned, or anything of those shapes."""
        for block, own in zip(self._blocks, rows, strict=True):
            block.write(own)

    def _fill(self, place: Place) -> None:
        zeros = open_session(graphs.fill(0.0), place)
        for tensor, block in zip(self.tensors, self._blocks, strict=True):
            size = math.prod(block.shape)
            for start in range(0, size, _FILLED_AT_ONCE):
                count = min(_FILLED_AT_ONCE, size - start)
                shape = {graphs.SHAPE: np.array([count])}
                run_to_host(zeros, dict(shape), {graphs.FILLED: block.view(start, (count,))})
            row = tensor.start.ravel()
            if row.any():
                initial = open_session(graphs.copy(), place)
                own = block.view(self.initial * row.size, row.shape)
                run_to_host(initial, {graphs.VALUES: row}, {graphs.FILLED: own})
