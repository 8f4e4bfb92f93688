"""The arena in memory: the resident tensors of one model, and the rows that a run starts from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compile.serving import ArenaTensor
from service.engine.execution.runner import check_rows, check_slots
from service.engine.work.columns import Floats, Ints


class Memory:
    """Zeroed buffers for an arena, with the initial row filled in.

    Untouched pages of a zeroed buffer cost no memory: an arena for a million sessions takes what
    the sessions that were opened take.

    Args:
        tensors: the arena's tensors.
        slots: rows of the arena, the scratch row included.
    """

    def __init__(self, tensors: Sequence[ArenaTensor], *, slots: int) -> None:
        self.initial = slots
        """The row that fresh sessions start from."""
        self._tensors = tuple(tensors)
        # Tensors of one shape lie interleaved: (slots + 1, siblings, *shape).
        self._blocks: dict[tuple[int, ...], Floats] = {
            tensor.shape: np.zeros((slots + 1, tensor.siblings, *tensor.shape), np.float32)
            for tensor in tensors
        }
        for tensor in tensors:
            self._blocks[tensor.shape][slots, tensor.place] = tensor.start
        self.siblings = sorted({tensor.siblings for tensor in tensors})
        self.views = [self._blocks[tensor.shape][:slots, tensor.place] for tensor in tensors]
        """Each tensor's rows, (slots, *shape), in the arena's order."""
        self.rows = list(self._blocks.values())
        """All rows, (slots + 1, siblings, *shape), by shape."""

    def read(self, slots: Ints) -> list[Floats]:
        """See ``Runner.read``."""
        check_slots(slots, self.initial)
        return [view[slots] for view in self.views]

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        """See ``Runner.write``."""
        check_slots(slots, self.initial)
        check_rows(slots, rows, [tensor.shape for tensor in self._tensors])
        for view, own in zip(self.views, rows, strict=True):
            view[slots] = own

    def bindable(self) -> list[tuple[ArenaTensor, NDArray[Any]]]:
        """Each tensor with the contiguous memory to bind: its rows are every ``siblings``-th."""
        return [
            (tensor, self._blocks[tensor.shape].reshape(-1, *tensor.shape)[tensor.place :])
            for tensor in self._tensors
        ]
