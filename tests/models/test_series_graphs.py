"""Series models as they are served: torch's numbers, and bits that no company changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models.compile.arena import compile_model
from models.manifest import fingerprint
from models.repository import Model
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.work.sampling import Draws, Sampling
from training.data.series.columns import TimeFeature
from training.export.exporter import export
from training.families.series.features import Features, Number
from training.families.series.network import SeriesNetwork
from training.families.series.settings import Transform
from training.settings import Cell

ROWS, STEPS = 5, 14
NUMBERS = (
    Number(
        name="Volume",
        transform=Transform.LOG_RETURN,
        change_scale=0.4,
        mean=9.0,
        deviation=1.0,
        drifts=False,
    ),
    Number(
        name="Wind",
        transform=Transform.DIFFERENCE,
        change_scale=2.0,
        mean=3.0,
        deviation=2.0,
        drifts=True,
    ),
)
CASES = {
    "three sizes": {"decays": (0.94, 0.8, 0.985)},
    "season": {"lag": 6, "transform": Transform.DIFFERENCE, "change_scale": 1.0},
    "columns": {"features": Features(numbers=NUMBERS, times=(TimeFeature.WEEKDAY,))},
    "time, season": {
        "features": Features(numbers=NUMBERS[:1], times=(TimeFeature.HOUR,)),
        "lag": 6,
    },
}


def network_of(case: str, cell: str = "lstm") -> SeriesNetwork:
    torch.manual_seed(3)
    network = SeriesNetwork(feature="Close", cell=Cell(cell), hidden=12, **CASES[case])  # type: ignore[arg-type]
    torch.nn.init.normal_(network.head.linear.weight, std=0.3)
    return network.eval()


def model_of(network: SeriesNetwork) -> Model:
    proto, manifest = export(network, name="prices")
    return Model(
        name="prices",
        version=1,
        manifest=manifest,
        proto=proto,
        fingerprint=fingerprint(proto),
        path=Path("prices.onnx"),
    )


def inputs_of(network: SeriesNetwork) -> np.ndarray:
    """(rows, steps, columns) of every kind the network reads."""
    rng = np.random.default_rng(2)
    walk = 50 * np.exp(np.cumsum(rng.normal(0, 0.01, (ROWS, STEPS)), axis=1))
    found = {
        "Close": walk,
        "Volume": np.exp(rng.normal(9, 1, (ROWS, STEPS))),
        "Wind": rng.normal(3, 2, (ROWS, STEPS)),
        "weekday": np.arange(STEPS) % 7 + np.zeros((ROWS, 1)),
        "hour": np.arange(STEPS) % 24 + np.zeros((ROWS, 1)),
    }
    return np.stack([found[name] for name in network.columns], axis=-1).astype(np.float32)


class Served:
    """A model in an arena that is full of NaN."""

    def __init__(self, model: Model) -> None:
        self.runner = CpuRunner(compile_model(model), slots=ROWS, max_batch=512)
        for array in self.runner.arena:
            array[:] = np.nan

    def step(
        self, inputs: np.ndarray, rows: list[int], lengths: list[int], *, fresh: bool
    ) -> np.ndarray:
        """(rows, width) after each row's last step."""
        return self.runner.step(
            read=np.array(rows),
            write=np.array(rows),
            fresh=np.full(len(rows), fresh),
            inputs=inputs,
            lengths=np.array(lengths),
            every_step=False,
        ).copy()


@pytest.mark.parametrize(
    ("case", "cell"),
    [*((case, "lstm") for case in CASES), ("columns", "gru"), ("time, season", "rnn")],
)
def test_bits_do_not_depend_on_company_or_chunks(case: str, cell: str) -> None:
    network = network_of(case, cell)
    model, inputs = model_of(network), inputs_of(network)
    every = list(range(ROWS))

    alone = Served(model)
    for row in every:
        for step in range(STEPS):
            alone.step(inputs[row : row + 1, step : step + 1], [row], [1], fresh=step == 0)

    together = Served(model)
    for step in range(STEPS):
        last = together.step(inputs[:, step : step + 1], every, [1] * ROWS, fresh=step == 0)

    whole = Served(model)
    at_once = whole.step(inputs, every, [STEPS] * ROWS, fresh=True)

    ragged = Served(model)
    lengths = [1 + 3 * row for row in every]  # 1 … 13
    ragged.step(inputs[:, : max(lengths)], every, lengths, fresh=True)
    for row, length in enumerate(lengths):
        rest = inputs[row : row + 1, length:]
        ragged.step(rest, [row], [STEPS - length], fresh=False)

    assert np.array_equal(last, at_once)
    for one in (together, whole, ragged):
        for mine, expected in zip(one.runner.arena, alone.runner.arena, strict=True):
            assert np.array_equal(mine[:ROWS], expected[:ROWS])

    with torch.no_grad():
        expected, _ = network(torch.from_numpy(inputs), network.initial_state(ROWS))
    np.testing.assert_allclose(last, expected[:, -1].numpy(), rtol=5e-3, atol=2e-3)


@pytest.mark.parametrize("case", CASES)
def test_single_steps_have_a_graph_of_their_own_without_lengths(case: str) -> None:
    network = network_of(case)
    graph = compile_model(model_of(network))
    assert graph.step is not None
    step = onnx.load_from_string(graph.step)
    onnx.checker.check_model(step)
    operators = {node.op_type for node in step.graph.node}
    assert not operators & {"LSTM", "RNN", "Scan", "Range", "GatherND", "GatherElements"}
    assert "lengths" not in {value.name for value in step.graph.input}
    # Only a draw of all columns could be read as the next step.
    assert ("quantiles" in graph.decode) == (len(network.columns) == 1)


@pytest.mark.parametrize("case", ["season", "three sizes"])
def test_drawing_several_steps_equals_stepping_with_what_was_drawn(case: str) -> None:
    network = network_of(case)
    model, inputs = model_of(network), inputs_of(network)
    drawing, stepping = Served(model), Served(model)
    for served in (drawing, stepping):
        served.step(inputs[:2, :-1], [0, 1], [STEPS - 1] * 2, fresh=True)
    drawn = drawing.runner.decode(
        read=np.array([0, 1]),
        write=np.array([0, 1]),
        fresh=np.array([False, False]),
        inputs=inputs[:2, -1:],
        positions=np.array([STEPS, STEPS]),
        draws=replace(Draws.repeated(Sampling(), 2), seed=np.array([1, 2], np.uint64)),
        steps=4,
    )
    assert len(set(drawn.flatten())) == 8
    for values in (inputs[:2, -1:], *(drawn[:, step, None, None] for step in range(3))):
        stepping.step(values, [0, 1], [1, 1], fresh=False)
    for one, other in zip(drawing.runner.arena, stepping.runner.arena, strict=True):
        assert np.array_equal(one[:2], other[:2])
