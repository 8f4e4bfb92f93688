"""The textbook cases; "hello" is with the training runs, in `test_fit`."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from examples.recurrent_networks import gradient_by_distance, remember
from models.manifest import TokensInput
from models.repository import Model, ModelRepository
from training.export.exporter import export
from training.export.onnx_model import OnnxModel
from training.families.char.network import CharNetwork
from training.importing.command import import_model
from training.importing.options import options_of, refuse
from training.networks.equations import Step, Weights, gru, lstm, rnn, unrolled
from training.networks.recurrent import Cells
from training.settings import Cell


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("cell", "step"),
    [(Cell.LSTM, lstm), (Cell.GRU, gru), (Cell.RNN, rnn)],
    ids=["lstm", "gru", "rnn"],
)
def test_network_and_graph_follow_the_equations(cell: Cell, step: Step) -> None:
    torch.manual_seed(1)
    network = CharNetwork(vocabulary="FAME", cell=cell, hidden=6, embedding=3, layers=2).eval()
    learnt = {name: value.double().numpy() for name, value in network.state_dict().items()}
    rng = np.random.default_rng(0)
    tokens = np.array([[0, 1, 2, 3, 0, 1, 1]])
    start = {name: rng.normal(size=shape) for name, shape in network.state_shapes.items()}

    xs = learnt["embed.weight"][tokens[0]]
    after: dict[str, np.ndarray] = {}
    for number in range(2):
        weights = Weights(
            **{
                short: learnt[f"cells.layers.{number}.{name}_l0"]
                for short, name in (
                    ("W", "weight_ih"),
                    ("R", "weight_hh"),
                    ("b_w", "bias_ih"),
                    ("b_r", "bias_hh"),
                )
            }
        )
        names = [name for name in start if name.endswith(f"_{number}")]
        xs, end = unrolled(step, weights, xs, tuple(start[name] for name in names))
        after |= dict(zip(names, end, strict=True))
    expected = xs @ learnt["head.weight"].T + learnt["head.bias"]  # (time, symbols)

    given = {name: part.astype(np.float32)[np.newaxis] for name, part in start.items()}
    with torch.no_grad():
        found, state = network(
            torch.from_numpy(tokens), tuple(torch.from_numpy(part) for part in given.values())
        )
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    for name, part in zip(start, state, strict=True):
        np.testing.assert_allclose(part[0], after[name], atol=1e-6)
    model = OnnxModel(*export(network))
    whole, state_whole = model.run(tokens, given)
    np.testing.assert_allclose(whole["logits"][0], expected, atol=1e-6)
    single = given
    for number in range(tokens.shape[1]):
        outputs, single = model.run(tokens[:, number : number + 1], single)
        np.testing.assert_allclose(outputs["logits"][0, 0], expected[number], atol=1e-6)
    for name, part in after.items():
        np.testing.assert_allclose(state_whole[name][0], part, atol=1e-6)
        np.testing.assert_allclose(single[name][0], part, atol=1e-6)


def test_the_page_shows_the_equations_that_are_tested() -> None:
    page = (Path(__file__).parents[3] / "docs" / "recurrent-networks.md").read_text("utf-8")
    for step in (rnn, gru, lstm):
        _, doc, body = inspect.getsource(step).partition(f'{step.__doc__}"""\n')
        assert doc
        assert f"def {step.__name__}(weights, x, state):\n{body}```" in page


class Stack(nn.Module):
    """A recurrent layer and a linear head."""

    def __init__(self, cell: nn.RNN | nn.LSTM | nn.GRU, outputs: int) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(cell.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.cell(x)[0])
        return y


def published(network: nn.Module, folder: Path, **options: str) -> Model:
    """Save a network's weights, import them, and read what is served."""
    torch.save(network.state_dict(), folder / "net.pt")
    settings = {"file": folder / "net.pt", "models": folder / "models", **options}
    import_model(options_of(settings), ask=refuse)
    return ModelRepository(folder / "models").load("net")


def test_fame_is_spelt_from_its_first_letter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Stack(nn.RNN(4, 5, batch_first=True), 4)
    word = torch.tensor([[0, 1, 2, 3]])
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    for _ in range(60):
        logits = network(one_hot(word[:, :-1], 4).float())
        loss = cross_entropy(logits.flatten(0, 1), word[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (tmp_path / "symbols").write_text("FAME")
    served = published(network, tmp_path, vocabulary=str(tmp_path / "symbols"))
    model = OnnxModel(served.proto, served.manifest)
    assert isinstance(served.manifest.input, TokensInput)
    vocabulary = served.manifest.input.vocabulary
    spelt, state = "F", model.initial_state(1)
    while len(spelt) < 4:
        outputs, state = model.run(np.array([[vocabulary.index(spelt[-1])]]), state)
        spelt += vocabulary[int(outputs["logits"][0, 0].argmax())]
    assert spelt == "FAME"


def test_five_integers_are_summed(tmp_path: Path) -> None:
    """Many to one: only the prediction after the fifth is trained."""
    torch.manual_seed(0)
    cell = nn.RNN(1, 16, nonlinearity="relu", batch_first=True)
    # A state that stays what it is (Le, Jaitly & Hinton 2015).
    nn.init.eye_(cell.get_parameter("weight_hh_l0"))
    for bias in ("bias_ih_l0", "bias_hh_l0"):
        nn.init.zeros_(cell.get_parameter(bias))
    network = Stack(cell, 1)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=250)
    for _ in range(250):
        x = torch.randint(0, 10, (64, 5, 1)).float()
        loss = mse_loss(network(x)[:, -1, 0], x.sum(dim=(1, 2)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    served = published(network, tmp_path, features="number", nonlinearity="relu")
    model = OnnxModel(served.proto, served.manifest)
    numbers = np.random.default_rng(0).integers(0, 10, (500, 5, 1)).astype(np.float32)
    outputs, _ = model.run(numbers, model.initial_state(500))
    found = np.round(outputs["prediction"][:, -1, 0])
    assert (found == numbers.sum(axis=(1, 2))).mean() > 0.95


@pytest.mark.parametrize("cell", [Cell.LSTM, Cell.GRU])
def test_gated_cells_write_keep_and_read(cell: Cell) -> None:
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(1)
    cells = Cells(cell=cell, inputs=3, hidden=16, layers=1, dropout=0.0)
    head = nn.Linear(16, 1)
    parameters = [*cells.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 0.02)

    def read(x: Tensor) -> Tensor:
        start = tuple(torch.zeros(len(x), *shape) for shape in cells.state_shapes.values())
        found: Tensor = head(cells(x, start)[0][:, -1])[:, 0]
        return found

    for _ in range(110):
        x, signs = remember(32, draws, gap=12)
        loss = mse_loss(read(x), signs)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    x, signs = remember(500, draws, gap=12)
    assert (read(x).sign() == signs).float().mean() > 0.98


def test_the_gradient_of_the_plain_cell_vanishes_and_that_of_the_gated_ones_lasts() -> None:
    """What a last output owes to an input so many steps before it, untrained."""
    norms = {cell: gradient_by_distance(cell, steps=60) for cell in Cell}
    assert norms[Cell.RNN][59] < 1e-12
    assert norms[Cell.LSTM][59] > 1e-7
    assert norms[Cell.LSTM][20] > 10 * norms[Cell.GRU][20]
    assert norms[Cell.GRU][20] > 100 * norms[Cell.RNN][20]


def test_a_large_recurrence_makes_the_gradient_explode() -> None:
    norms = gradient_by_distance(Cell.RNN, steps=30, gain=4.0, seed=1)
    assert norms[29] > 100
