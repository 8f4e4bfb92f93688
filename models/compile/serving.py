"""What a compiled model is: graphs over one arena, and how that arena lies in memory.

The state of every session lives in resident tensors, the *arena*, with one row per slot; a graph
reads the rows of its batch and scatters the new ones back into the same buffer. Reading one row
and writing another is what makes a dry run (write to the scratch row), a fork and an atomic
multi-step commit index games. A fresh session is one too: it reads the *initial row*, which
follows the slots and is never written, so that nothing a slot held before can matter.

Tensors of equal shape lie interleaved, one session's rows side by side, and each is bound as a
view of that memory::

    block   | h0 c0 h1 c1 | h0 c0 h1 c1 | ...       (slots + 1, siblings, *shape)
    c0      +--> row 0 ------> row 4 ------> ...    the block from its place on

so that a graph reads and writes each tensor with one copy, and a session's state still costs one
visit to memory. The index of slot s is ``s * siblings``.

Knows nothing of how a graph is made or run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from models.graph.builder import FLOAT, INT64, GraphBuilder
from models.manifest import Manifest, filled

PREFIX = "cellar."
PREDICTION = PREFIX + "prediction"
PREDICTIONS = PREFIX + "predictions"
HIDDEN = PREFIX + "hidden"
DECODED = PREFIX + "decoded"
FIRST = PREFIX + "first"
UNIFORM = PREFIX + "uniform"


class Precision(StrEnum):
    """What the recurrent products are computed in."""

    FP32 = "fp32"
    INT8 = "int8"


class Device(StrEnum):
    """What a graph is made for."""

    CPU = "cpu"
    CUDA = "cuda"


def read_rows(siblings: int) -> str:
    """The input with the row each lane starts from, times ``siblings``: (batch,) int64."""
    return f"{PREFIX}read_rows_{siblings}"


def write_rows(siblings: int) -> str:
    """The input with the row each lane ends in, times ``siblings``: (batch, 1) int64."""
    return f"{PREFIX}write_rows_{siblings}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaTensor:
    """One resident tensor: ``(rows, *shape)`` float32, read and written in place.

    ``siblings`` tensors of its shape share a block, where it has ``place``. ``initial`` is what
    its initial row is filled with: one number for all entries, or one for each.
    """

    input: str
    output: str
    shape: tuple[int, ...]
    initial: float | tuple[float, ...]
    siblings: int
    place: int

    @property
    def start(self) -> NDArray[np.float32]:
        """Its initial row, (*shape)."""
        return filled(self.initial, self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingGraph:
    """What a runner needs to serve one model.

    All graphs share the arena and one arithmetic: a chunk of n steps gives the bits of n single
    steps, in any company. Each takes `read_rows` and `write_rows` for every number of siblings in
    the arena, its tensors, and the model's input.

    ``step`` takes one step per row and gives ``PREDICTION`` (batch, width); ``None`` where the
    model has only one graph. ``chunk``, empty where a device runs chunks as single steps (no
    ``every`` and no ``decode`` then), takes (batch, time) and the lengths, if the manifest names
    them, and gives ``PREDICTION`` after each row's last step and, for every step,
    ``PREDICTIONS`` (batch, time, width) or ``HIDDEN`` (time, batch, hidden), of which ``every``
    then makes ``PREDICTIONS``. ``recall`` computes ``PREDICTION`` again from a session's state;
    without it the last tensor of the arena holds it. ``decode`` runs several steps, each with what
    was drawn after the one before: ``FIRST`` (batch,) tokens or (batch, 1, 1) values, ``UNIFORM``
    (steps, batch, 1) and the head's parameters -> ``DECODED`` (steps, batch); there is one graph
    for each head that would draw, by its name.

    Without ``in_place`` ``chunk`` does not write: it gives the new rows (batch, *shape) under the
    names of the arena's outputs but for the last, whose are ``PREDICTION``, and takes no
    `write_rows`. A graph that may fail on what it reads then fails before anything is written.

    ``heads`` turn predictions into answers; each is a graph of its own, so that a row pays for
    what it asked and rows that ask for different things still share a batch. ``manifest`` names
    the inputs as the graphs do: tokens are int64 there and lengths int32.
    """

    manifest: Manifest
    arena: tuple[ArenaTensor, ...]
    heads: Mapping[str, bytes]
    step: bytes | None = None
    chunk: bytes = b""
    every: bytes | None = None
    recall: bytes | None = None
    decode: Mapping[str, bytes] = field(default_factory=dict)
    in_place: bool = True


@dataclass(slots=True)
class ArenaAccess:
    """Adds the arena's inputs and outputs to a graph, each where it is first needed."""

    builder: GraphBuilder
    device: Device
    rows: set[str] = field(default_factory=set)
    indices: dict[tuple[int, ...], str] = field(default_factory=dict)
    """On CUDA: an index for each number of the rows to write, by the shape of a row."""

    def read(self, tensor: ArenaTensor, *, output: str | None = None) -> str:
        """The rows of a tensor that the batch starts from: (batch, *shape)."""
        self.builder.input(tensor.input, FLOAT, [f"{tensor.input}.rows", *tensor.shape])
        index = self._index(read_rows(tensor.siblings), ["batch"])
        return self.builder.node("Gather", tensor.input, index, output=output, axis=0)

    def write(self, tensor: ArenaTensor, new: str) -> None:
        """Put new rows (batch, *shape) in their place."""
        if tensor.input not in {value.name for value in self.builder.inputs}:
            self.builder.input(tensor.input, FLOAT, [f"{tensor.input}.rows", *tensor.shape])
        index = self._index(write_rows(tensor.siblings), ["batch", 1])
        self._scatter(tensor, index, new)
        self.builder.output(tensor.output, FLOAT, [f"{tensor.input}.rows", *tensor.shape])

    def _scatter(self, tensor: ArenaTensor, index: str, new: str) -> None:
        # ScatterND takes a thread per row on CUDA, and overwrites a real row where an index is
        # out of range; ScatterElements wants one index per number.
        if self.device is Device.CPU:
            self.builder.node("ScatterND", tensor.input, index, new, output=tensor.output)
            return
        indices = self.indices.get(tensor.shape)
        if indices is None:
            indices = self.indices[tensor.shape] = self._spread(index, tensor.shape)
        self.builder.node(
            "ScatterElements", tensor.input, indices, new, output=tensor.output, axis=0
        )

    def _spread(self, index: str, shape: tuple[int, ...]) -> str:
        """From (batch, 1) to (batch, *shape), for all tensors of a shape."""
        builder = self.builder
        if len(shape) > 1:
            axes = builder.constant([*range(2, len(shape) + 1)])
            index = builder.node("Unsqueeze", index, axes)
        if math.prod(shape) == 1:
            return index
        return builder.node("Add", index, builder.constant(np.zeros(shape, np.int64)))

    def _index(self, name: str, shape: list[int | str]) -> str:
        if name not in self.rows:
            self.rows.add(name)
            self.builder.input(name, INT64, shape)
        return name


