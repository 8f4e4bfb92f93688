"""Chunks: several given steps of each row, in as few replays as there can be.

A replay takes one step of all lanes or, in the small sizes where a launch costs more than the step,
several. All that is queued is waited for once, at the end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compile.serving import PREDICTION, ServingGraph
from models.manifest import Manifest, TokensInput
from service.engine.execution.cuda.arena import DeviceArena
from service.engine.execution.cuda.several.staging import Returned, Staging
from service.engine.execution.cuda.several.unrolling import NotUnrolledError, step_input, unrolled
from service.engine.execution.cuda.steps import Bucket, blank, open_steps
from service.engine.execution.cuda.stream.exchange import Exchange, Region
from service.engine.execution.cuda.stream.layout import Layout
from service.engine.execution.cuda.stream.transfers import Bytes
from service.engine.execution.runtime import Bound, Session, View, input_shapes
from service.engine.work.columns import Floats, Inputs, Ints

UNROLLED = 8
"""Steps of an unrolled replay."""
LARGEST = 16
"""The largest size that has one: in larger ones a step takes longer than its launch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Several steps of each lane of a run.

    Attributes:
        start: the row that each lane starts from, (size,).
        end: the row that each lane ends in, (size,).
        inputs: tokens (size, time), or values (size, time, width).
        lengths: steps of each lane, (size,).
    """

    start: Ints
    end: Ints
    inputs: Inputs
    lengths: Ints


def open_unrolled(graph: ServingGraph, exchange: Exchange, *, tf32: bool) -> Session | None:
    """The graph of `UNROLLED` steps; ``None`` where that of a single step cannot be unrolled."""
    assert graph.step is not None, "there is a graph of single steps"
    try:
        several = unrolled(graph.step, graph.manifest, graph.arena, UNROLLED)
    except NotUnrolledError:
        return None
    return open_steps(several, exchange.place, tf32=tf32, stream=exchange.stream)


class Chunks:
    """The chunks of one model.

    Args:
        steps: the graph of a single step, bound in each size.
        unrolled: that of `UNROLLED` steps; ``None`` where there is none.
    """

    def __init__(
        self,
        arena: DeviceArena,
        exchange: Exchange,
        buckets: Mapping[int, Bucket],
        steps: Mapping[int, Bound],
        unrolled: Session | None,
    ) -> None:
        self._arena = arena
        self._buckets = buckets
        self._steps = steps
        self._units: dict[int, _Unit] = {}
        if unrolled is not None:
            self._units = {
                size: _Unit(unrolled, arena, exchange, bucket, number=number)
                for number, (size, bucket) in enumerate(buckets.items(), start=1)
                if size <= LARGEST
            }
        largest = max(
            *(bucket.step_bytes for bucket in buckets.values()),
            *(unit.layout.size for unit in self._units.values()),
            0,
        )
        self._staging = Staging(exchange, max(2**18, 8 * (largest + 256)))
        self._returned = Returned(exchange)

    def record(self) -> None:
        """Run each unrolled graph once, which records it: see `steps.record`."""
        for size, unit in self._units.items():
            nobody = np.full(size, self._arena.initial), np.full(size, self._arena.scratch)
            step = blank(self._buckets[size].manifest, size)
            self._put_unrolled(unit, *nobody, step[None].repeat(UNROLLED, axis=0))
            unit.bound.run()
        self._staging.wait()

    def run(self, bucket: Bucket, chunk: Chunk, *, rows: int, every_step: bool) -> Floats | None:
        """Run several steps of each lane; all end with the last replay.

        In between a session's state lies in a row of its lane, so that nobody sees half a chunk,
        and a chunk that is not to be kept does not go through the scratch row, which is
        everybody's.

        Returns:
            All predictions of the first ``rows`` lanes (rows, time, width) if wanted.
        """
        time = chunk.inputs.shape[1]
        width = bucket.manifest.prediction.width
        found: list[Bytes] = []
        if every_step:
            self._returned.begin(4 * rows * time * width)
        with self._staging.waited():
            for now, count in self._cuts(bucket, chunk, every_step=every_step):
                self._queue(bucket, chunk, now, count)
                if every_step:
                    size = 4 * rows * width
                    found.append(self._returned.download(bucket.predictions.address, size))
        if not every_step:
            return None
        each = np.stack(found).view(np.float32).reshape(time, rows, width)
        every = np.zeros((rows, time, width), np.float32)
        for row, count in enumerate(chunk.lengths[:rows].tolist()):
            every[row, :count] = each[time - count :, row]
        return every

    def _queue(self, bucket: Bucket, chunk: Chunk, now: int, count: int) -> None:
        """Queue the replay of some time steps of all lanes."""
        read, write = self._rows(bucket, chunk, now, now + count)
        begins = chunk.inputs.shape[1] - chunk.lengths
        at = np.maximum(np.arange(now, now + count)[:, None] - begins, 0)  # (count, size)
        inputs: Inputs = chunk.inputs[np.arange(bucket.size), at]
        if count > 1:
            unit = self._units[bucket.size]
            self._put_unrolled(unit, read, write, inputs)
            unit.bound.run()
            return
        memory = self._staging.take(bucket.step_bytes)
        bucket.arrays(memory).put(read, write, inputs[0])
        self._staging.upload(bucket.given.block.view(), 0, bucket.step_bytes)
        self._steps[bucket.size].run()

    def _cuts(self, bucket: Bucket, chunk: Chunk, *, every_step: bool) -> Iterator[tuple[int, int]]:
        """The first time step of each replay, and how many it takes.

        No lane begins in the midst of an unrolled one, and each ends with its last prediction.
        """
        time = chunk.inputs.shape[1]
        begins = set((time - chunk.lengths).tolist())
        now = 0
        while now < time:
            inside = range(now + 1, now + UNROLLED)
            fits = bucket.size in self._units and now + UNROLLED <= time
            count = UNROLLED if fits and not every_step and begins.isdisjoint(inside) else 1
            yield now, count
            now += count

    def _rows(self, bucket: Bucket, chunk: Chunk, now: int, stop: int) -> tuple[Ints, Ints]:
        """The rows that lanes read and write in a replay of some time steps, (size,) each."""
        time = chunk.inputs.shape[1]
        begins = time - chunk.lengths
        inside = self._arena.lanes[: bucket.size]
        waits = now < begins
        read = np.where(now == begins, chunk.start, inside)
        read[waits] = self._arena.initial
        write = chunk.end if stop == time else np.where(waits, self._arena.scratch, inside)
        return read, write

    def _put_unrolled(self, unit: "_Unit", read: Ints, write: Ints, inputs: Inputs) -> None:
        """Queue what an unrolled replay is given; ``inputs`` (steps, size, ...)."""
        memory, fields = self._staging.take(unit.layout.size), unit.layout.fields
        fields["read"].array(memory)[:] = read
        fields["write"].array(memory)[:, 0] = write
        own = fields["inputs"].array(memory)
        own[:] = inputs.reshape(own.shape)
        self._staging.upload(unit.given.block.view(), 0, unit.layout.size)


class _Unit:
    """The unrolled graph, bound to memory of one size."""

    def __init__(
        self,
        session: Session,
        arena: DeviceArena,
        exchange: Exchange,
        bucket: Bucket,
        *,
        number: int,
    ) -> None:
        size, manifest = bucket.size, bucket.manifest
        self.layout = Layout()
        read = self.layout.add("read", (size,), np.int64)
        write = self.layout.add("write", (size, 1), np.int64)
        shape, dtype = input_of(manifest, size)
        inputs = self.layout.add("inputs", (UNROLLED, *shape), dtype)
        self.given = Region(exchange, self.layout.size)
        wanted, block = list(input_shapes(session)), self.given.block
        resident, after = arena.bindings(wanted, read.view(block), write.view(block))
        given: dict[str, View | NDArray[Any]] = {**resident}
        for step in range(UNROLLED):
            given[step_input(step)] = inputs.part(step).view(block)
        self.bound = Bound(
            session,
            given,
            {**after, PREDICTION: bucket.predictions},
            number=number,
            waits=False,
        )


def input_of(manifest: Manifest, size: int) -> tuple[tuple[int, ...], type[np.generic]]:
    """The shape and the type of what a step of all lanes reads."""
    if isinstance(manifest.input, TokensInput):
        return (size,), np.int64
    return (size, 1, manifest.input.width), np.float32
