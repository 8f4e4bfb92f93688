"""What is found out about a model at load, and that it is then served right."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from models.compile.arena import compile_model
from models.compile.stateless import compile_stateless
from models.errors import ModelError
from models.graph.builder import FLOAT, GraphBuilder
from models.manifest import Manifest
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.probe import SHARED, Findings, probe
from service.engine.execution.runtime import CPU
from service.engine.execution.stateless import StatelessRunner
from service.engine.work.columns import Outputs
from tests.foreign import (
    WIDTH,
    chunked_case,
    embedding_case,
    foreign_case,
    lookup_case,
    mixing_case,
    poisoned_case,
    random_case,
    ruined_case,
    whole_lookup,
)
from tests.models.test_whole import smoothing
from tests.recurrent import Case, char_case, label_case, series_case
from tests.service.engine.houses import Reals, reals

SLOTS, MAX_BATCH = 100, 80
ROWS = Findings(rows_run_alone=True)
STEPS = Findings(steps_run_alone=True)
OWN = {
    "char": char_case("lstm", layers=2),
    "char by gru": char_case("gru"),
    "char by rnn": char_case("rnn"),
    "series": series_case("gru"),
    "labels": label_case("lstm"),
    "labels of values": label_case("gru", features=3),
}
FOREIGN = {
    "fine": (foreign_case(), SHARED),
    "fine chunks": (chunked_case(), SHARED),
    "fine symbols": (embedding_case(rows=7, vocabulary=7), SHARED),
    "what it cannot read": (lookup_case(), SHARED),
    "sees its neighbours": (mixing_case(), ROWS),
    "is poisoned by its neighbours": (poisoned_case(), ROWS),
    "one row": (foreign_case(batch=1), ROWS),
    "cuts": (chunked_case("cuts"), STEPS),
    "padding": (chunked_case("padding"), STEPS),
    "rows of a chunk": (
        chunked_case("rows"),
        Findings(rows_run_alone=True, steps_run_alone=True),
    ),
}


def found(case: Case, *, device: bool = False, tolerance: float = 0.0, slots: int = 90) -> Findings:
    graph = compile_model(case.model, device="cuda" if device else "cpu")
    runner: CpuRunner | CudaRunner = (
        CudaRunner(graph, slots=SLOTS, max_batch=MAX_BATCH, place=CPU, several=False)
        if device
        else CpuRunner(graph, slots=SLOTS, max_batch=MAX_BATCH)
    )
    findings = probe(
        runner,
        graph.manifest,
        slots=np.arange(slots),
        max_batch=MAX_BATCH,
        chunk_steps=16,
        tolerance=tolerance,
    )
    assert runner.rows_run_alone is findings.rows_run_alone
    return findings


@pytest.mark.parametrize("name", OWN)
def test_what_is_trained_here_shares_runs(name: str) -> None:
    assert replace(found(OWN[name]), largest=None) == SHARED


@pytest.mark.parametrize(("device", "tolerance"), [(False, 0.0), (True, 1e-3)])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_hangs_on_others_or_on_cuts_is_found(
    name: str, device: bool, tolerance: float
) -> None:
    case, expected = FOREIGN[name]
    findings = found(case, device=device, tolerance=tolerance)
    assert replace(findings, largest=None) == expected


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_few_rows_of_the_arena_are_enough(slots: int) -> None:
    assert found(foreign_case(), slots=slots) == SHARED
    assert found(mixing_case(), slots=slots).rows_run_alone is (slots > 1)
    assert found(chunked_case("cuts"), slots=slots).steps_run_alone


def test_what_cannot_run_at_all_is_refused_in_one_line() -> None:
    case = foreign_case()
    manifest = case.manifest.model_dump()
    manifest["states"][0]["batch_axis"] = 1
    wrong = replace(case.model, manifest=Manifest.model_validate(manifest))
    with pytest.raises(ModelError, match=r"^cannot be run: \S.*$") as caught:
        found(replace(case, model=wrong))
    assert "\n" not in str(caught.value)


def test_chance_is_refused() -> None:
    with pytest.raises(ModelError, match="its numbers hang on chance: alone and twice"):
        found(random_case())


def test_chance_in_whole_sequences_is_refused() -> None:
    model = smoothing()
    for node in model.proto.graph.node:
        node.output[:] = ["sum" if name == "y" else name for name in node.output]
    graph = GraphBuilder("more.")
    graph.node("Mul", "sum", graph.node("RandomUniformLike", "sum"), output="y")
    model.proto.graph.node.extend(graph.nodes)
    with pytest.raises(ModelError, match="its numbers hang on chance"):
        StatelessRunner(compile_stateless(model))


def test_a_whole_sequence_model_of_one_row_gets_them_one_by_one() -> None:
    graph = GraphBuilder()
    x = graph.input("x", FLOAT, [1, "time", 2])
    graph.node("CumSum", x, graph.constant(np.array(1, np.int64)), output="y")
    graph.output("y", FLOAT, [1, "time", 2])
    model = replace(smoothing(), proto=graph.model("sums"))
    assert StatelessRunner(compile_stateless(model)).isolated


@pytest.mark.parametrize("rows", [1, 4, 6])
def test_a_vocabulary_that_is_too_large_is_refused(rows: int) -> None:
    with pytest.raises(ModelError, match=f"vocabulary has 7 symbols, but it can read {rows} of"):
        found(embedding_case(rows=rows, vocabulary=7))


def test_a_vocabulary_of_whole_sequences_that_is_too_large_is_refused() -> None:
    with pytest.raises(ModelError, match="vocabulary has 7 symbols, but it can read 4 of them"):
        StatelessRunner(compile_stateless(whole_lookup(4, 7)))
    assert not StatelessRunner(compile_stateless(whole_lookup(7, 7))).isolated


def test_values_that_leave_no_state_have_a_limit() -> None:
    assert found(ruined_case()).largest == 1e36
    assert found(foreign_case()).largest is None


async def test_a_session_is_told_of_a_value_that_would_ruin_it() -> None:
    from service.errors import BadInputError

    case = ruined_case()
    async with reals(case, findings=found(case)) as house:
        house.engine.open(house.served, "a")
        await step(house, "a", [(1, 1)])
        with pytest.raises(BadInputError, match=r"row 0: b is 2e\+37: beyond 1e\+36 the"):
            await step(house, "a", [(1, 2e37)])
        assert (await step(house, "a", [(1, 1)]))[0] == [1.5, 1.5]


async def step(house: Reals, name: str, rows: list[tuple[float, float]]) -> list[list[float]]:
    steps = house.served.reader.values(np.array(rows, np.float32).ravel())
    outputs = Outputs(raw=True, every_step=True)
    result = await house.engine.step(name, steps, outputs=outputs)
    assert result.answers.raw is not None
    every: list[list[float]] = result.answers.raw.tolist()
    return every


@pytest.mark.parametrize("name", [name for name, (_, how) in FOREIGN.items() if how is not SHARED])
async def test_sessions_of_such_a_model_equal_each_alone(name: str) -> None:
    """Requests of any length, many at once: what each session would have had step by step."""
    case, _ = FOREIGN[name]
    findings = found(case)
    noise = np.random.default_rng(3)
    sequences = {
        f"s{n}": noise.normal(size=(12, WIDTH)).round(2).astype(np.float32) for n in range(5)
    }

    async def play(house: Reals, session: str, sizes: list[int]) -> list[list[float]]:
        house.engine.open(house.served, session)
        seen, at = [], 0
        for size in sizes:
            seen += await step(house, session, [tuple(r) for r in sequences[session][at:][:size]])
            at += size
        return seen

    async with reals(case, findings=findings, chunk_steps=4, max_batch=16) as house:
        alone = {session: await play(house, session, [1] * 12) for session in sequences}
    async with reals(case, findings=findings, chunk_steps=4, max_batch=16) as house:
        cuts = ([1] * 12, [5, 1, 6], [12], [2, 3, 1, 1, 5], [1, 1, 10])
        together = await asyncio.gather(
            *(play(house, session, own) for session, own in zip(sequences, cuts, strict=True))
        )
    assert dict(zip(sequences, together, strict=True)) == alone
