"""Runs batches of steps on the CPU.

The arena is bound to the graphs' inputs and outputs at once, so that a step writes in place and
touches only the rows of its batch. What a graph of somebody else's finds is written once it has
run. Calls on one runner must not overlap.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.compile.serving import (
    DECODED,
    FIRST,
    HIDDEN,
    PREDICTION,
    PREDICTIONS,
    UNIFORM,
    ServingGraph,
    read_rows,
    write_rows,
)
from models.manifest import TokensInput
from service.engine.execution.cpu.arena import Memory
from service.engine.execution.heads import ALL, DrawMode, Heads, Rows, draw_modes, parameters
from service.engine.execution.runner import UnwrittenError
from service.engine.execution.runtime import (
    Binding,
    Session,
    bindable,
    complaint,
    input_shapes,
    open_session,
)
from service.engine.work.columns import Answers, Floats, Inputs, Ints, Outputs
from service.engine.work.sampling import Draws, Sampling, uniforms

_ROWS_AT_ONCE = 256
_MOST_BOUND = 256  # sizes of decodes and recalls that stay bound


class _Run(NamedTuple):
    """What decides the shapes of a run, and where in the buffers its rows begin."""

    start: int
    rows: int
    time: int
    every_step: bool


class _Bound(NamedTuple):
    """A graph with the memory that it reads and writes: binding costs more than a small run."""

    binding: Binding
    feeds: dict[str, NDArray[Any]]
    found: NDArray[Any]


class CpuRunner:
    """A runner on the CPU.

    Args:
        slots: rows of the arena, the scratch row included.
        max_batch: the most rows of a run, and the most time steps in all.
        rows_run_alone: see `Runner`.
    """

    own_thread = False
    cuts_matter = False  # `probe` has seen that they do not

    def __init__(
        self, graph: ServingGraph, *, slots: int, max_batch: int, rows_run_alone: bool = False
    ) -> None:
        self.rows_run_alone = rows_run_alone
        manifest = graph.manifest
        self._manifest = manifest
        self._chunk = open_session(graph.chunk)
        self._step = self._chunk if graph.step is None else open_session(graph.step)
        self._every = None if graph.every is None else open_session(graph.every)
        self._recalls = None if graph.recall is None else open_session(graph.recall)
        self._decode = {DrawMode(name): open_session(part) for name, part in graph.decode.items()}
        self._heads = Heads(graph.heads, manifest)
        self._memory = Memory(graph.arena, slots=slots)
        self.arena = self._memory.views
        self._arena = [(tensor, bindable(rows)) for tensor, rows in self._memory.bindable()]
        self._read = {n: np.zeros(max_batch, np.int64) for n in self._memory.siblings}
        self._write = {n: np.zeros(max_batch, np.int64) for n in self._memory.siblings}
        self._lengths = np.ones(max_batch, np.int32)
        self._is_tokens = isinstance(manifest.input, TokensInput)
        width = manifest.input.width
        self._inputs: NDArray[Any] = (
            np.zeros(max_batch, np.int64)
            if self._is_tokens
            else np.zeros(max_batch * width, np.float32)
        )
        self._last = np.zeros((max_batch, manifest.prediction.width), np.float32)
        self._all = np.zeros((max_batch, manifest.prediction.width), np.float32)
        # By tensor of the arena: its rows there, and those that a graph that does not write finds.
        self._unwritten: list[tuple[Floats, Floats]] = []
        if not graph.in_place:
            *states, _ = graph.arena
            found = [np.zeros((max_batch, *state.shape), np.float32) for state in states]
            self._unwritten = list(zip(self.arena, [*found, self._last], strict=True))
        # Binding costs more than a small model runs: bind each shape once, over these buffers.
        self._bindings: dict[_Run, Binding] = {}
        self._bound: dict[tuple[object, ...], _Bound] = {}  # decodes and recalls, latest last
        self._every_bindings: dict[tuple[int, int], Binding] = {}
        self._recalled = np.empty((0, manifest.prediction.width), np.float32)
        self._max_batch = max_batch
        if self._every is not None:
            self._hidden = np.zeros((max_batch, self._every.get_inputs()[0].shape[2]), np.float32)

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
        rows, time = inputs.shape[:2]
        if rows * time > self._max_batch:
            raise ValueError(f"{rows} rows of {time} steps exceed the batch of {self._max_batch}")
        if bucket and bucket < rows:
            raise ValueError(f"{rows} rows do not fit into a bucket of {bucket}")
        if self.rows_run_alone and rows > 1:
            return self._step_one_by_one(read, write, fresh, inputs, lengths, every_step=every_step)
        found = self._find(read, write, fresh, inputs, lengths, every_step=every_step)
        for arena, new in self._unwritten:
            arena[write] = new[:rows]
        return found

    def bucket(self, rows: int) -> int:
        if not 1 <= rows <= self._max_batch:
            raise ValueError(f"{rows} rows are not in 1..{self._max_batch}")
        return 0

    def is_lost(self, fault: Exception) -> bool:  # noqa: ARG002
        return False  # what fails on the CPU is about the rows, or passes

    def blank(self, rows: int) -> Inputs:
        if self._is_tokens:
            return np.zeros((rows, 1), np.int64)
        return np.ones((rows, 1, self._manifest.input.width), np.float32)

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
        assert self.can_decode, "the caller asks first"
        rows = len(inputs)
        if rows > self._max_batch:
            raise ValueError(f"{rows} rows exceed the batch of {self._max_batch}")
        found = np.empty((rows, steps), np.int32 if self._is_tokens else np.float32)
        at = positions[None, :] + np.arange(steps)[:, None]  # (steps, rows)
        uniform = uniforms(draws.seed, at)
        for mode, chosen in self._draw_modes(draws):
            own = draws if chosen is ALL else draws.take(chosen)
            self._place(read[chosen], write[chosen], fresh[chosen])
            bound = self._bound_decode(mode, len(own.seed), steps)
            feeds = {
                FIRST: inputs[chosen].reshape(bound.feeds[FIRST].shape),
                UNIFORM: uniform[:, chosen, None],
                **parameters(own, mode),
            }
            for name, memory in bound.feeds.items():
                memory[...] = feeds[name]
            self._decode[mode].run_with_iobinding(bound.binding)
            found[chosen] = bound.found.T
        return found

    def _draw_modes(self, draws: Draws) -> Iterable[tuple[DrawMode, Rows]]:
        if self._is_tokens:
            return draw_modes(draws, vocabulary=self._manifest.prediction.width)
        return [(DrawMode.VALUES, ALL)]

    @property
    def can_decode(self) -> bool:
        return bool(self._decode)

    def recall(self, slots: Ints) -> Floats:
        if self._recalls is None:
            rows: Floats = self.arena[-1][slots]
            return rows
        bound = self._bound_recall(self._recalls, len(slots))
        for siblings in self._memory.siblings:
            if read_rows(siblings) in bound.feeds:
                np.multiply(slots, siblings, out=bound.feeds[read_rows(siblings)])
        self._recalls.run_with_iobinding(bound.binding)
        return bound.found

    def copy(self, read: int, write: Ints) -> None:
        for rows in self._memory.rows:
            rows[write] = rows[read]

    def read(self, slots: Ints) -> list[Floats]:
        return self._memory.read(slots)

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        self._memory.write(slots, rows)

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        return self._heads.answer(predictions, outputs, draws, positions)

    def _find(
        self,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        *,
        every_step: bool,
    ) -> Floats:
        """Run rows; a graph that does not write leaves their new ones in `_unwritten`."""
        rows, time = inputs.shape[:2]
        self._place(read, write, fresh)
        self._lengths[:rows] = lengths
        self._inputs[: inputs.size] = inputs.ravel()
        if time == 1:
            self._run_steps(rows)
            return self._last[:rows, None] if every_step else self._last[:rows]
        self._run(self._chunk, _Run(start=0, rows=rows, time=time, every_step=every_step))
        if not every_step:
            return self._last[:rows]
        if self._every is not None:
            self._every.run_with_iobinding(self._every_bindings[rows, time])
        return self._all[: rows * time].reshape(rows, time, -1)

    def _step_one_by_one(
        self,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        *,
        every_step: bool,
    ) -> Floats:
        """The same with a run for each row, without padding.

        What a graph that does not write has found is still written for all rows, or for none.
        """
        rows, time = inputs.shape[:2]
        width = self._manifest.prediction.width
        every = np.zeros((rows, time, width), np.float32)
        last = np.zeros((rows, width), np.float32)
        kept = [np.empty((rows, *new.shape[1:]), np.float32) for _, new in self._unwritten]
        for row, steps in enumerate(lengths.tolist()):
            one = slice(row, row + 1)
            found = self._find(
                read[one], write[one], fresh[one], inputs[one, :steps], lengths[one],
                every_step=every_step,
            )  # fmt: skip
            if every_step:
                every[row, :steps] = found[0]
            else:
                last[row] = found[0]
            for own, (_, new) in zip(kept, self._unwritten, strict=True):
                own[row] = new[0]
        for own, (arena, _) in zip(kept, self._unwritten, strict=True):
            arena[write] = own
        return every if every_step else last

    def _run_steps(self, rows: int) -> None:
        """Run single steps, many rows in pieces whose tensors stay in the CPU's cache."""
        at_once = rows if self._step is self._chunk else _ROWS_AT_ONCE
        for start, stop in pairwise([*range(0, rows, at_once), rows]):
            run = _Run(start=start, rows=stop - start, time=1, every_step=False)
            self._run(self._step, run)

    def _run(self, session: Session, run: _Run) -> None:
        binding = self._bindings.get(run)
        if binding is None:
            binding = self._bindings[run] = self._bind(session, run)
        if not self._unwritten:
            session.run_with_iobinding(binding)
            return
        try:
            session.run_with_iobinding(binding)
        except Exception as fault:  # whatever the runtime throws
            raise UnwrittenError(complaint(fault)) from fault

    def _place(self, read: Ints, write: Ints, fresh: NDArray[np.bool_]) -> None:
        """Say which rows a run reads and writes."""
        rows = len(read)
        start = np.where(fresh, self._memory.initial, read)
        for siblings in self._memory.siblings:
            np.multiply(start, siblings, out=self._read[siblings][:rows])
            np.multiply(write, siblings, out=self._write[siblings][:rows])

    def _bound_decode(self, mode: DrawMode, rows: int, steps: int) -> "_Bound":
        """A decode graph with memory for so many rows and steps."""
        bound = self._bound.get((mode, rows, steps))
        if bound is None:
            session = self._decode[mode]
            first = (rows,) if self._is_tokens else (rows, 1, 1)
            feeds: dict[str, NDArray[Any]] = {
                FIRST: np.zeros(first, np.int64 if self._is_tokens else np.float32),
                UNIFORM: np.zeros((steps, rows, 1), np.float32),
            }
            for name, column in parameters(Draws.repeated(Sampling(), rows), mode).items():
                feeds[name] = np.ascontiguousarray(column)
            found = np.empty((steps, rows), np.int32 if self._is_tokens else np.float32)
            bound = self._keep((mode, rows, steps), session, feeds, found, DECODED)
            self._bind_arena(bound.binding, session, slice(rows))
        return bound

    def _bound_recall(self, session: Session, rows: int) -> "_Bound":
        """The graph of predictions with memory for so many rows."""
        bound = self._bound.get((rows,))
        if bound is None:
            wanted = input_shapes(session)
            read = [read_rows(n) for n in self._memory.siblings if read_rows(n) in wanted]
            if rows > len(self._recalled):  # one memory for all sizes: predictions may be wide
                self._bound = {key: own for key, own in self._bound.items() if len(key) > 1}
                width = self._manifest.prediction.width
                self._recalled = np.empty((max(rows, 2 * len(self._recalled)), width), np.float32)
            found = self._recalled[:rows]
            feeds: dict[str, NDArray[Any]] = {name: np.zeros(rows, np.int64) for name in read}
            bound = self._keep((rows,), session, feeds, found, PREDICTION)
            for tensor, value in self._arena:
                if tensor.input in wanted:
                    bound.binding.bind_ortvalue_input(tensor.input, value)
        return bound

    def _keep(
        self,
        key: tuple[object, ...],
        session: Session,
        feeds: dict[str, NDArray[Any]],
        found: NDArray[Any],
        output: str,
    ) -> "_Bound":
        """Bind memory to a graph, and remember that; the oldest of many makes room."""
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, bindable(array))
        binding.bind_ortvalue_output(output, bindable(found))
        if len(self._bound) == _MOST_BOUND:
            del self._bound[next(iter(self._bound))]
        bound = self._bound[key] = _Bound(binding=binding, feeds=feeds, found=found)
        return bound

    def _bind_arena(self, binding: Binding, session: Session, rows: slice) -> None:
        wanted = input_shapes(session)
        for siblings in self._memory.siblings:
            read, write = self._read[siblings][rows], self._write[siblings][rows, None]
            if read_rows(siblings) in wanted:  # a prediction is only written
                binding.bind_ortvalue_input(read_rows(siblings), bindable(read))
            if write_rows(siblings) in wanted:
                binding.bind_ortvalue_input(write_rows(siblings), bindable(write))
        for tensor, value in self._arena:
            if tensor.input in wanted:
                binding.bind_ortvalue_input(tensor.input, value)
            if not self._unwritten:
                binding.bind_ortvalue_output(tensor.output, value)
        for (tensor, _), (_, new) in zip(self._arena[:-1], self._unwritten[:-1], strict=False):
            binding.bind_ortvalue_output(tensor.output, bindable(new[rows]))

    def _bind(self, session: Session, run: _Run) -> Binding:
        wanted = input_shapes(session)
        name = self._manifest.input.name
        width = self._manifest.input.width
        shape: tuple[int, ...] = (run.rows, run.time)
        if not self._is_tokens:
            shape = (*shape, width)
        if run.time == 1 and len(wanted[name]) < len(shape):
            shape = (run.rows, *shape[2:])  # a graph without a time axis
        inputs = self._inputs[run.start * width :][: math.prod(shape)].reshape(shape)
        rows = slice(run.start, run.start + run.rows)
        binding = session.io_binding()
        binding.bind_ortvalue_input(name, bindable(inputs))
        lengths = self._manifest.lengths
        if lengths is not None and lengths in wanted:
            binding.bind_ortvalue_input(lengths, bindable(self._lengths[rows]))
        self._bind_arena(binding, session, rows)
        if not run.every_step or self._unwritten:
            binding.bind_ortvalue_output(PREDICTION, bindable(self._last[rows]))
        if not run.every_step:
            return binding
        steps = run.rows * run.time
        every = bindable(self._all[:steps].reshape(run.rows, run.time, -1))
        if self._every is None:
            binding.bind_ortvalue_output(PREDICTIONS, every)
            return binding
        hidden = bindable(self._hidden[:steps].reshape(run.time, run.rows, -1))
        binding.bind_ortvalue_output(HIDDEN, hidden)
        then = self._every_bindings[run.rows, run.time] = self._every.io_binding()
        then.bind_ortvalue_input(HIDDEN, hidden)
        then.bind_ortvalue_output(PREDICTIONS, every)
        return binding
