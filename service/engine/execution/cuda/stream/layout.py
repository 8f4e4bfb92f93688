"""How arrays lie in a block of bytes, on the device and on the host alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.execution.cuda.stream.transfers import ALIGNED, Bytes
from service.engine.execution.runtime import Block, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """An array in a block of bytes."""

    start: int  # bytes
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def stop(self) -> int:
        """The byte behind its last one."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize

    def part(self, index: int) -> "Field":
        """One of the arrays that it is made of, along its first axis."""
        shape = self.shape[1:]
        step = math.prod(shape) * self.dtype.itemsize
        return Field(start=self.start + index * step, shape=shape, dtype=self.dtype)

    def view(self, block: Block) -> View:
        """Where it lies in a block."""
        return block.part(self.start, self.shape, self.dtype)

    def array(self, memory: Bytes) -> NDArray[Any]:
        """The same in the host's memory; writing to it writes there."""
        return memory[self.start : self.stop].view(self.dtype).reshape(self.shape)


class Layout:
    """Fields one behind the other, each aligned."""

    def __init__(self) -> None:
        self.fields: dict[str, Field] = {}
        self.size = 0
        """Bytes in all."""

    def add(self, name: str, shape: Sequence[int], dtype: type[np.generic]) -> Field:
        """Add a field at the end."""
        field = Field(start=self.size, shape=tuple(shape), dtype=np.dtype(dtype))
        self.fields[name] = field
        self.size = -(-field.stop // ALIGNED) * ALIGNED
        return field
