"""Single steps on a device, in runs of fixed sizes that are recorded once and replayed.

Per size there is one block of indices, one of inputs and one of predictions, bound for good: a
replay reads and writes the addresses that were recorded.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compile.serving import PREDICTION
from models.errors import ModelError
from models.manifest import Manifest, TokensInput
from service.engine.execution.cuda.arena import DeviceArena
from service.engine.execution.cuda.graphs import runnable
from service.engine.execution.runtime import (
    Block,
    Bound,
    DeviceError,
    Place,
    Session,
    View,
    input_shapes,
    open_session,
)
from service.engine.work.columns import Inputs, Ints

_READ, _WRITE, _TOKENS = range(3)


class Bucket:
    """The memory of all runs of one size.

    Args:
        size: rows of a run.
    """

    def __init__(self, size: int, manifest: Manifest, place: Place) -> None:
        self.size = size
        self.manifest = manifest
        self._name = manifest.input.name
        # One copy to the device for all integers.
        self._has_tokens = isinstance(manifest.input, TokensInput)
        self._index = Block(place, (3 if self._has_tokens else 2, size), np.int64)
        self._values = (
            None if self._has_tokens else Block(place, (size, 1, manifest.input.width), np.float32)
        )
        self.predictions = Block(place, (size, manifest.prediction.width), np.float32)
        self._integers = np.zeros(self._index.shape, np.int64)

    @property
    def read(self) -> View:
        """The rows to read, (size,)."""
        return self._index.view(_READ * self.size, (self.size,))

    @property
    def write(self) -> View:
        """The rows to write, (size, 1)."""
        return self._index.view(_WRITE * self.size, (self.size, 1))

    def place_rows(self, read: Ints, write: Ints) -> None:
        """Say which rows a run reads and writes, (size,) each."""
        self._integers[_READ], self._integers[_WRITE] = read, write
        self._index.write(self._integers)

    def place_step(self, read: Ints, write: Ints, inputs: Inputs) -> None:
        """The same, and what each row reads: tokens (size,) or values (size, width)."""
        if self._values is not None:
            self._values.write(inputs.astype(np.float32, copy=False)[:, None])
        else:
            self._integers[_TOKENS] = inputs
        self.place_rows(read, write)

    def inputs(self) -> dict[str, View]:
        """What a graph of single steps reads: tokens (size,), or values (size, 1, width)."""
        if self._values is not None:
            return {self._name: self._values.view()}
        return {self._name: self._index.view(_TOKENS * self.size, (self.size,))}


def open_steps(
    graph: bytes, place: Place, *, tf32: bool = False, profile_prefix: str | None = None
) -> Session:
    """Load a graph of single steps, to be recorded.

    Raises:
        ModelError: the device cannot run it by itself.
    """
    try:
        return open_session(
            runnable(graph),
            place,
            captured=True,
            gpu_only=True,
            tf32=tf32,
            profile_prefix=profile_prefix,
        )
    except DeviceError:
        raise
    except Exception as error:  # whatever the runtime throws
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"{place} cannot run its steps by itself ({reason}): serve it with --device cpu"
        ) from error


def bind_steps(
    session: Session, arena: DeviceArena, buckets: Mapping[int, Bucket]
) -> dict[int, Bound]:
    """Bind a graph of single steps to the memory of each size."""
    wanted = list(input_shapes(session))
    found = {}
    for number, (size, bucket) in enumerate(buckets.items(), start=1):
        resident, after = arena.views(wanted)
        inputs: dict[str, View | NDArray[Any]] = {
            **resident,
            **arena.index(wanted, bucket.read, bucket.write),
            **bucket.inputs(),
        }
        outputs = {**after, PREDICTION: bucket.predictions.view()}
        found[size] = Bound(session, inputs, outputs, number=number)
    return found


def record(bound: Mapping[int, Bound], arena: DeviceArena, buckets: Mapping[int, Bucket]) -> None:
    """Run each size once, which records it: from the initial row to the scratch row.

    ONNX Runtime runs a graph three times before the recording is done, so this must not touch a
    row that anybody reads. It must be done by the thread that will replay it.
    """
    for size, run in bound.items():
        nobody = np.full(size, arena.initial), np.full(size, arena.scratch)
        buckets[size].place_step(*nobody, blank(buckets[size].manifest, size))
        run.run()


def blank(manifest: Manifest, rows: int) -> Inputs:
    """One valid step for each of several rows: tokens (rows,) or values (rows, width)."""
    if isinstance(manifest.input, TokensInput):
        return np.zeros(rows, np.int64)
    return np.ones((rows, manifest.input.width), np.float32)
