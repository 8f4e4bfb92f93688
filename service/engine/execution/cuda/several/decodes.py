"""Decoding on the device: each draw is the next step, without the host in between.

A replay takes 8, 4 or 1 steps of all lanes; the next one begins with what the last one has drawn,
which lies on the device. All of them are queued, and waited for once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compile.series_graphs import bounds
from models.compile.serving import PREDICTION, ServingGraph
from models.manifest import Manifest, TokensInput
from service.engine.execution.cuda.arena import DeviceArena
from service.engine.execution.cuda.several.chunks import input_of
from service.engine.execution.cuda.several.staging import Returned, Staging
from service.engine.execution.cuda.several.unrolling import (
    NEXT,
    NotUnrolledError,
    step_drawn,
    step_input,
    step_uniform,
    unrolled_decode,
)
from service.engine.execution.cuda.steps import Bucket, blank, open_steps
from service.engine.execution.cuda.stream.exchange import Exchange, Region
from service.engine.execution.cuda.stream.layout import Layout
from service.engine.execution.cuda.stream.transfers import Bytes
from service.engine.execution.heads import ALL, DrawMode, Rows, draw_modes, parameters
from service.engine.execution.runtime import Bound, Session, View, input_shapes
from service.engine.work.columns import Inputs, Ints
from service.engine.work.sampling import Draws, uniforms

STEPS = (8, 4, 1)
"""Of a replay."""
UNIT = 4
"""A multiple of it needs no replays of one step."""

_FIRST, _READ, _WRITE, _UNIFORM = "first", "read", "write", "uniform"
_PARAMETERS: Mapping[str, type[np.generic]] = {
    "temperature": np.float32,
    "top_k": np.int64,
    "top_p": np.float32,
}
_MIDDLE = 0.5  # noise that any lane may be given
_SOME = 64  # steps of a decode whose draws have room from the start
_MODES = (DrawMode.PLAIN, DrawMode.FILTERED, DrawMode.GREEDY)


def decode_graphs(graph: ServingGraph) -> dict[tuple[DrawMode, int], bytes]:
    """By how it draws and its steps; nothing where the model draws none, or cannot be unrolled."""
    manifest = graph.manifest
    if graph.step is None:
        return {}
    heads: dict[DrawMode, str] = {}
    limits = None
    if isinstance(manifest.input, TokensInput):
        heads = {mode: mode.value for mode in _MODES if "sample" in graph.heads}
    elif "quantiles" in graph.heads and manifest.input.width == 1:  # a draw is a whole step
        heads = {DrawMode.VALUES: "quantiles"}
        low, high = bounds(manifest.input)
        limits = float(low), float(high)
    try:
        return {
            (mode, steps): unrolled_decode(
                graph.step, graph.heads[name], manifest, graph.arena, steps, bounds=limits
            )
            for mode, name in heads.items()
            for steps in STEPS
        }
    except NotUnrolledError:
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """What is decoded.

    Attributes:
        read: the row that each row starts from, (rows,).
        write: the row that each row ends in, (rows,).
        inputs: what each row reads first: tokens (rows,), or values (rows, 1).
        positions: each row's position once it has read that, (rows,).
        steps: how many each row reads, and draws.
    """

    read: Ints
    write: Ints
    inputs: Inputs
    positions: Ints
    draws: Draws
    steps: int


class Decodes:
    """The decoding of one model.

    Args:
        graphs: see `decode_graphs`.
    """

    def __init__(
        self,
        graphs: Mapping[tuple[DrawMode, int], bytes],
        manifest: Manifest,
        arena: DeviceArena,
        exchange: Exchange,
        buckets: Mapping[int, Bucket],
        *,
        tf32: bool,
    ) -> None:
        self._manifest = manifest
        self._arena = arena
        self._is_tokens = isinstance(manifest.input, TokensInput)
        self._dtype = np.dtype(np.int32 if self._is_tokens else np.float32)
        self._units: dict[tuple[DrawMode, int, int], _Unit] = {}
        self._memory = {size: _Memory(exchange, manifest, size) for size in buckets}
        for (mode, steps), graph in graphs.items():
            session = open_steps(graph, exchange.place, tf32=tf32, stream=exchange.stream)
            for number, (size, bucket) in enumerate(buckets.items(), start=1):
                self._units[mode, steps, size] = _Unit(
                    session, arena, bucket, self._memory[size], steps=steps, number=number
                )
        largest = max(own.layout.size for own in self._memory.values())
        self._staging = Staging(exchange, max(2**18, 8 * largest))
        self._returned = Returned(exchange)
        self._returned.begin(self._dtype.itemsize * _SOME * max(buckets))

    def record(self) -> None:
        """Run each graph once, which records it: see `steps.record`."""
        for (_, steps, size), unit in self._units.items():
            nobody = np.full(size, self._arena.initial), np.full(size, self._arena.scratch)
            self._put(size, *nobody, blank(self._manifest, size), steps, {}, np.arange(size))
            unit.bound.run()
        self._staging.wait()

    def run(self, size: int, decode: Decode) -> NDArray[Any]:
        """Read a step, draw the next one, read that, and so on, at one size.

        Returns:
            What was drawn, (rows, steps).
        """
        modes = self._modes(decode.draws)
        self._returned.begin(self._dtype.itemsize * size * decode.steps * len(modes))
        found: list[tuple[Ints, list[Bytes]]] = []
        with self._staging.waited():
            for mode, chosen in modes:
                lanes = np.arange(len(decode.read))[chosen]
                found.append((lanes, self._queue(size, decode, mode, lanes)))
        drawn = np.empty((len(decode.read), decode.steps), self._dtype)
        for lanes, pieces in found:
            columns = np.concatenate(pieces).view(self._dtype).reshape(decode.steps, size)
            drawn[lanes] = columns[:, lanes].T
        return drawn

    def _queue(self, size: int, decode: Decode, mode: DrawMode, lanes: Ints) -> list[Bytes]:
        """Queue all steps of the rows that draw in one way, each in its lane.

        Returns:
            What the replays will have drawn, (steps, size) in all.
        """
        memory = self._memory[size]
        read = np.full(size, self._arena.initial)
        write = np.full(size, self._arena.scratch)
        read[lanes], write[lanes] = decode.read[lanes], decode.write[lanes]
        given = parameters(decode.draws, mode)
        at = decode.positions[None, :] + np.arange(decode.steps)[:, None]  # (steps, rows)
        uniform = uniforms(decode.draws.seed, at)
        first: Inputs | None = decode.inputs
        pieces: list[Bytes] = []
        done = 0
        for steps in _pieces(decode.steps):
            given[_UNIFORM] = uniform[done : done + steps]
            self._put(size, read, write, first, steps, given, lanes)
            self._units[mode, steps, size].bound.run()
            drawn = self._dtype.itemsize * steps * size
            pieces.append(self._returned.download(memory.drawn_address, drawn))
            done, first = done + steps, None
            read[lanes] = write[lanes]  # where the last one has left them
        return pieces

    def _modes(self, draws: Draws) -> list[tuple[DrawMode, Rows]]:
        if self._is_tokens:
            return draw_modes(draws, vocabulary=self._manifest.prediction.width)
        return [(DrawMode.VALUES, ALL)]

    def _put(
        self,
        size: int,
        read: Ints,
        write: Ints,
        first: Inputs | None,
        steps: int,
        given: Mapping[str, NDArray[Any]],
        lanes: Ints,
    ) -> None:
        """Queue what a replay is given; without ``first``, it reads what was drawn last.

        Lanes of nobody draw with what is valid, and any of it would do.
        """
        memory = self._memory[size]
        layout, fields = memory.layout, memory.layout.fields
        piece = self._staging.take(layout.size)
        fields[_READ].array(piece)[:] = read
        fields[_WRITE].array(piece)[:, 0] = write
        noise = fields[_UNIFORM].array(piece)[:, :, 0]
        noise[:] = _MIDDLE
        if _UNIFORM in given:
            noise[:steps, lanes] = given[_UNIFORM][:, lanes]
        for name in _PARAMETERS:
            if name in fields:
                column = fields[name].array(piece)
                column[:] = 1
                if name in given:
                    column[lanes] = given[name][lanes]
        start = fields[_READ].start
        if first is not None:
            start = fields[_FIRST].start
            whole = fields[_FIRST].array(piece)
            whole[: len(first)] = first.reshape((len(first), *whole.shape[1:]))
            whole[len(first) :] = whole[:1]
        self._staging.upload(memory.given.block.view(), start, layout.size)


class _Memory:
    """What decodes of one size are given, and what they draw."""

    def __init__(self, exchange: Exchange, manifest: Manifest, size: int) -> None:
        self.layout = Layout()
        shape, dtype = input_of(manifest, size)
        self.layout.add(_FIRST, shape, dtype)
        self.layout.add(_READ, (size,), np.int64)
        self.layout.add(_WRITE, (size, 1), np.int64)
        self.layout.add(_UNIFORM, (max(STEPS), size, 1), np.float32)
        drawn = Layout()
        is_tokens = isinstance(manifest.input, TokensInput)
        if is_tokens:
            for name, of in _PARAMETERS.items():
                self.layout.add(name, (size, 1), of)
            self.drawn = drawn.add("drawn", (max(STEPS), size), np.int32)
        else:
            self.drawn = drawn.add("drawn", (max(STEPS), size, 1, 1), np.float32)
        self.given = Region(exchange, self.layout.size)
        self.found = Region(exchange, drawn.size)

    @property
    def drawn_address(self) -> int:
        """Where the draws of a replay begin, (steps, size)."""
        return self.drawn.view(self.found.block).address


class _Unit:
    """One of the graphs, bound to the memory of one size."""

    def __init__(
        self,
        session: Session,
        arena: DeviceArena,
        bucket: Bucket,
        memory: _Memory,
        *,
        steps: int,
        number: int,
    ) -> None:
        wanted, block = list(input_shapes(session)), memory.given.block
        fields = memory.layout.fields
        read, write = (fields[name].view(block) for name in (_READ, _WRITE))
        resident, after = arena.bindings(wanted, read, write)
        first = fields[_FIRST].view(block)
        inputs: dict[str, View | NDArray[Any]] = {
            **resident,
            step_input(0): first,
        }
        outputs = {**after, PREDICTION: bucket.predictions, NEXT: first}
        for step in range(steps):
            if step_uniform(step) in wanted:
                inputs[step_uniform(step)] = fields[_UNIFORM].part(step).view(block)
            outputs[step_drawn(step)] = memory.drawn.part(step).view(memory.found.block)
        for name in _PARAMETERS:
            if name in wanted:
                inputs[name] = fields[name].view(block)
        self.bound = Bound(session, inputs, outputs, number=number, waits=False)


def _pieces(steps: int) -> Iterator[int]:
    """The steps of each replay, for so many in all."""
    for own in STEPS:
        while steps >= own:
            yield own
            steps -= own
