"""What is counted: batches as the engine has them done by a runner on a GPU."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from models.compile.arena import compile_model
from service.engine.execution.ahead.runner import Ask, Begun
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.runtime import Place
from service.engine.work.columns import Floats, Outputs
from service.engine.work.sampling import Draws, Sampling
from tests.recurrent import char_case, series_case
from tests.standin.trace import Counts, count

LAYERS, HIDDEN = 2, 64
QUANTILES = (0.1, 0.5, 0.9)
PLAIN = Sampling(seed=1)
FILTERED = Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=1)
SLOTS = 8
"""Of each lane: the arena is far larger than all that a batch may copy."""
GPU = Place("cuda")

OF_CHAR: dict[str, tuple[Outputs, Sampling | None]] = {
    "step": (Outputs(), None),
    "argmax": (Outputs(argmax=True), None),
    "top-k": (Outputs(top_k=5), None),
    "sample": (Outputs(sample=True), PLAIN),
    "filtered sample": (Outputs(sample=True), FILTERED),
    "raw": (Outputs(raw=True), None),
}
OF_SERIES: dict[str, tuple[Outputs, Sampling | None]] = {
    "step": (Outputs(), None),
    "quantiles": (Outputs(quantiles=QUANTILES), None),
    "sample": (Outputs(sample=True), PLAIN),
    "raw": (Outputs(raw=True), None),
}
OF_KIND = {"char": OF_CHAR, "series": OF_SERIES}
MANY, CHUNK, DECODE, RECALL, COPY = "all of them", "chunk 1x16", "decode 8", "recall", "copy to 4"
HEADS = {kind: (*heads, MANY, CHUNK, DECODE, RECALL, COPY) for kind, heads in OF_KIND.items()}
"""What is counted of each kind of model, in order."""
CHUNK_STEPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One way of answering, counted."""

    model: str
    size: int
    head: str
    first: Counts  # that batch in which whatever is prepared late is prepared
    counts: Counts  # those after it
    host_us: float | None  # median; None: it was not timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One model in a runner with one largest batch."""

    model: str
    size: int
    opening: Counts  # of the runner, and its first step, which records
    arena_bytes: tuple[int, ...]  # of each tensor, ascending
    batches: tuple[Batch, ...]


def play(kind: str, cell: str, size: int, *, times: int = 0) -> Scene:
    """Open a runner, and count a batch with each head.

    Args:
        kind: char or series.
        cell: lstm or gru.
        size: rows of the batch, which is the largest.
        times: how often a batch is timed.
    """
    case = (char_case if kind == "char" else series_case)(cell, layers=LAYERS, hidden=HIDDEN)
    graph = compile_model(case.model, device="cuda")
    slots = SLOTS * size + 1
    opened: list[CudaRunner] = []

    def open_and_record() -> None:
        runner = CudaRunner(graph, slots=slots, max_batch=size, place=GPU)
        opened.append(runner)
        _step(runner, kind, size)

    opening = count(open_and_record)
    (runner,) = opened
    model = f"{kind} {cell}"
    batches = []
    for head, work in _works(runner, kind, size).items():
        first, _, counts = count(work), count(work), count(work)
        batches.append(
            Batch(
                model=model,
                size=size,
                head=head,
                first=first,
                counts=counts,
                host_us=_median_us(work, times) if times else None,
            )
        )
    rows = slots + 1 + size
    tensors = (4 * rows * math.prod(tensor.shape) for tensor in graph.arena)
    return Scene(
        model=model,
        size=size,
        opening=opening,
        arena_bytes=tuple(sorted(tensors)),
        batches=tuple(batches),
    )


def _works(runner: CudaRunner, kind: str, size: int) -> dict[str, Callable[[], object]]:
    """By name: a step of all rows and its answers, and what else a runner does."""
    positions = np.ones(size, np.int64)
    four = np.arange(4)

    def asked(outputs: Outputs, sampling: Sampling | None, rows: slice) -> Ask:
        count = rows.stop - rows.start
        draws = None if sampling is None else Draws.repeated(sampling, count)
        return Ask(rows=rows, outputs=outputs, draws=draws, positions=positions[:count])

    def answered(*asks: Ask) -> Callable[[], object]:
        return lambda: begin_step(runner, kind, size, asks).finish()

    everybody = slice(0, size)
    found = {head: answered(asked(*own, everybody)) for head, own in OF_KIND[kind].items()}
    parts = np.linspace(0, size, len(OF_KIND[kind]) + 1, dtype=int).tolist()
    found[MANY] = answered(
        *(
            asked(*own, slice(start, stop))
            for own, (start, stop) in zip(OF_KIND[kind].values(), pairwise(parts), strict=True)
        )
    )
    found[CHUNK] = lambda: _step(runner, kind, 1, CHUNK_STEPS)
    found[DECODE] = lambda: _decode(runner, kind, size, 8)
    found[RECALL] = lambda: runner.recall(four).copy()
    found[COPY] = lambda: runner.copy(0, four + 1)
    return found


def _step(runner: CudaRunner, kind: str, rows: int, time: int = 1) -> Floats:
    shape = (rows, time)
    is_char = kind == "char"
    slots = np.arange(rows)
    return runner.step(
        read=slots,
        write=slots,
        fresh=np.zeros(rows, np.bool_),
        inputs=np.zeros(shape, np.int64) if is_char else np.full((*shape, 1), 100, np.float32),
        lengths=np.full(rows, time),
        every_step=False,
    )


def begin_step(runner: CudaRunner, kind: str, rows: int, asks: Sequence[Ask]) -> Begun:
    """A step of some rows, and what is asked of them."""
    slots = np.arange(rows)
    is_char = kind == "char"
    return runner.begin(
        read=slots,
        write=slots,
        fresh=np.zeros(rows, np.bool_),
        inputs=np.zeros((rows, 1), np.int64) if is_char else np.full((rows, 1, 1), 100, np.float32),
        asks=asks,
    )


def _decode(runner: CudaRunner, kind: str, rows: int, steps: int) -> object:
    slots = np.arange(rows)
    is_char = kind == "char"
    return runner.decode(
        read=slots,
        write=slots,
        fresh=np.zeros(rows, np.bool_),
        inputs=np.zeros(rows, np.int64) if is_char else np.full((rows, 1), 100, np.float32),
        positions=np.ones(rows, np.int64),
        draws=Draws.repeated(FILTERED, rows),
        steps=steps,
    )


def _median_us(work: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return round(statistics.median(found) * 1e6, 1)
