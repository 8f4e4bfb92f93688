"""A runner on a GPU.

All runs have one of a few sizes (see `buckets`), and those of single steps are recorded when the
server starts and replayed from then on. A chunk is as many replays as it has
steps, so that its bits are those of single steps. Predictions stay on the device.
"""

import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import structlog
from numpy.typing import NDArray

from models.compile.serving import PREDICTION, ServingGraph
from models.manifest import TokensInput
from service.engine.execution.cuda import graphs
from service.engine.execution.cuda.arena import DeviceArena
from service.engine.execution.cuda.buckets import Buckets
from service.engine.execution.cuda.external import ExternalGraph
from service.engine.execution.cuda.heads import DeviceHeads
from service.engine.execution.cuda.predictions import OnDevice
from service.engine.execution.cuda.steps import Bucket, bind_steps, blank, open_steps, record
from service.engine.execution.runtime import (
    Block,
    Bound,
    Place,
    input_shapes,
    is_lost,
    open_session,
)
from service.engine.work.columns import Answers, Floats, Inputs, Ints, Outputs
from service.engine.work.sampling import Draws

_log = structlog.get_logger(__name__)


class CudaRunner:
    """See ``Runner``. All calls must come from one thread: the first one decides which.

    Args:
        graph: the model, compiled for CUDA.
        slots: rows of the arena, the scratch row included, which is the last.
        max_batch: the most rows of a run, and the most time steps in all.
        deterministic: run all rows at the largest size, so that a row's bits do not depend on
            how many others there are.
        tf32: let products round their factors to 10 bits.
        rows_run_alone: see `Runner`; for graphs that are not recorded.

    Raises:
        ModelError: the arena has more numbers than a GPU's tensors may.
        MemoryError: the device has not enough memory for it.
    """

    own_thread = True
    can_decode = False

    def __init__(
        self,
        graph: ServingGraph,
        *,
        slots: int,
        max_batch: int,
        place: Place,
        deterministic: bool = False,
        tf32: bool = False,
        rows_run_alone: bool = False,
    ) -> None:
        self.place = place
        self._manifest = graph.manifest
        self._max_batch = max_batch
        self.arena = DeviceArena(graph.arena, slots=slots, lanes=max_batch, place=place)
        self._is_deterministic = deterministic
        self._sizes = Buckets(max_batch=max_batch, scratch=self.arena.scratch, single=deterministic)
        self._buckets = {size: Bucket(size, graph.manifest, place) for size in self._sizes.sizes}
        self._given: dict[int, Block] = {}  # predictions that came from the host, by size
        self._heads = DeviceHeads(
            graph.heads, graph.manifest, place, gpu_only=graph.step is not None, tf32=tf32
        )
        self._external: ExternalGraph | None = None
        self._steps: dict[int, Bound] = {}
        if graph.step is None:
            self._external = ExternalGraph(
                graph.chunk,
                graph.manifest,
                self.arena,
                self._buckets,
                place,
                rows_run_alone=rows_run_alone,
                tf32=tf32,
            )
        else:
            step = open_steps(graph.step, place, tf32=tf32)
            self._steps = bind_steps(step, self.arena, self._buckets)
        self._recalls = self._bind_recalls(graph, tf32=tf32)
        self._moves = self._bind_moves(graph)
        _log.info(
            "arena taken",
            model=graph.manifest.name,
            device=str(place),
            rows=slots,
            bytes=self.arena.nbytes,
            sizes=list(self._sizes.sizes),
        )
        self._version = 0  # counts what has been written to the predictions
        self._thread: int | None = None

    @property
    def rows_run_alone(self) -> bool:
        """See ``Runner``."""
        return self._external is not None and self._external.rows_run_alone

    @rows_run_alone.setter
    def rows_run_alone(self, alone: bool) -> None:
        if self._external is not None:
            self._external.rows_run_alone = alone

    @property
    def cuts_matter(self) -> bool:
        """See ``Runner``: a graph that is recorded takes one step after the other."""
        return self._external is not None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that runs have, ascending."""
        return self._sizes.sizes

    @property
    def recorded(self) -> dict[int, tuple[Bucket, Bound]]:
        """The memory and the graph of each size, for tests of what was recorded."""
        return {size: (self._buckets[size], bound) for size, bound in self._steps.items()}

    def step(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
        bucket: int = 0,
    ) -> Floats:
        """See ``Runner.step``; what is returned may be `OnDevice`."""
        rows, time = inputs.shape[:2]
        if rows * time > self._max_batch:
            raise ValueError(f"{rows} rows of {time} steps exceed the batch of {self._max_batch}")
        self._check(read[~fresh], write, inputs)
        if rows <= bucket and not self.bucket(rows):
            bucket = 0  # bits do not depend on it
        lanes = self._sizes.pad(read=read, write=write, fresh=fresh, inputs=inputs, bucket=bucket)
        self._begin()
        there = self._buckets[lanes.size]
        start = self.arena.starts(lanes.read, lanes.fresh)
        idle = np.ones(lanes.size - rows, np.int64)
        counts = np.concatenate([lengths, idle])
        if self._external is not None:
            every = self._external.run(
                there,
                rows=rows,
                read=start,
                write=lanes.write,
                inputs=lanes.inputs,
                lengths=counts,
                every_step=every_step,
            )
        elif time == 1:
            there.place_step(start, lanes.write, lanes.inputs[:, 0])
            self._steps[there.size].run()
            every = there.predictions.read()[:, None] if every_step else None
        else:
            every = self._run_chunk(
                there, start, lanes.write, lanes.inputs, counts, every_step=every_step
            )
        return self._on_device(there, rows) if every is None else every[:rows]

    def bucket(self, rows: int) -> int:
        """See ``Runner.bucket``; rows that run alone do so at one size."""
        size = self._sizes.size(rows)
        return 0 if self._is_deterministic or self.rows_run_alone else size

    def is_lost(self, fault: Exception) -> bool:
        return is_lost(self.place, fault, self._run_scratch)

    def blank(self, rows: int) -> Inputs:
        return blank(self._manifest, rows)[:, None]

    def decode(self, **_: Any) -> NDArray[Any]:
        """See ``Runner.decode``: its scan cannot be recorded."""
        raise NotImplementedError("a GPU draws one step per run: see can_decode")

    def recall(self, slots: Ints) -> Floats:
        """See ``Runner.recall``; what is returned is `OnDevice`, or an array if there are many."""
        if len(slots) > self._max_batch:
            cuts = range(0, len(slots), self._max_batch)
            parts = [self.recall(slots[cut : cut + self._max_batch]).copy() for cut in cuts]
            return np.concatenate(parts)
        self.arena.check(slots)
        self._begin()
        bucket = self._buckets[self._sizes.size(len(slots))]
        read = np.full(bucket.size, self.arena.initial)
        read[: len(slots)] = slots
        bucket.place_rows(read, np.full(bucket.size, self.arena.scratch))
        self._recalls[bucket.size].run()
        return self._on_device(bucket, len(slots))

    def copy(self, read: int, write: Ints) -> None:
        self.arena.check(np.array([read]), write)
        self._begin()
        for cut in range(0, len(write), self._max_batch):
            piece = write[cut : cut + self._max_batch]
            bucket = self._buckets[self._sizes.size(len(piece))]
            target = np.full(bucket.size, self.arena.scratch)
            target[: len(piece)] = piece
            bucket.place_rows(np.full(bucket.size, read), target)
            self._moves[bucket.size].run()

    def read(self, slots: Ints) -> list[Floats]:
        self._own()
        return self.arena.read(slots)

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        self._own()
        self.arena.write(slots, rows)

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        self._own()
        given: object = predictions  # which its type does not say, see `_on_device`
        if isinstance(given, OnDevice):
            return self._heads.answer(given, outputs, draws, positions)
        parts = []
        for cut in range(0, len(predictions), self._max_batch):
            rows = slice(cut, cut + self._max_batch)
            some = None if draws is None else draws.take(rows)
            there = self._upload(predictions[rows])
            parts.append(self._heads.answer(there, outputs, some, positions[rows]))
        return Answers.joined(parts)

    def _run_chunk(
        self,
        bucket: Bucket,
        start: Ints,
        end: Ints,
        inputs: Inputs,
        lengths: Ints,
        *,
        every_step: bool,
    ) -> Floats | None:
        """Run several steps of each lane; all end with the last replay.

        In between a session's state lies in a row of its lane, so that nobody sees half a chunk,
        and a chunk that is not to be kept does not go through the scratch row, which is
        everybody's.

        Returns:
            All predictions (size, time, width) if wanted.
        """
        time = inputs.shape[1]
        begins = time - lengths  # (size,)
        inside = self.arena.lanes[: bucket.size]
        lane = np.arange(bucket.size)
        every = None
        if every_step:
            every = np.zeros((bucket.size, time, self._manifest.prediction.width), np.float32)
        for now in range(time):
            at = np.maximum(now - begins, 0)
            waits = now < begins
            read = np.where(now == begins, start, inside)
            read[waits] = self.arena.initial
            write = end if now == time - 1 else np.where(waits, self.arena.scratch, inside)
            bucket.place_step(read, write, inputs[lane, at])
            self._steps[bucket.size].run()
            if every is not None:
                works = ~waits
                every[lane[works], at[works]] = bucket.predictions.read()[works]
        return every

    def _run_scratch(self) -> None:
        """Run a step of no session."""
        scratch, one = np.array([self.arena.scratch]), np.ones(1, np.int64)
        self.step(
            read=scratch,
            write=scratch,
            fresh=np.ones(1, np.bool_),
            inputs=self.blank(1),
            lengths=one,
            every_step=True,  # they are read: some faults show no sooner
        )

    def _begin(self) -> None:
        """Make what was predicted before invalid."""
        self._own()
        self._version += 1

    def _own(self) -> None:
        """What was recorded belongs to the thread that recorded it."""
        if not self._steps:
            return
        mine = threading.get_ident()
        if self._thread is None:
            self._thread = mine
            record(self._steps, self.arena, self._buckets)
        elif self._thread != mine:
            raise RuntimeError("a runner on a GPU must be used by one thread only")

    def _check(self, read: Ints, write: Ints, inputs: Inputs) -> None:
        """Refuse what a GPU would not: it reads zeros, or writes to another row."""
        self.arena.check(read, write)
        if isinstance(self._manifest.input, TokensInput):
            tokens = len(self._manifest.input.vocabulary)
            if inputs.min() < 0 or inputs.max() >= tokens:
                raise ValueError(f"a token is not in 0..{tokens - 1}")

    def _on_device(self, bucket: Bucket, rows: int) -> Floats:
        version = self._version
        found = OnDevice(bucket.predictions, 0, rows, lambda: self._version == version)
        return cast(Floats, found)  # it is an array to whoever reads it

    def _upload(self, predictions: Floats) -> OnDevice:
        rows = len(predictions)
        size = self._sizes.size(rows)
        block = self._given.get(size)
        if block is None:
            shape = (size, self._manifest.prediction.width)
            block = self._given[size] = Block(self.place, shape, np.float32)
        whole = np.zeros(block.shape, np.float32)
        whole[:rows] = predictions
        block.write(whole)
        return OnDevice(block, 0, rows, lambda: True)

    def _bind_recalls(self, graph: ServingGraph, *, tf32: bool) -> dict[int, Bound]:
        """By size: from the rows that are read to their predictions."""
        if graph.recall is None:
            model, output = graphs.fetch(graph.arena[-1]), graphs.FOUND
        else:
            model, output = graph.recall, PREDICTION
        session = open_session(model, self.place, gpu_only=True, tf32=tf32)
        wanted = list(input_shapes(session))
        resident, _ = self.arena.views(wanted)
        return {
            size: Bound(
                session,
                {**resident, **self.arena.index(wanted, bucket.read, bucket.write)},
                {output: bucket.predictions.view()},
            )
            for size, bucket in self._buckets.items()
        }

    def _bind_moves(self, graph: ServingGraph) -> dict[int, Bound]:
        """By size: from the rows that are read to those that are written."""
        session = open_session(graphs.move(graph.arena), self.place, gpu_only=True)
        wanted = list(input_shapes(session))
        resident, after = self.arena.views(wanted)
        return {
            size: Bound(
                session,
                {**resident, **self.arena.index(wanted, bucket.read, bucket.write)},
                after,
            )
            for size, bucket in self._buckets.items()
        }
