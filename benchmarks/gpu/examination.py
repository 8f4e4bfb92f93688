"""One model on a device: are its numbers right, and how long does each part of a step take.

Knows nothing of servers and sessions: it drives the device's runner as a shard does. On the CPU's
place the same runner works without a card, which shows that the examination itself works.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.engine import CpuRunner, CudaRunner, Draws, Outputs, Place, Sampling
from benchmarks.gpu.subjects import Subject
from benchmarks.gpu.timing import median_us, timed
from models.compile.arena import compile_model
from models.repository import Model

MOST_ERROR = {False: 2e-4, True: 2e-2}
"""Of a prediction, with and without rounded products; see `Examination.compare`."""
STEPS = 4
CHUNK_STEPS = 16
DECODE_STEPS = 8
QUANTILES = (0.1, 0.5, 0.9)

Array = NDArray[Any]
Runner = CudaRunner | CpuRunner


@dataclass(slots=True, kw_only=True)
class Examined:
    """What was found of one model: numbers by name, what is wrong with it, and what it lacks."""

    numbers: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


class Examination:
    """A model in the device's runner, beside the same in the CPU's.

    Args:
        subject: which model.
        place: the device.
        size: the largest batch.
        times: how often what is timed is run.
    """

    def __init__(self, subject: Subject, place: Place, *, size: int, times: int) -> None:
        self.found = Examined()
        self._subject = subject
        self._size = size
        self._times = times
        self._slots = np.arange(size)
        model = subject.model()
        self._device, seconds = timed(lambda: self._open(model, place))
        self.found.numbers["open_s"] = round(seconds, 3)
        self._cpu = CpuRunner(compile_model(model), slots=2 * size + 1, max_batch=size)
        # The first step records all sizes.
        first = subject.inputs(size, seed=0)
        _, seconds = timed(lambda: _step(self._device, self._slots, first, fresh=True))
        self.found.numbers["record_s"] = round(seconds, 3)

    def compare(self) -> None:
        """A few steps beside the CPU's runner, and beside the same sessions in other lanes.

        The error is the largest difference from the CPU's prediction, over the largest number of
        its column, or over 1 where all are smaller. In other lanes of a batch of the same size
        the bits are the same.
        """
        lanes = np.random.default_rng(1).permutation(self._size)
        worst, moved = 0.0, 0
        for number in range(STEPS):
            x, fresh = self._subject.inputs(self._size, seed=number), number == 0
            mine = _step(self._device, self._slots, x, fresh=fresh).copy()  # (size, width)
            theirs = _step(self._cpu, self._slots, x, fresh=fresh)
            scale = np.maximum(np.abs(theirs).max(axis=0), 1.0)  # (width,)
            error: Array = np.abs(mine - theirs) / scale
            # What is not a number is as wrong as can be; infinity is not to be had in JSON.
            error[~np.isfinite(error)] = np.finfo(np.float32).max
            worst = max(worst, float(error.max()))
            twins = _step(self._device, self._size + lanes, x[lanes], fresh=fresh).copy()
            moved += int((twins != mine[lanes]).any(axis=1).sum())
        self.found.numbers["error_to_cpu"] = worst
        self.found.numbers["rows_that_differ_in_other_lanes"] = moved
        allowed = MOST_ERROR[self._subject.tf32]
        if not worst <= allowed:
            self.found.faults.append(f"predictions are off by {worst:.1e}, allowed {allowed:.0e}")
        if moved:
            self.found.faults.append(f"{moved} predictions have other bits in another lane")

    def time_steps(self) -> None:
        """Steps by batch, the parts of the largest, and a chunk."""
        found = self.found.numbers
        for rows in self._device.sizes:
            x = self._subject.inputs(rows, seed=5)
            found[f"step_{rows}_us"] = self._time(self._slots[:rows], x)
        found["steps_per_s"] = round(self._size / found[f"step_{self._size}_us"] * 1e6)
        bucket, bound = self._device.recorded[self._size]
        own = self._subject.inputs(self._size, seed=9)[:, 0]

        def waited(work: Callable[[], object]) -> float:
            def whole() -> None:
                work()
                self._device.wait()

            return median_us(whole, self._times)

        found["place_us"] = waited(lambda: bucket.place_step(self._slots, self._slots, own))
        found["replay_only_us"] = waited(bound.run)
        found["eager_us"] = median_us(bound.run_eagerly, self._times)
        step_us = found[f"step_{self._size}_us"]
        found["step_over_replay"] = round(step_us / found["replay_only_us"], 3)
        steps = min(CHUNK_STEPS, self._size)
        chunk = self._subject.inputs(1, seed=7, steps=steps)
        found[f"chunk_1x{steps}_us"] = self._time(self._slots[:1], chunk)

    def time_answers(self) -> None:
        """What each kind of answer to a whole batch takes."""
        positions = np.ones(self._size, np.int64)
        x = self._subject.inputs(self._size, seed=9)
        last = _step(self._device, self._slots, x, fresh=False)
        for name, (outputs, draws) in self._answers().items():
            work = partial(self._device.answer, last, outputs, draws, positions)
            self.found.numbers[f"{name}_us"] = median_us(work, self._times)

    def decode(self) -> None:
        """Several steps in one run: as single steps draw, and what that takes.

        Of characters alone: what a series draws is brought into bounds in between.
        """
        if not self._device.can_decode:
            self.found.skipped["decode"] = "the runner on this device draws one step per run"
            return
        rows = self._size
        nobody, positions = np.ones(rows, np.bool_), np.ones(rows, np.int64)
        draws = Draws.repeated(Sampling(temperature=0.7, top_k=5, seed=1), rows)
        first = self._subject.inputs(rows, seed=3)[:, 0]

        def decoded() -> Array:
            return self._device.decode(
                read=self._slots,
                write=self._slots,
                fresh=nobody,
                inputs=first,
                positions=positions,
                draws=draws,
                steps=DECODE_STEPS,
            )

        if self._subject.kind == "char":
            found, given = decoded().copy(), first  # (rows, steps), (rows,)
            twins, differ = self._size + self._slots, 0
            for number in range(DECODE_STEPS):
                last = _step(self._device, twins, given[:, None], fresh=number == 0)
                answers = self._device.answer(last, Outputs(sample=True), draws, positions + number)
                given = answers.columns["sampled_tokens"]
                differ += int((found[:, number] != given).sum())
                given = found[:, number]  # one that differs must not change all after it
            if differ:
                self.found.faults.append(f"decode draws {differ} other tokens than single steps")
        self.found.numbers[f"decode_{DECODE_STEPS}_us"] = median_us(decoded, self._times)

    def _answers(self) -> dict[str, tuple[Outputs, Draws | None]]:
        wanted: dict[str, tuple[Outputs, Draws | None]] = {"raw": (Outputs(raw=True), None)}
        if self._subject.kind == "series":
            wanted["quantiles"] = (Outputs(quantiles=QUANTILES), None)
            return wanted
        plain = Sampling(seed=1)
        filtered = Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=1)
        wanted["argmax"] = (Outputs(argmax=True), None)
        for name, sampling in (("sample", plain), ("filtered_sample", filtered)):
            wanted[name] = (Outputs(sample=True), Draws.repeated(sampling, self._size))
        return wanted

    def _time(self, slots: Array, inputs: Array) -> float:
        return median_us(lambda: _step(self._device, slots, inputs, fresh=False), self._times)

    def _open(self, model: Model, place: Place) -> CudaRunner:
        return CudaRunner(
            compile_model(model, device="cuda"),
            slots=2 * self._size + 1,  # each session, its twin, and the scratch row
            max_batch=self._size,
            place=place,
            tf32=self._subject.tf32,
        )


def examine(subject: Subject, place: Place, *, size: int, times: int) -> Examined:
    """All of it: see `Examination`."""
    examination = Examination(subject, place, size=size, times=times)
    examination.compare()
    examination.time_steps()
    examination.time_answers()
    examination.decode()
    return examination.found


def _step(runner: Runner, slots: Array, inputs: Array, *, fresh: bool) -> NDArray[np.float32]:
    rows, time = inputs.shape[:2]
    return runner.step(
        read=slots,
        write=slots,
        fresh=np.full(rows, fresh),
        inputs=inputs,
        lengths=np.full(rows, time),
        every_step=False,
    )


__all__ = ["Examination", "Examined", "examine"]
