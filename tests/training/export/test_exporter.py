"""The exported graph: torch's numbers, and one arithmetic for chunks, single steps and batches."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models.manifest import Manifest, ValuesInput
from models.repository import ModelRepository, check_fit
from training.export.exporter import export
from training.export.onnx_model import OnnxModel
from training.families.char.network import CharNetwork
from training.families.series.network import SeriesNetwork
from training.families.series.settings import Transform
from training.networks.recurrent import RecurrentNetwork
from training.settings import Cell

ROWS, STEPS = 5, 24
LENGTHS = np.array([1, 24, 3, 9, 23], np.int32)
LEVELS = np.tile(np.array([1e-6, 0.02, 0.1, 0.5, 0.9, 0.97], np.float32), (ROWS, 1))


def char_network(cell: Cell, layers: int) -> RecurrentNetwork:
    torch.manual_seed(7)
    return CharNetwork(vocabulary="abcdefg\n x", cell=cell, layers=layers, hidden=40, embedding=12)


def series_network(cell: Cell, layers: int, transform: Transform) -> RecurrentNetwork:
    torch.manual_seed(7)
    network = SeriesNetwork(
        cell=cell, layers=layers, hidden=24, transform=transform, change_scale=0.02
    )
    torch.nn.init.normal_(network.head.linear.weight, std=0.3)
    return network


def inputs_of(network: RecurrentNetwork) -> np.ndarray:
    rng = np.random.default_rng(3)
    if isinstance(network, CharNetwork):
        return rng.integers(0, len(network.vocabulary), (ROWS, STEPS))
    walk = np.cumsum(rng.normal(0, 0.02, (ROWS, STEPS, 1)), axis=1)
    return (50 * np.exp(walk)).astype(np.float32)


CELLS = [(cell, layers) for cell in Cell for layers in (1, 2)]
NETWORKS = [
    pytest.param(lambda c=cell, n=layers: char_network(c, n), cell, id=f"char-{cell}-{layers}")
    for cell, layers in CELLS
] + [
    pytest.param(
        lambda c=cell, n=layers, t=transform: series_network(c, n, t),
        cell,
        id=f"{transform}-{cell}-{layers}",
    )
    for cell, layers in CELLS
    for transform in Transform
]


@pytest.mark.parametrize(("make", "cell"), NETWORKS)
def test_graph_gives_the_numbers_of_the_network(
    make: Callable[[], RecurrentNetwork], cell: Cell
) -> None:
    network = make().eval()
    proto, manifest = export(network)
    onnx.checker.check_model(proto, full_check=True)
    check_fit(proto, manifest, where="here")
    x = inputs_of(network)
    model = OnnxModel(proto, manifest)
    found, state = model.run(x, model.initial_state(ROWS))
    with torch.no_grad():
        expected, expected_state = network(torch.from_numpy(x), network.initial_state(ROWS))
    np.testing.assert_allclose(
        found[manifest.prediction.output], expected.numpy(), rtol=1e-4, atol=1e-5
    )
    for name, part in zip(network.state_shapes, expected_state, strict=True):
        np.testing.assert_allclose(state[name], part.numpy(), rtol=1e-4, atol=1e-5)


def same(cell: Cell, found: np.ndarray, expected: np.ndarray) -> None:
    if cell is Cell.RNN:  # the runtime's RNN op is not bit-exact
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected)


def outputs_of(manifest: Manifest) -> list[str]:
    extra = [] if manifest.quantiles is None else [manifest.quantiles.output]
    return [manifest.prediction.output, *extra]


@pytest.mark.parametrize(("make", "cell"), NETWORKS)
def test_a_chunk_has_the_bits_of_its_single_steps(
    make: Callable[[], RecurrentNetwork], cell: Cell
) -> None:
    network = make()
    proto, manifest = export(network)
    model = OnnxModel(proto, manifest)
    x = inputs_of(network)
    whole, end = model.run(x, model.initial_state(ROWS), levels=LEVELS)
    for row in range(ROWS):
        state = model.initial_state(1)
        for step in range(STEPS):
            found, state = model.run(x[[row], step : step + 1], state, levels=LEVELS[:1])
            for name in outputs_of(manifest):
                same(cell, found[name][0, 0], whole[name][row, step])
        for name, part in state.items():
            same(cell, part[0], end[name][row])


@pytest.mark.parametrize(("make", "cell"), NETWORKS)
def test_padding_of_a_ragged_batch_changes_nothing(
    make: Callable[[], RecurrentNetwork], cell: Cell
) -> None:
    network = make()
    proto, manifest = export(network)
    model = OnnxModel(proto, manifest)
    x = inputs_of(network)
    padded = x.copy()
    for row, length in enumerate(LENGTHS):
        padded[row, length:] = 0 if network.__class__ is CharNetwork else np.nan
    ragged, end = model.run(padded, model.initial_state(ROWS), lengths=LENGTHS, levels=LEVELS)
    for row, length in enumerate(LENGTHS):
        alone, state = model.run(x[[row], :length], model.initial_state(1), levels=LEVELS[:1])
        for name in outputs_of(manifest):
            same(cell, ragged[name][row, :length], alone[name][0])
        for name, part in state.items():
            same(cell, end[name][row], part[0])


def test_quantiles_hang_on_the_distribution_alone() -> None:
    proto, _ = export(series_network(Cell.LSTM, 1, Transform.LOG_RETURN))
    made_by = {output: node for node in proto.graph.node for output in node.output}
    leaves, queue = set(), ["quantiles"]
    while queue:
        name = queue.pop()
        if name == "distribution" or name not in made_by:
            leaves.add(name)
        else:
            queue += made_by[name].input
    constants = {tensor.name for tensor in proto.graph.initializer}
    assert leaves - constants == {"distribution", "levels"}


def test_manifest_of_a_series_model() -> None:
    _, manifest = export(series_network(Cell.LSTM, 1, Transform.LOG_RETURN), name="prices")
    assert [state.input for state in manifest.states] == [
        "h_0",
        "c_0",
        "history",
        "seen",
        "size_sums",
        "size_weights",
    ]
    assert isinstance(manifest.input, ValuesInput)
    assert manifest.input.positive
    assert manifest.prediction.width == 6
    _, other = export(series_network(Cell.GRU, 1, Transform.DIFFERENCE))
    assert isinstance(other.input, ValuesInput)
    assert not other.input.positive


def test_published_model_can_be_loaded(tmp_path: Path) -> None:
    proto, manifest = export(char_network(Cell.GRU, 2), name="letters")
    repository = ModelRepository(tmp_path)
    repository.publish(proto, manifest)
    assert repository.load("letters").manifest == manifest


def test_constant_and_wild_series_stay_finite() -> None:
    for transform in Transform:
        proto, manifest = export(series_network(Cell.LSTM, 1, transform))
        model = OnnxModel(proto, manifest)
        values = np.array([5, 5, 5, 5, 1e30, 1e-30, 5, 5], np.float32).reshape(1, -1, 1)
        found, state = model.run(values, model.initial_state(1), levels=LEVELS[:1])
        assert np.isfinite(found["distribution"]).all()
        assert all(np.isfinite(part).all() for part in state.values())
