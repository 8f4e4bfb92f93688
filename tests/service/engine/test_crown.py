"""The crown test: interleaved sessions equal each session run alone, bit for bit.

Real networks on the real runtime. 64 sessions of ragged lengths are stepped at random, batched
together, half of them in chunks of several steps; then each is run alone, one step at a time.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from models.compile.arena import compile_model
from models.manifest import TokensInput
from service.engine.engine import Engine
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.served.inputs import CheckedSteps
from service.engine.served.registry import ServedModel, arena_rows
from service.engine.work.columns import Answers, Outputs
from service.engine.work.sampling import Sampling
from service.metrics import Metrics
from service.settings import EngineSettings
from tests.recurrent import Case, char_case, series_case, torch_predictions

SESSIONS = 64
CELLS = ("lstm", "gru", "rnn")
CASES = {
    f"{cell}-{layers}x{hidden}": (cell, layers, hidden)
    for cell in CELLS
    for layers, hidden in ((1, 33), (2, 24))
}


@dataclass
class Device:
    """An engine with one real model, and the rows of its arena."""

    engine: Engine
    served: ServedModel
    runner: CpuRunner

    def state(self, session: str) -> list[NDArray[np.float32]]:
        slot = self.engine.directory.find(session).slot
        row = self.served.shards[0].table.row[slot]
        return [array[row].copy() for array in self.runner.arena]


def make_device(case: Case, *, inline_run_s: float = 0.0005, precision: str = "fp32") -> Device:
    settings = EngineSettings(
        max_sessions=SESSIONS, spare_slots=1024, max_batch=64, chunk_steps=8,
        inline_run_s=inline_run_s,
    )  # fmt: skip
    engine = Engine(settings, Metrics())
    runner = CpuRunner(
        compile_model(case.model),
        slots=arena_rows(settings, case.manifest),
        max_batch=settings.max_batch,
    )
    served = engine.registry.add(
        name=case.model.name,
        version=1,
        manifest=case.manifest,
        fingerprint=case.model.fingerprint,
        runners=(runner,),
    )
    served.warm_up()
    engine.loading = False
    return Device(engine=engine, served=served, runner=runner)


def sequences(case: Case, dice: random.Random) -> list[NDArray[np.int64] | NDArray[np.float32]]:
    """Ragged sequences that the model takes."""
    noise = np.random.default_rng(5)
    found: list[NDArray[np.int64] | NDArray[np.float32]] = []
    for _ in range(SESSIONS):
        length = dice.randint(1, 40)
        if isinstance(case.manifest.input, TokensInput):
            found.append(noise.integers(0, len(case.manifest.input.vocabulary), length))
        else:
            walk = 100 * np.exp(np.cumsum(noise.normal(0, 0.02, length)))
            found.append(walk.astype(np.float32))
    return found


def steps_of(device: Device, piece: NDArray[np.int64] | NDArray[np.float32]) -> CheckedSteps:
    reader = device.served.reader
    return reader.values(piece) if piece.dtype == np.float32 else reader.tokens(piece)  # type: ignore[arg-type]


def answered(answers: Answers) -> NDArray[np.float32]:
    """Every answer of each step side by side, (steps, all columns)."""
    columns = [
        column
        for column in (answers.raw, answers.probabilities, answers.quantiles)
        if column is not None
    ]
    if answers.sampled_values is not None:
        columns.append(answers.sampled_values[:, None])
    if answers.sampled_tokens is not None:
        columns.append(answers.sampled_tokens[:, None].astype(np.float32))
    return np.concatenate(columns, axis=1)


async def play(
    device: Device,
    session: str,
    inputs: NDArray[np.int64] | NDArray[np.float32],
    sizes: "list[int]",
    wanted: Outputs,
) -> NDArray[np.float32]:
    """Send a sequence in pieces of the given sizes; returns what came back, step by step."""
    rows = []
    at = 0
    for size in sizes:
        result = await device.engine.step(
            session,
            steps_of(device, inputs[at : at + size]),
            outputs=wanted,
            sampling=Sampling(seed=11),
            position=at,
        )
        rows.append(answered(result.answers))
        at += size
    return np.concatenate(rows)


def cut(length: int, dice: random.Random, *, chunks: bool) -> list[int]:
    """Sizes that add up to a length: ones, or anything up to three pieces of a run."""
    sizes: list[int] = []
    while (left := length - sum(sizes)) > 0:
        sizes.append(min(left, dice.randint(1, 24)) if chunks else 1)
    return sizes


async def play_alone(
    case: Case,
    inputs: Sequence[NDArray[np.int64] | NDArray[np.float32]],
    wanted: Outputs,
    precision: str,
) -> list[tuple[NDArray[np.float32], list[NDArray[np.float32]]]]:
    """Each sequence with the device for itself, one step at a time: replies and final state."""
    device = make_device(case, inline_run_s=1.0, precision=precision)
    found = []
    for n, sequence in enumerate(inputs):
        session = device.engine.open(device.served, f"s{n}").id
        replies = await play(device, session, sequence, [1] * len(sequence), wanted)
        found.append((replies, device.state(session)))
    await stop(device)
    return found


async def stop(device: Device) -> None:
    await device.engine.drain()
    device.engine.stop()


@pytest.mark.parametrize("task", ["char", "series"])
@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "fp32") for name in CASES), *((f"{cell}-2x24", "int8") for cell in CELLS)],
)
async def test_interleaved_sessions_equal_each_alone_bit_for_bit(
    name: str, task: str, precision: str
) -> None:
    cell, layers, hidden = CASES[name]
    make = char_case if task == "char" else series_case
    case = make(cell, layers=layers, hidden=hidden)
    dice = random.Random(name)
    inputs = sequences(case, dice)
    wanted = (
        Outputs(raw=True, probabilities=True, sample=True, every_step=True)
        if task == "char"
        else Outputs(raw=True, quantiles=(0.1, 0.5, 0.9), sample=True, every_step=True)
    )
    alone = await play_alone(case, inputs, wanted, precision)
    for n, (replies, states) in enumerate(alone):
        prediction, torch_states = torch_predictions(case, inputs[n])
        width = prediction.shape[1]
        near = 1e-5 if precision == "fp32" else 0.1
        if precision == "fp32" or task == "char":  # the tail of a distribution is an exponent
            np.testing.assert_allclose(replies[:, :width], prediction, rtol=1e-5, atol=near)
        for mine, theirs in zip(states, torch_states, strict=False):  # a prediction may follow
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=near)

    for inline_run_s in (0.0, 1.0):  # every batch on the worker thread, every batch on the loop
        together = make_device(case, inline_run_s=inline_run_s, precision=precision)
        order = list(range(SESSIONS))
        dice.shuffle(order)
        for n in range(SESSIONS):
            together.engine.open(together.served, f"s{n}")
        played = await asyncio.gather(
            *(
                play(
                    together,
                    f"s{n}",
                    inputs[n],
                    cut(len(inputs[n]), dice, chunks=n % 2 == 0),
                    wanted,
                )
                for n in order
            )
        )
        assert mean_batch(together) > 4, "hardly anything was batched"
        for n, replies in zip(order, played, strict=True):
            expected, states = alone[n]
            assert np.array_equal(replies, expected), f"session {n}: replies differ"
            for mine, theirs in zip(together.state(f"s{n}"), states, strict=True):
                assert np.array_equal(mine, theirs), f"session {n}: states differ"
        await stop(together)


def mean_batch(device: Device) -> float:
    (served,) = device.engine.registry.all()
    size = device.engine.metrics.batches(served.label).size
    return size.sum / size.count
