"""Importing a state_dict: what is recognised, what is asked for, and what is served then."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.compile.arena import compile_model
from models.manifest import PredictionKind, TokensInput, ValuesInput
from models.repository import Model, ModelRepository
from service.engine.execution.cpu.runner import CpuRunner
from training.cli import main
from training.errors import ConfigError, DataError
from training.importing.command import import_model
from training.importing.options import options_of, refuse

SYMBOLS = "abc\nefghij"


class Net(nn.Module):
    """A network as people write them; the names are nothing that an import knows."""

    def __init__(
        self,
        cell: type[nn.LSTM] | type[nn.GRU] | type[nn.RNN],
        *,
        inputs: int = 10,
        embedding: int | None = 6,
        outputs: int | None = 10,
        layers: int = 2,
        **options: Any,
    ) -> None:
        super().__init__()
        torch.manual_seed(3)
        if embedding:
            self.lookup = nn.Embedding(inputs, embedding)
        self.body = cell(embedding or inputs, 8, layers, batch_first=True, **options)
        if outputs:
            self.out = nn.Linear(8 * (1 + self.body.bidirectional), outputs)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "lookup"):
            x = self.lookup(x)
        elif not x.is_floating_point():
            x = nn.functional.one_hot(x, self.body.input_size).float()
        y, _ = self.body(x)
        predictions: Tensor = self.out(y) if hasattr(self, "out") else y
        return predictions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "symbols.txt").write_text(SYMBOLS)
    return tmp_path


def imported(content: object, *, file: str = "Net v2.pt", **options: Any) -> Model:
    torch.save(content.state_dict() if isinstance(content, nn.Module) else content, file)
    path = import_model(options_of({"file": file, **options}), ask=refuse)
    return ModelRepository(Path("model-repository")).load(path.parent.parent.name)


def served(model: Model, x: np.ndarray) -> np.ndarray:
    """Predictions (steps, width) for one sequence: a chunk of all steps but the last, then that."""
    runner = CpuRunner(compile_model(model), slots=4, max_batch=64)
    found = [
        runner.step(
            read=np.array([1]),
            write=np.array([1]),
            fresh=np.array([number == 0]),
            inputs=part[None],
            lengths=np.array([len(part)]),
            every_step=True,
        )[0].copy()
        for number, part in enumerate((x[:-1], x[-1:]))
    ]
    return np.concatenate(found)


def same_as_torch(network: nn.Module, model: Model, x: np.ndarray) -> None:
    with torch.no_grad():
        expected = network(torch.from_numpy(x)[None])[0].numpy()
    np.testing.assert_allclose(served(model, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (nn.LSTM, {}),
        (nn.GRU, {"bias": False}),
        (nn.RNN, {}),
        (nn.RNN, {"nonlinearity": "relu"}),
        (nn.LSTM, {"embedding": None}),
    ],
)
def test_characters_are_served_as_torch_computes_them(
    folder: Path, cell: type[nn.LSTM], options: dict[str, Any]
) -> None:
    network = Net(cell, **options)
    said = {key: value for key, value in options.items() if key == "nonlinearity"}
    model = imported(network, vocabulary="symbols.txt", **said)
    assert model.name == "net-v2"
    assert isinstance(model.manifest.input, TokensInput)
    assert model.manifest.input.vocabulary == tuple(SYMBOLS)
    if not said:  # what our own exports look like is compiled anew
        assert model.manifest.task == "char"
    same_as_torch(network, model, np.array([1, 5, 9, 9, 0, 3]))


def test_values_and_labels_are_served_as_torch_computes_them(folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    network = Net(nn.GRU, inputs=3, embedding=None, outputs=2)
    model = imported(network, features="open,high,low", labels="up,down")
    assert isinstance(model.manifest.input, ValuesInput)
    assert model.manifest.input.features == ("open", "high", "low")
    assert model.manifest.prediction.labels == ("up", "down")
    same_as_torch(network, model, x)
    headless = Net(nn.LSTM, inputs=3, embedding=None, outputs=None)
    model = imported(headless, features="open,high,low", name="headless")
    assert model.manifest.prediction.kind is PredictionKind.RAW
    assert model.manifest.prediction.width == 8
    same_as_torch(headless, model, x)


def test_cells_of_single_modules_and_prefixes_make_one_stack(folder: Path) -> None:
    torch.manual_seed(0)
    embed, one, two, head = nn.Embedding(10, 5), nn.LSTMCell(5, 7), nn.GRU(7, 4), nn.Linear(4, 10)
    parts = {"net.tok": embed, "net.a": one, "net.b": two, "net.h": head}
    content = {
        f"module.{name}.{key}": value
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    model = imported({"epoch": 3, "model": content, "chars": list(SYMBOLS)})  # nothing to ask
    assert [state.shape for state in model.manifest.states] == [(7,), (7,), (4,)]
    x = np.array([1, 2, 3, 3, 8])
    with torch.no_grad():
        state = (torch.zeros(1, 7), torch.zeros(1, 7))
        h = []
        for token in x:
            state = one(embed(torch.tensor([token])), state)
            h.append(state[0])
        expected = head(two(torch.stack(h))[0])[:, 0].numpy()
    np.testing.assert_allclose(served(model, x), expected, rtol=1e-4, atol=1e-5)


def test_tied_weights_are_told_apart(folder: Path) -> None:
    network = Net(nn.LSTM, embedding=8)
    network.out = nn.Linear(8, 10, bias=False)
    network.out.weight = network.lookup.weight
    model = imported(network, vocabulary="symbols.txt")
    same_as_torch(network, model, np.array([1, 5, 9, 0]))


@pytest.mark.parametrize("reads", ["every", "last", "final", "mean"])
def test_bidirectional_networks_read_whole_sequences(folder: Path, reads: str) -> None:
    network = Net(nn.LSTM, inputs=3, embedding=None, outputs=2, bidirectional=True)
    model = imported(network, features="a,b,c", reads=reads)  # proved against torch in there
    assert not model.manifest.is_streamable
    assert model.manifest.prediction.per_step == (reads == "every")


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (Net(nn.LSTM), {}, "reads 10 symbols .* give --vocabulary, for example"),
        (Net(nn.LSTM, embedding=None), {}, "10 numbers per step, .*--vocabulary if they are one"),
        (Net(nn.LSTM, outputs=3), {"vocabulary": "ids"}, "3 columns, .* give --predicts"),
        (
            Net(nn.LSTM, outputs=3),
            {"vocabulary": "ids", "predicts": "labels"},
            "scores 3 labels, .* give --labels, for example --labels yes,no",
        ),
        (
            Net(nn.LSTM, outputs=3),
            {"vocabulary": "ids", "labels": "a,b"},
            r"--labels: 2 names \(a, b\) where the prediction has 3",
        ),
        (Net(nn.GRU, outputs=3), {"vocabulary": "ids", "predicts": "logits"}, "say labels or raw"),
        (
            Net(nn.LSTM),
            {"vocabulary": "short.txt"},
            r"short.txt holds 2 characters on 1 line\(s\), the network has 10 symbols",
        ),
        (
            Net(nn.LSTM, inputs=3, embedding=None, bidirectional=True),
            {"features": "a,b,c"},
            "is bidirectional, .* give --reads, for example --reads final",
        ),
        (Net(nn.LSTM), {"vocabulary": "ids", "reads": "mean"}, "--reads: this network runs forw"),
    ],
)
def test_what_the_weights_do_not_say_is_asked_for(
    folder: Path, network: nn.Module, options: dict[str, Any], message: str
) -> None:
    (folder / "short.txt").write_text("ab\n")
    with pytest.raises(ConfigError, match=message):
        imported(network, **options)
    assert not (folder / "model-repository").exists()


def test_answers_do_as_well_as_options(folder: Path) -> None:
    torch.save(Net(nn.LSTM, inputs=2, embedding=None, outputs=2).state_dict(), "net.pt")
    asked = {}

    def ask(option: str, question: str, example: str) -> str:
        asked[option] = example
        return "open,close"

    import_model(options_of({"file": "net.pt"}), ask=ask)
    assert asked == {"--features": "open,high"}
    manifest = ModelRepository(Path("model-repository")).load("net").manifest
    assert isinstance(manifest.input, ValuesInput)
    assert manifest.input.features == ("open", "close")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": torch.zeros(2, 3)}, "holds no weights of torch's LSTM, GRU or RNN"),
        (nn.LSTM(3, 8, proj_size=2), "weight_hr_l0: an LSTM with proj_size"),
        (nn.Sequential(nn.LSTM(3, 8), nn.LayerNorm(8)), r"1.weight \(8\) belongs to neither"),
        (
            nn.Sequential(nn.LSTM(3, 8), nn.Linear(8, 4), nn.Linear(4, 2)),
            r"2.weight \(2×4\) is neither .* export it with torch.onnx.export",
        ),
        (nn.ModuleList([nn.LSTM(3, 8), nn.LSTM(3, 8)]), "1 0 reads 3 numbers where 0 0 gives 8"),
    ],
)
def test_what_is_no_stack_is_refused(folder: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        imported(content)


def test_a_pickled_module_is_not_executed(folder: Path) -> None:
    torch.save(Net(nn.LSTM), "module.pt")
    with pytest.raises(DataError, match=r"torch.save\(model.state_dict\(\), 'weights.pt'\)"):
        import_model(options_of({"file": "module.pt"}))


@pytest.mark.parametrize(
    "text",
    ['["a", "b", "c"]', '{"c": 2, "a": 0, "b": 1}', '{"0": "a", "1": "b", "2": "c"}', "abc\n",
     "a\nb\nc\n"],
)  # fmt: skip
def test_vocabularies_are_read_in_every_form(folder: Path, text: str) -> None:
    (folder / "v").write_text(text)
    model = imported(Net(nn.GRU, inputs=3, outputs=3), vocabulary="v")
    assert isinstance(model.manifest.input, TokensInput)
    assert model.manifest.input.vocabulary == ("a", "b", "c")


def test_the_command_tells_what_it_took_the_file_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(Net(nn.GRU).state_dict(), "net.pt")
    assert main(["import", "net.pt", "--vocabulary", "symbols.txt", "--name", "letters"]) == 0
    shown = capsys.readouterr().out
    for part in ("lookup.weight", "gru", "out.weight", "letters/1", "cellar-serve --models"):
        assert part in shown
    assert main(["import", "net.pt", "--name", "No Name"]) == 2
    assert "name: " in capsys.readouterr().err
    assert main(["import", "missing.pt"]) == 2
    assert "missing.pt: there is no such file" in capsys.readouterr().err