def arena_rows(
    manifest: Manifest, states: Mapping[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], ...]:
    """What a session's rows in the arena are at the start, where its states are given.

    Args:
        manifest: the model's.
        states: of each state by the name of its input, as many numbers as it has, row-major.

    Returns:
        A row of each tensor of `lay_out`, in its order; there is no prediction yet.
    """
    rows = [states[state.input].reshape(state.shape) for state in manifest.states]
    if manifest.prediction_is_resident:
        rows.append(np.zeros(manifest.prediction.width, np.float32))
    return tuple(rows)


def named_states(
    manifest: Manifest, rows: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What `arena_rows` was given, (*shape) each, of a session's rows at any position."""
    return {state.input: row for state, row in zip(manifest.states, rows, strict=False)}


def lay_out(manifest: Manifest) -> tuple[ArenaTensor, ...]:
    """The arena of a model: its states, then its last prediction where that is resident."""
    parts: list[tuple[tuple[int, ...], float | tuple[float, ...], str]] = [
        (state.shape, state.initial, str(index)) for index, state in enumerate(manifest.states)
    ]
    if manifest.prediction_is_resident:
        parts.append(((manifest.prediction.width,), 0.0, "prediction"))
    shapes = [shape for shape, _, _ in parts]
    return tuple(
        ArenaTensor(
            input=f"{PREFIX}arena_{name}",
            output=f"{PREFIX}arena_{name}_next",
            shape=shape,
            initial=initial,
            siblings=shapes.count(shape),
            place=shapes[:index].count(shape),
        )
        for index, (shape, initial, name) in enumerate(parts)
    )
