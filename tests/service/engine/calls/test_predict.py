"""Whole sequences: read as a session would, by themselves, and forgotten."""

import asyncio
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.compile.stateless import compile_stateless
from service.engine.calls.predict import PredictResult, predict
from service.engine.engine import Engine
from service.engine.execution.stateless import StatelessRunner
from service.engine.served.inputs import CheckedSteps
from service.engine.served.registry import ServedModel
from service.engine.streams.stream import SessionStream
from service.engine.work.columns import NOTHING, Answers, Floats, Inputs, Outputs
from service.engine.work.sampling import Sampling
from service.errors import (
    BadInputError,
    CellarError,
    DrainingError,
    InternalError,
    NotStreamableError,
    OverloadedError,
)
from tests.models.test_whole import smoothing
from tests.recurrent import Case, WholeCase, char_case, label_case, series_case, whole_case
from tests.service.engine.houses import INLINE, WORKER, fakes, reals, wholes

RAW = Outputs(raw=True)
EVERY = Outputs(raw=True, every_step=True)


def checked(served: ServedModel, steps: NDArray[Any]) -> CheckedSteps:
    if steps.dtype == np.float32:
        return served.reader.values(steps.ravel())
    return served.reader.tokens(steps)


def inputs_of(case: Case | WholeCase, lengths: Sequence[int], seed: int = 0) -> list[Inputs]:
    generator = np.random.default_rng(seed)
    if case.manifest.input.kind == "tokens":
        return [generator.integers(27, size=steps) for steps in lengths]
    width = case.manifest.input.width
    return [generator.uniform(1, 9, (steps, width)).astype(np.float32) for steps in lengths]


async def predicted(
    engine: Engine,
    served: ServedModel,
    sequences: Sequence[Inputs],
    outputs: Outputs = RAW,
    sampling: Sampling | None = None,
) -> PredictResult:
    counts = np.array([len(steps) for steps in sequences])
    return await predict(
        engine,
        served,
        checked(served, np.concatenate(sequences)),
        counts,
        outputs=outputs,
        sampling=sampling,
    )


def steps_counted(engine: Engine, model: str) -> float | None:
    return engine.metrics.registry.get_sample_value("cellar_steps_total", {"model": model})


def bits(answers: Answers) -> dict[str, bytes]:
    return {name: column.tobytes() for name, column in answers.columns.items()}


STREAMED = {
    "char": char_case("lstm", layers=2),
    "series": series_case("gru"),
    "labels": label_case("lstm"),
    "labels of values": label_case("gru", features=3),
    "labels by rnn": label_case("rnn", layers=2),
}


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("every_step", [False, True])
async def test_a_sequence_has_the_bits_of_a_session_that_reads_it(
    name: str, every_step: bool
) -> None:
    case = STREAMED[name]
    outputs = EVERY if every_step else RAW
    sampling = None
    if name in ("char", "series"):
        outputs, sampling = replace(outputs, sample=True), Sampling(seed=7, temperature=0.8)
    if name.startswith("labels"):
        outputs = replace(outputs, argmax=True, top_k=3, probabilities=True)
    sequences = inputs_of(case, [1, 20, 3, 1, 8, 9])
    async with reals(case, shards=2) as house:
        own = []
        for number, steps in enumerate(sequences):
            session = house.engine.open(house.served, f"s{number}").id
            stepped = await house.engine.step(
                session, checked(house.served, steps), outputs=outputs, sampling=sampling
            )
            own.append(stepped.answers)
        states = [house.state(f"s{number}") for number in range(len(sequences))]
        found = await predicted(house.engine, house.served, sequences, outputs, sampling)
        assert bits(found.answers) == bits(Answers.joined(own))
        expected = [len(steps) for steps in sequences] if every_step else None
        assert (None if found.counts is None else found.counts.tolist()) == expected
        for number, before in enumerate(states):
            for one, other in zip(before, house.state(f"s{number}"), strict=True):
                assert np.array_equal(one, other)
        assert [house.position(f"s{n}") for n in range(6)] == [
            1,
            20,
            3,
            1,
            8,
            9,
        ]
        await house.engine.drain()
        assert house.served.usage.spares == 0


@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
async def test_more_sequences_than_there_are_spare_slots(inline_run_s: float) -> None:
    case = STREAMED["labels"]
    sequences = inputs_of(case, [1 + n % 11 for n in range(100)])
    async with reals(case, shards=2, spare_slots=16, max_paths=16, default_paths=8,
                     inline_run_s=inline_run_s) as house:  # fmt: skip
        results = await asyncio.gather(
            *(predicted(house.engine, house.served, sequences) for _ in range(5))
        )
        alone = [
            (await predicted(house.engine, house.served, [steps])).answers
            for steps in sequences[:20]
        ]
        for result in results:
            assert bits(result.answers) == bits(results[0].answers)
        assert bits(results[0].answers.rows(0, 20)) == bits(Answers.joined(alone))
        assert house.served.usage.pending_steps == 0
        await house.engine.drain()
        assert house.served.usage.spares == 0


