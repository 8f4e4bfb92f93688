"""A device's runner and the CPU's, side by side."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.compile.arena import compile_model
from models.repository import Model
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.runtime import CPU, Place
from tests.recurrent import Case, char_case, series_case

SLOTS = 40
SCRATCH = SLOTS - 1
MAX_BATCH = 16
CASES = [(make, cell) for make in ("char", "series") for cell in ("lstm", "gru", "rnn")]

Array = NDArray[Any]


def case_of(kind: str, cell: str = "lstm") -> Case:
    """Two layers of an untrained network."""
    return (char_case if kind == "char" else series_case)(cell, layers=2)


def device_runner(model: Model, place: Place, **options: Any) -> CudaRunner:
    """A runner of the model on a device; with graphs of several steps if ``several``."""
    return CudaRunner(
        compile_model(model, device="cuda"),
        **{"slots": SLOTS, "max_batch": MAX_BATCH, "place": place, "several": False, **options},
    )


def cpu_runner(model: Model) -> CpuRunner:
    """The CPU's own runner of the same model."""
    return CpuRunner(compile_model(model), slots=SLOTS, max_batch=MAX_BATCH)


def assert_near(found: Any, expected: Any, place: Place, what: str = "") -> None:
    """As near as two devices come, or the CPU to itself with another order of operations."""
    times = 1 if place == CPU else 10
    rtol, atol = times * 2e-5, times * 2e-6
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=what)


def resident(runner: CudaRunner | CpuRunner) -> list[NDArray[np.float32]]:
    """The rows of each tensor of an arena, as they are now."""
    if isinstance(runner, CudaRunner):
        return runner.arena.copied()
    return [rows.copy() for rows in runner.arena]


def some_inputs(kind: str, rows: int, time: int, seed: int = 0) -> Array:
    """Valid steps (rows, time) of tokens, or (rows, time, 1) of prices."""
    noise = np.random.default_rng(seed)
    if kind == "char":
        return noise.integers(0, 27, (rows, time))
    walk = 100 * np.exp(np.cumsum(noise.normal(0, 0.02, (rows, time)), axis=1))
    return walk.astype(np.float32)[..., None]


@dataclass
class Play:
    """Steps a runner; every call is one run."""

    runner: CudaRunner | CpuRunner

    def step(
        self,
        slots: Any,
        inputs: Array,
        *,
        fresh: Any = False,
        lengths: Any = None,
        write: Any = None,
        every_step: bool = False,
        bucket: int = 0,
    ) -> Array:
        """The predictions of a run; they may lie on the device."""
        slots = np.asarray(slots, np.int64)
        rows, time = inputs.shape[:2]
        return self.runner.step(
            read=slots,
            write=slots if write is None else np.asarray(write, np.int64),
            fresh=np.broadcast_to(np.asarray(fresh, np.bool_), (rows,)),
            inputs=inputs,
            lengths=np.full(rows, time) if lengths is None else np.asarray(lengths, np.int64),
            every_step=every_step,
            bucket=bucket,
        )

    def steps(self, slots: Any, inputs: Array, *, fresh: Any = True) -> list[Array]:
        """Single steps one after the other: the predictions after each, on the host."""
        found = []
        for time in range(inputs.shape[1]):
            first = fresh if time == 0 else False
            found.append(self.step(slots, inputs[:, time : time + 1], fresh=first).copy())
        return found
