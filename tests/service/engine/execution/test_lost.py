"""A device that has failed for good is told from a run that failed. The GPUs here are played."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from models.compile.stateless import compile_stateless
from service.engine.calls.predict import predict
from service.engine.engine import Engine
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.runtime import CPU, Bound, Place, is_lost
from service.engine.execution.stateless import StatelessRunner
from service.engine.work.columns import Floats, Inputs, Outputs
from service.errors import CellarError, DrainingError, InternalError, StateLostError
from tests.recurrent import whole_case
from tests.service.engine.execution.cuda.bench import (
    SCRATCH,
    Play,
    case_of,
    device_runner,
    some_inputs,
)
from tests.service.engine.fakes import FakeRunner
from tests.service.engine.houses import INLINE, WORKER, fakes, fakes_on, wholes
from tests.service.engine.wires import Wire

GPU = Place("cuda", 0)
RAW = Outputs(raw=True)
# As ONNX Runtime words them, and one of a kind that nobody has heard of.
STICKY = [
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h",
    "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA failure 214: uncorrectable ECC error encountered",
    "error 99999: never heard of",
]
NO_MEMORY = [
    "CUDA failure 2: out of memory",
    "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 8",
]


def failing(*messages: str) -> Callable[[], None]:
    """Fails once with each message, and then no more."""
    left = list(messages)

    def run() -> None:
        if left:
            raise RuntimeError(left.pop(0))

    return run


@pytest.mark.parametrize("message", STICKY)
def test_a_device_is_lost_where_nothing_runs_any_more(message: str) -> None:
    fault = RuntimeError(message)
    assert is_lost(GPU, fault, failing(message))
    assert not is_lost(GPU, fault, failing()), "that run failed, and the next one does not"
    assert not is_lost(CPU, fault, failing(message)), "there is no other to go to"


@pytest.mark.parametrize("message", NO_MEMORY)
def test_too_little_memory_passes(message: str) -> None:
    assert not is_lost(GPU, RuntimeError(message), failing(message))
    assert not is_lost(GPU, RuntimeError(STICKY[0]), failing(message))
    assert not is_lost(GPU, MemoryError(), failing(STICKY[0]))


@pytest.mark.parametrize("kind", ["char", "series"])
@pytest.mark.parametrize(("faults", "lost"), [(1, False), (1000, True)])
def test_a_runner_tries_a_step_of_no_session(
    kind: str, faults: int, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner: CudaRunner = device_runner(case_of(kind).model, CPU)
    play = Play(runner)
    inputs = some_inputs(kind, 3, 1)
    play.step([1, 2, 3], inputs, fresh=True)
    before = [rows.copy() for rows in runner.arena.copied()]
    runner.place = GPU
    faulty, run = failing(*[STICKY[0]] * faults), Bound.run
    monkeypatch.setattr(Bound, "run", lambda self: (faulty(), run(self)))
    with pytest.raises(RuntimeError) as caught:
        play.step([1, 2, 3], inputs)
    assert runner.is_lost(caught.value) is lost
    for rows, found in zip(before, runner.arena.copied(), strict=True):
        keep = np.arange(len(rows)) != SCRATCH
        np.testing.assert_array_equal(rows[keep], found[keep])


def is_over(engine: Engine) -> bool:
    """Whether it takes nothing new, because of its device."""
    if not engine.failed.is_set():
        engine.check_ready()
        return False
    with pytest.raises(DrainingError, match="device"):
        engine.check_ready()
    return True


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_whoever_waits_is_answered_and_nothing_new_is_taken(inline_run_s: float) -> None:
    async with fakes(inline_run_s=inline_run_s) as house:
        steps = house.served.reader.tokens(np.array([1]))
        for name in ("a", "b"):
            house.open(name)
            await house.engine.step(name, steps, outputs=RAW)
        house.runners[0].fail_next = True
        with pytest.raises(StateLostError):
            await house.engine.step("a", steps, outputs=RAW)
        assert not is_over(house.engine)
        house.runners[0].lost = True
        calls = [house.engine.step("b", steps, outputs=RAW) for _ in range(3)]
        for call in calls:
            with pytest.raises(CellarError):
                await call
        assert is_over(house.engine)


class Dying(FakeRunner):
    """Is lost in the second half of a run that some row has spoilt."""

    runs = -1000  # those that warm up

    def step(self, **columns: Any) -> Floats:
        self.runs += 1
        self.lost = self.runs > 2
        return super().step(**columns)


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_a_device_may_be_lost_while_a_bad_row_is_looked_for(inline_run_s: float) -> None:
    async with fakes_on(Dying, inline_run_s=inline_run_s) as house:
        (runner,) = house.runners
        assert isinstance(runner, Dying)
        wire = await Wire(house).attach(*[house.open(name) for name in "abcd"])
        runner.runs, runner.unreadable = 0, 13
        rows = wire.frame({n: ([13 if n == 2 else 1], 0) for n in range(4)})
        await house.settle()
        assert [row.reply[0] for row in rows[:2]] == [1, 1]
        assert [type(row.refusal) for row in rows[2:]] == [StateLostError] * 2
        assert is_over(house.engine)


class Fleeting(StatelessRunner):
    """Runs until it does not."""

    fault: str | None = None

    def predict(self, sequences: list[Inputs]) -> list[Floats]:  # type: ignore[override]
        if self.fault is not None:
            raise RuntimeError(self.fault)
        return super().predict(sequences)


async def test_whole_sequences_find_it_too() -> None:
    case = whole_case("lstm")
    runner = Fleeting(compile_stateless(case.model))
    async with wholes(case, runner=runner) as (engine, served):
        steps = served.reader.tokens(np.array([1, 2, 3]))

        async def ask() -> None:
            await predict(engine, served, steps, None, outputs=RAW, sampling=None)

        await ask()
        runner.fault = STICKY[0]
        with pytest.raises(InternalError):
            await ask()
        assert not is_over(engine), "on the CPU that is one bad run"
        runner._place = GPU
        with pytest.raises(InternalError):
            await ask()
        assert is_over(engine)