async def test_steps_are_counted_once() -> None:
    case = STREAMED["char"]
    async with reals(case) as house:
        await predicted(house.engine, house.served, inputs_of(case, [1, 1, 30, 5]))
        assert steps_counted(house.engine, "letters/1") == 37


async def test_a_call_that_is_cancelled_leaves_nothing_behind() -> None:
    async with fakes(inline_run_s=WORKER) as house:
        house.runners[0].gate.clear()
        steps = house.served.reader.tokens(np.arange(60) % 5)
        call = asyncio.create_task(
            predict(house.engine, house.served, steps, np.array([20] * 3), outputs=NOTHING)
        )
        await asyncio.sleep(0.05)
        assert house.served.usage.pending_steps == 60
        call.cancel()
        house.runners[0].gate.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(house.engine.drain(), 5)
        assert house.served.usage.spares == 0
        assert house.served.usage.pending_steps == 0


async def test_too_much_is_refused() -> None:
    async with fakes(inline_run_s=WORKER, max_pending_steps=100) as house:
        house.runners[0].gate.clear()
        steps = house.served.reader.tokens(np.zeros(60, np.int64))
        first = asyncio.create_task(
            predict(house.engine, house.served, steps, None, outputs=NOTHING)
        )
        await asyncio.sleep(0.05)
        with pytest.raises(OverloadedError, match="60 steps are queued, the limit is 100"):
            await predict(house.engine, house.served, steps, None, outputs=NOTHING)
        house.runners[0].gate.set()
        await first
        await predict(house.engine, house.served, steps, None, outputs=NOTHING)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    cell=st.sampled_from(["lstm", "gru", "rnn"]),
    features=st.sampled_from([0, 3]),
    batch=st.sampled_from([3, 64]),
)
@settings(max_examples=20, deadline=None)
def test_neighbours_do_not_change_a_whole_sequence(
    lengths: list[int], cell: str, features: int, batch: int
) -> None:
    case = WHOLE[cell, features]
    sequences = inputs_of(case, lengths)

    async def check() -> None:
        async with wholes(case, max_batch=batch, chunk_steps=2, workers=2) as (engine, served):
            outputs = Outputs(raw=True, probabilities=True, argmax=True, top_k=2)
            together = await predicted(engine, served, sequences, outputs)
            alone = await asyncio.gather(
                *(predicted(engine, served, [steps], outputs) for steps in sequences)
            )
            one = [runner_alone(case, steps) for steps in sequences]
            assert bits(together.answers) == bits(Answers.joined([each.answers for each in alone]))
            assert together.answers.raw is not None
            assert together.answers.raw.tobytes() == np.concatenate(one).tobytes()

    asyncio.run(check())


WHOLE = {
    (cell, features): whole_case(cell, features=features)
    for cell in ("lstm", "gru", "rnn")
    for features in (0, 3)
}
RUNNERS = {key: StatelessRunner(compile_stateless(case.model)) for key, case in WHOLE.items()}


def runner_alone(case: WholeCase, steps: Inputs) -> Floats:
    key = next(key for key, known in WHOLE.items() if known is case)
    return RUNNERS[key].predict([steps])[0]


async def test_a_graph_whose_rows_see_each_other_gets_them_one_by_one() -> None:
    model = smoothing(meddles=True)
    case = replace(WHOLE["lstm", 3], model=model)
    rows = [np.full((n, 2), value, np.float32) for n, value in ((3, 1.0), (3, 5.0), (2, 2.0))]
    async with wholes(case) as (engine, served):
        found = await predicted(engine, served, rows, EVERY)
        assert found.answers.raw is not None
        assert found.answers.raw[:, 0].tolist() == [2, 4, 6, 10, 20, 30, 4, 8]
        assert found.counts is not None
        assert found.counts.tolist() == [3, 3, 2]


class Gated(StatelessRunner):
    """Runs when told to; cannot run sequences that begin with token 26."""

    gate: threading.Event
    batches: list[list[int]]

    @classmethod
    def make(cls) -> "Gated":
        runner = cls(compile_stateless(WHOLE["lstm", 0].model), isolated=False)
        runner.gate, runner.batches = threading.Event(), []
        return runner

    def predict(self, sequences: Sequence[Inputs]) -> list[Floats]:
        self.gate.wait(10)
        self.batches.append([len(steps) for steps in sequences])
        if any(steps[0] == 26 for steps in sequences):
            raise RuntimeError("as told")
        return super().predict(sequences)


