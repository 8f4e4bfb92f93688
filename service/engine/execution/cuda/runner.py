"""A runner on a GPU.

All runs have one of a few sizes (see `buckets`), and those of single steps are recorded when the
server starts and replayed from then on, with the heads that make answers of them: what a run is
given goes there in one copy, what was asked comes back in one, and one wait is at the end. Chunks
and decodes are several steps in one replay, with the bits of single steps. Predictions stay on the
device.
"""

import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import structlog
from numpy.typing import NDArray

from models.compile.serving import ServingGraph
from service.engine.execution.ahead.runner import Ask, Begun, Found
from service.engine.execution.ahead.steps import Over
from service.engine.execution.cuda.arena import DeviceArena
from service.engine.execution.cuda.asked.at_rest import AtRest
from service.engine.execution.cuda.buckets import Buckets
from service.engine.execution.cuda.external import ExternalGraph
from service.engine.execution.cuda.graphs import all_runnable
from service.engine.execution.cuda.heads import DeviceHeads
from service.engine.execution.cuda.predictions import OnDevice, UnderWay
from service.engine.execution.cuda.several.chunks import Chunk, Chunks, open_unrolled
from service.engine.execution.cuda.several.decodes import UNIT, Decode, Decodes, decode_graphs
from service.engine.execution.cuda.steps import (
    Bucket,
    bind_steps,
    blank,
    check_tokens,
    fill,
    lay_out,
    open_steps,
    record,
)
from service.engine.execution.cuda.stream.exchange import Exchange, Region
from service.engine.execution.runtime import Bound, Place, is_lost
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
        several: have graphs of several steps as well, which `can_decode` hangs on: the model's
            weights are on the device once more for each.

    Raises:
        ModelError: the arena has more numbers than a GPU's tensors may.
        MemoryError: the device has not enough memory for it.
    """

    own_thread = True
    decode_unit = UNIT

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
        several: bool = True,
    ) -> None:
        graph = all_runnable(graph)
        self.place = place
        self._manifest = graph.manifest
        self._max_batch = max_batch
        self._exchange = Exchange(place)
        stream = self._exchange.stream
        self.arena = DeviceArena(
            graph.arena, slots=slots, lanes=max_batch, place=place, stream=stream
        )
        self._is_deterministic = deterministic
        self._sizes = Buckets(max_batch=max_batch, scratch=self.arena.scratch, single=deterministic)
        self._heads = DeviceHeads(
            graph.heads, graph.manifest, self._exchange, ours=graph.step is not None, tf32=tf32
        )
        self._buckets = {size: self._bucket(size) for size in self._sizes.sizes}
        self._external: ExternalGraph | None = None
        self._steps: dict[int, Bound] = {}
        self._chunks: Chunks | None = None
        self._decodes: Decodes | None = None
        if graph.step is None:
            self._external = ExternalGraph(
                graph.chunk,
                graph.manifest,
                self.arena,
                self._buckets,
                self._bucket(1),
                place,
                rows_run_alone=rows_run_alone,
                tf32=tf32,
                stream=stream,
            )
        else:
            step = open_steps(graph.step, place, tf32=tf32, stream=stream)
            self._steps = bind_steps(step, self.arena, self._buckets)
            self._chunks = Chunks(
                self.arena,
                self._exchange,
                self._buckets,
                self._steps,
                open_unrolled(graph, self._exchange, tf32=tf32) if several else None,
            )
            if several and (decodes := decode_graphs(graph)):
                self._decodes = Decodes(
                    decodes,
                    graph.manifest,
                    self.arena,
                    self._exchange,
                    self._buckets,
                    tf32=tf32,
                )
        self._at_rest = AtRest(graph, self.arena, self._exchange, self._buckets, tf32=tf32)
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
        """The memory and the graph of each size, for tests of what was recorded.

        What they queue is done once `wait` has returned.
        """
        return {size: (self._buckets[size], bound) for size, bound in self._steps.items()}

    def wait(self) -> None:
        """Wait for all that is queued."""
        flight = self._exchange.take()
        self._exchange.depart(flight)
        self._exchange.land(flight)

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
        there = self._buckets[self._fitting(rows, bucket)]
        every: Floats | None
        if self._chunks is not None and time == 1:
            self.begin(
                read=read, write=write, fresh=fresh, inputs=inputs, asks=(), bucket=bucket
            ).finish()
            every = there.copied()[:rows, None] if every_step else None
            return self._on_device(there, rows) if every is None else every
        self._check(read[~fresh], write, inputs)
        lanes = self._sizes.pad(
            read=read, write=write, fresh=fresh, inputs=inputs, bucket=there.size
        )
        self._begin()
        start = self.arena.starts(lanes.read, lanes.fresh)
        idle = np.ones(lanes.size - rows, np.int64)
        counts = np.concatenate([lengths, idle])
        if self._chunks is not None:
            chunk = Chunk(start=start, end=lanes.write, inputs=lanes.inputs, lengths=counts)
            every = self._chunks.run(there, chunk, rows=rows, every_step=every_step)
        else:
            assert self._external is not None, "there is no graph of single steps"
            every = self._external.run(
                there,
                rows=rows,
                read=start,
                write=lanes.write,
                inputs=lanes.inputs,
                lengths=counts,
                every_step=every_step,
            )
        return self._on_device(there, rows) if every is None else every[:rows]

    @property
    def can_begin(self) -> bool:
        """See ``AheadRunner``."""
        return self._external is None

    def begin(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        asks: Sequence[Ask],
        bucket: int = 0,
    ) -> Begun:
        """See ``AheadRunner``."""
        rows = len(inputs)
        if self._external is not None:
            predictions = self.step(
                read=read,
                write=write,
                fresh=fresh,
                inputs=inputs,
                lengths=np.ones(rows, np.int64),
                every_step=False,
                bucket=bucket,
            )
            return Over([self._found(predictions, ask) for ask in asks])
        if rows > self._max_batch:
            raise ValueError(f"{rows} rows exceed the batch of {self._max_batch}")
        there = self._buckets[self._fitting(rows, bucket)]
        self._own()
        flight = self._exchange.take()
        fill(there, flight, self.arena, read, write, fresh, inputs[:, 0])
        self._begin()
        run = UnderWay(self._exchange, self._heads, self._heads.collect(there, flight, asks))
        there.given.upload(flight, 0, run.collected.given_stop)
        self._steps[there.size].run()
        try:
            run.collected.run()
        except Exception as fault:  # of all answers: the step goes on
            run.fault = fault
        run.depart()
        return run

    def bucket(self, rows: int) -> int:
        """See ``Runner.bucket``; rows that run alone do so at one size."""
        size = self._sizes.size(rows)
        return 0 if self._is_deterministic or self.rows_run_alone else size

    def is_lost(self, fault: Exception) -> bool:
        return is_lost(self.place, fault, self._run_scratch)

    def blank(self, rows: int) -> Inputs:
        return blank(self._manifest, rows)[:, None]

    @property
    def can_decode(self) -> bool:
        return self._decodes is not None

    def decode(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        positions: Ints,
        draws: Draws,
        steps: int,
    ) -> NDArray[Any]:
        assert self._decodes is not None, "the caller asks first"
        self._check(read[~fresh], write, inputs)
        size = self._sizes.size(len(read))
        self._begin()
        start = self.arena.starts(read, fresh)
        decode = Decode(
            read=start, write=write, inputs=inputs, positions=positions, draws=draws, steps=steps
        )
        return self._decodes.run(size, decode)

    def recall(self, slots: Ints) -> Floats:
        """See ``Runner.recall``; what is returned is `OnDevice`, or an array if there are many."""
        if len(slots) > self._max_batch:
            cuts = range(0, len(slots), self._max_batch)
            parts = [self.recall(slots[cut : cut + self._max_batch]).copy() for cut in cuts]
            return np.concatenate(parts)
        self.arena.check(slots)
        self._begin()
        bucket = self._buckets[self._sizes.size(len(slots))]
        self._at_rest.recall(bucket, slots)
        return self._on_device(bucket, len(slots))

    def copy(self, read: int, write: Ints) -> None:
        self.arena.check(np.array([read]), write)
        self._begin()
        for cut in range(0, len(write), self._max_batch):
            piece = write[cut : cut + self._max_batch]
            self._at_rest.copy(self._buckets[self._sizes.size(len(piece))], read, piece)

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
            rows = slice(given.start, given.stop)
            ask = Ask(rows=rows, outputs=outputs, draws=draws, positions=positions)
            return self._heads.answer(given.bucket, ask)
        parts = []
        for cut in range(0, len(predictions), self._max_batch):
            own = slice(cut, cut + self._max_batch)
            piece = predictions[own]
            some = None if draws is None else draws.take(own)
            bucket = self._buckets[self._sizes.size(len(piece))]
            self._begin()
            bucket.put_predictions(piece)
            rows = slice(0, len(piece))
            ask = Ask(rows=rows, outputs=outputs, draws=some, positions=positions[own])
            parts.append(self._heads.answer(bucket, ask))
        return Answers.joined(parts)

    def _found(self, predictions: Floats, ask: Ask) -> Found:
        try:
            return self.answer(predictions[ask.rows], ask.outputs, ask.draws, ask.positions)
        except Exception as fault:  # of the answer: the step was applied
            return fault

    def _fitting(self, rows: int, bucket: int) -> int:
        """The size of a run of some rows, padded to ``bucket`` where bits depend on that."""
        if rows <= bucket and not self.bucket(rows):
            bucket = 0
        return self._sizes.fitting(rows, bucket)

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
        mine = threading.get_ident()
        if self._thread == mine:
            return
        if self._thread is not None and self._steps:
            raise RuntimeError("a runner on a GPU must be used by one thread only")
        self._exchange.transfers.enter()
        if self._steps:
            record(self._steps, self.arena, self._buckets)
            self._heads.record(self._buckets)
        if self._chunks is not None:
            self._chunks.record()
        if self._decodes is not None:
            self._decodes.record()
        self.wait()
        self._thread = mine  # and no sooner: a size that is not recorded would be by a real step

    def _check(self, read: Ints, write: Ints, inputs: Inputs) -> None:
        """Refuse what a GPU would not: it reads zeros, or writes to another row."""
        self.arena.check(read, write)
        check_tokens(self._manifest, inputs)

    def _on_device(self, bucket: Bucket, rows: int) -> Floats:
        version = self._version
        found = OnDevice(bucket, 0, rows, lambda: self._version == version)
        return cast(Floats, found)  # it is an array to whoever reads it

    def _bucket(self, size: int) -> Bucket:
        """The memory of the runs of a size."""
        layout = lay_out(self._manifest, size)
        self._heads.keys.add_given(layout, size)
        return Bucket(
            size=size,
            manifest=self._manifest,
            exchange=self._exchange,
            layout=layout,
            given=Region(self._exchange, layout.size),
            found=Region(self._exchange, max(1, self._heads.keys.found(size).size)),
            scores=Region(self._exchange, 4 * size * self._manifest.prediction.width),
        )