async def test_sequences_of_all_callers_share_runs_that_are_padded_little() -> None:
    runner = Gated.make()
    async with wholes(WHOLE["lstm", 0], runner=runner, max_batch=8, chunk_steps=8) as house:
        calls = [
            asyncio.create_task(predicted(*house, inputs_of(WHOLE["lstm", 0], lengths)))
            for lengths in ([5], [30, 3, 4], [4, 5, 29], [64], [3] * 9)
        ]
        await asyncio.sleep(0.05)
        assert house[1].usage.pending_steps == 5 + 37 + 38 + 64 + 27
        draining = asyncio.create_task(house[0].drain())
        await asyncio.sleep(0)
        with pytest.raises(DrainingError):
            await predicted(*house, inputs_of(WHOLE["lstm", 0], [1]))
        runner.gate.set()
        await asyncio.gather(*calls)  # what runs is finished
        await draining
        assert house[1].usage.pending_steps == 0
        assert runner.batches[0] == [5]
        assert sorted(runner.batches[1]) == [3, 3, 3, 3, 3, 4, 4, 5]
        for batch in runner.batches:
            assert len(batch) * max(batch) <= 64
            assert max(batch) <= 2 * min(batch)
        assert steps_counted(house[0], "whole/1") == 5 + 37 + 38 + 64 + 27


async def test_a_sequence_that_cannot_be_run_leaves_its_neighbours_alone() -> None:
    runner = Gated.make()
    async with wholes(WHOLE["lstm", 0], runner=runner) as house:
        good = [asyncio.create_task(predicted(*house, [np.array([1, 2])])) for _ in range(3)]
        bad = asyncio.create_task(predicted(*house, [np.array([2, 2]), np.array([26, 2])]))
        await asyncio.sleep(0.05)
        runner.gate.set()
        with pytest.raises(InternalError, match="the server's log tells why"):
            await bad
        results = await asyncio.gather(*good)
        assert len({str(bits(result.answers)) for result in results}) == 1


async def test_nobody_waits_for_a_caller_who_went_away() -> None:
    runner = Gated.make()
    async with wholes(
        WHOLE["lstm", 0], runner=runner, max_batch=1, chunk_steps=1, max_pending_steps=20
    ) as house:
        calls = [asyncio.create_task(predicted(*house, [np.array([1] * 5)])) for _ in range(4)]
        await asyncio.sleep(0.05)
        with pytest.raises(OverloadedError, match="20 steps are queued"):
            await predicted(*house, [np.array([1])])
        for call in calls[1:]:
            call.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        later = asyncio.create_task(predicted(*house, [np.array([3])]))
        runner.gate.set()
        await asyncio.gather(calls[0], later)
        assert runner.batches == [[5], [1]]


def refusal_of(text: str, counts: list[int] | None, **outputs: object) -> CellarError:
    async def ask() -> CellarError:
        async with wholes(
            WHOLE["lstm", 0], max_request_steps=20, max_frame_steps=30, max_message_bytes=2048
        ) as (engine, served):
            with pytest.raises(CellarError) as caught:
                await predict(
                    engine,
                    served,
                    served.reader.text(text),
                    None if counts is None else np.array(counts),
                    outputs=Outputs(**outputs),  # type: ignore[arg-type]
                )
            assert served.usage.pending_steps == 0
            return caught.value

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("text", "counts", "outputs", "complaint"),
    [
        (
            "",
            None,
            {},
            "inputs: no step in it: send at least one, in inputs.text or inputs.tokens.ids",
        ),
        ("abc", [3, 0], {}, "steps, row 1: a sequence has at least one step"),
        ("abc", [2, 2], {}, "steps: they sum to 4, the inputs are 3 steps"),
        ("abc", [2**63 - 1, 2**63 - 1, 5], {}, "steps: they sum to 18446744073709551619, the"),
        ("a" * 31, [20, 11], {}, "inputs: 31 steps exceed the limit of 30 per request"),
        ("a" * 25, [4, 21], {}, "inputs, row 1: 21 steps exceed the limit of 20 per sequence"),
        ("abcXe", [2, 3], {}, r"inputs.text, row 1: step 1: 'X' \(U\+0058\) is not among"),
        ("a", None, {"every_step": True}, "outputs.every_step: the model predicts once for each"),
        ("a", None, {"sample": True}, "outputs.sample: .* has: argmax, top_k, probabilities, raw"),
        ("a", None, {"quantiles": (0.5,)}, "outputs.quantiles: the model predicts no distribution"),
        ("a", None, {"top_k": 6}, "outputs.top_k: 6 is more than the model's 5 labels"),
        ("a" * 30, [1] * 30, {"raw": True, "top_k": 5}, "the reply to 30 steps may take .* bytes"),
    ],
)
def test_what_cannot_be_used_is_named(
    text: str, counts: list[int] | None, outputs: dict[str, object], complaint: str
) -> None:
    error = refusal_of(text, counts, **outputs)
    assert isinstance(error, BadInputError)
    assert re.search(complaint, str(error)), str(error)


async def test_there_are_no_sessions_of_a_model_without_states() -> None:
    async with wholes(WHOLE["lstm", 0]) as (engine, served):
        wanted = "'whole' has no sessions: .* both directions .* ModelService.Predict"
        with pytest.raises(NotStreamableError, match=wanted):
            engine.open(served, "mine")
        with pytest.raises(NotStreamableError, match=wanted):
            SessionStream(engine, served, outputs=NOTHING, sampling=None, send=print)
        assert engine.directory.expire() == 0
