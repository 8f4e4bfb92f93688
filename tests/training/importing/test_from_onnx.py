"""Importing external ONNX graphs: what is found in them, and that they are served as they are."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from models.compile.arena import compile_model
from models.compile.stateless import compile_stateless
from models.graph.builder import FLOAT, GraphBuilder
from models.repository import Model, ModelRepository
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.stateless import StatelessRunner
from training.errors import ConfigError, DataError, ParityError
from training.importing.command import import_model
from training.importing.from_onnx.external import stem
from training.importing.options import options_of, refuse

TOKENS = {"vocabulary": "ids"}
VALUES = {"features": "a,b,c"}


class Net(nn.Module):
    """What people export: ``ends`` says what becomes of the last layer's outputs."""

    def __init__(
        self,
        cell: type[nn.LSTM] | type[nn.GRU] | type[nn.RNN],
        *,
        tokens: bool = True,
        states: bool = True,
        ends: str = "steps",
        outputs: int = 10,
        **options: Any,
    ) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed = nn.Embedding(10, 6) if tokens else None
        self.options = {"num_layers": 2, "batch_first": True, **options}
        self.cell = cell(6 if tokens else 3, 8, **self.options)
        self.head = nn.Linear(8 * (1 + self.cell.bidirectional), outputs)
        self.states, self.ends = states, ends

    @property
    def time_axis(self) -> int:
        return int(self.cell.batch_first)

    def forward(self, x: Tensor, *state: Tensor) -> Any:
        one = self.ends == "one step"
        x = x.unsqueeze(self.time_axis) if one else x
        x = x if self.embed is None else self.embed(x)
        given = (state if len(state) > 1 else state[0]) if state else None
        y, after = self.cell(x, given)
        if self.ends == "last":
            y = y.select(self.time_axis, -1)
        elif self.ends == "flat":
            y = y.reshape(-1, y.shape[-1])
        elif self.ends == "max":
            y = y.max(self.time_axis)[0]
        y = self.head(y)
        if one:
            y = y.squeeze(self.time_axis)
        elif self.ends == "softmax":
            y = y.softmax(-1)
        elif self.ends == "squeezed":
            y = y.squeeze(-1)
        if not self.states:
            return y
        return (y, *after) if isinstance(after, tuple) else (y, after)


def exported(network: Net, file: str, *, fixed: bool = False) -> None:
    """Write a network as torch's own exporter does, from an example of one row and five steps."""
    steps = [5, 1]
    steps.insert(network.time_axis, steps.pop(0))
    x = torch.zeros(steps, dtype=torch.int64) if network.embed else torch.zeros(*steps, 3)
    if network.ends == "one step":
        x = x.select(network.time_axis, 0)
    count = (2 if isinstance(network.cell, nn.LSTM) else 1) if network.states else 0
    layers = network.cell.num_layers * (1 + network.cell.bidirectional)
    state = [torch.zeros(layers, 1, 8)] * count
    names = ["input", *["h0", "c0"][:count]]
    after = ["output", *["hn", "cn"][:count]]
    axes = {"input": {0: "first", 1: "second"} if x.dim() > network.cell.batch_first else {}}
    if network.ends == "one step":
        axes["input"].pop(1)
    axes |= {name: {1: "batch"} for name in names[1:]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own: it is not to be the default for long
        torch.onnx.export(
            network.eval(),
            (x, *state),
            file,
            dynamo=False,
            input_names=names,
            output_names=after,
            dynamic_axes=None if fixed else axes,
        )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(file: str = "net.onnx", **options: Any) -> Model:
    import_model(options_of({"file": file, **options}), ask=refuse)
    return ModelRepository(Path("model-repository")).load(Path(file).stem)


def inputs_of(network: Net, steps: int = 6) -> np.ndarray:
    rng = np.random.default_rng(1)
    if network.embed is not None:
        return rng.integers(0, 10, steps)
    return rng.normal(size=(steps, 3)).astype(np.float32)


def of_torch(network: Net, x: np.ndarray) -> np.ndarray:
    """What the network says after each prefix of a sequence, from no state: (steps, width)."""
    plain = Net.forward.__get__(network)
    network.states = False
    found = []
    for end in range(1, len(x) + 1):
        rows = torch.from_numpy(x[:end])[None]
        with torch.no_grad():
            y = plain(rows if network.time_axis else rows.transpose(0, 1))
        found.append(y.flatten()[-network.head.out_features :].numpy())
    return np.stack(found)


def served(model: Model, x: np.ndarray) -> np.ndarray:
    """Predictions (steps, width) of a served session, in company of another one."""
    runner = CpuRunner(compile_model(model), slots=8, max_batch=64)
    found = [
        runner.step(
            read=np.array([5, 2]),
            write=np.array([5, 2]),
            fresh=np.array([number == 0] * 2),
            inputs=np.stack([x[::-1][number : number + 1], x[number : number + 1]]),
            lengths=np.array([1, 1]),
            every_step=False,
        )[1].copy()
        for number in range(len(x))
    ]
    return np.stack(found)


@pytest.mark.parametrize(
    ("network", "options", "task", "chunks"),
    [
        # Whatever looks like one of our own is compiled as one of our own.
        (Net(nn.LSTM), TOKENS, "char", True),
        (Net(nn.LSTM, batch_first=False), TOKENS, "char", True),
        (Net(nn.GRU, states=False), TOKENS, "char", True),
        (Net(nn.RNN, ends="softmax"), TOKENS, "char", True),
        (Net(nn.LSTM, ends="flat"), TOKENS, "foreign", True),
        (Net(nn.GRU, tokens=False, batch_first=False), VALUES, "foreign", True),
        (Net(nn.LSTM, tokens=False, ends="flat", batch_first=False), VALUES, "foreign", True),
        (Net(nn.LSTM, tokens=False, states=False, ends="squeezed", outputs=1), VALUES,
         "foreign", True),
        # A prediction for the whole becomes one for the sequence so far.
        (Net(nn.LSTM, tokens=False, states=False, ends="last"), VALUES, "foreign", False),
    ],
)  # fmt: skip
def test_exports_of_torch_are_served_in_sessions(
    folder: Path, network: Net, options: dict[str, Any], task: str, chunks: bool
) -> None:
    exported(network, "net.onnx")
    model = imported(**options)
    assert (model.manifest.task, model.manifest.lengths is not None) == (task, chunks)
    x = inputs_of(network)
    expected = of_torch(network, x)
    found = served(model, x)
    if network.ends == "softmax":  # what is served are the scores before it
        found = np.exp(found) / np.exp(found).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_graph_of_single_steps_is_served(folder: Path) -> None:
    network = Net(nn.LSTM, tokens=False, ends="one step")
    exported(network, "net.onnx")
    model = imported(**VALUES)
    assert model.manifest.lengths is None
    x = inputs_of(network)
    network.ends = "steps"
    np.testing.assert_allclose(served(model, x), of_torch(network, x), rtol=1e-4, atol=1e-5)


def test_declared_lengths_that_the_graph_does_not_need_are_opened(folder: Path) -> None:
    network = Net(nn.GRU, tokens=False)
    exported(network, "net.onnx", fixed=True)
    x = inputs_of(network)
    model = imported(**VALUES)
    np.testing.assert_allclose(served(model, x), of_torch(network, x), rtol=1e-4, atol=1e-5)


def test_one_hot_graphs_take_symbols(folder: Path) -> None:
    network = Net(nn.LSTM, tokens=False, outputs=3)
    exported(network, "net.onnx")
    (folder / "abc.json").write_text('["a", "b", "c"]')
    model = imported(vocabulary="abc.json")
    x = np.array([0, 2, 1, 1])
    expected = of_torch(network, np.eye(3, dtype=np.float32)[x])
    np.testing.assert_allclose(served(model, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "ragged"),
    [
        (Net(nn.LSTM, tokens=False, states=False, bidirectional=True), True),
        (Net(nn.GRU, tokens=False, bidirectional=True, batch_first=False), True),
        (Net(nn.LSTM, tokens=False, states=False, bidirectional=True, ends="last"), True),
        (Net(nn.GRU, tokens=False, states=False, ends="max"), False),
    ],
)
def test_what_needs_the_end_reads_whole_sequences(folder: Path, network: Net, ragged: bool) -> None:
    exported(network, "net.onnx")
    model = imported(**VALUES)
    assert not model.manifest.is_streamable
    assert (model.manifest.lengths is not None) == ragged
    runner = StatelessRunner(compile_stateless(model))
    x = inputs_of(network)
    sequences = [x, x[:3]] if ragged else [x, x[::-1].copy()]
    for given, found in zip(sequences, runner.predict(sequences), strict=True):
        expected = of_torch(network, given)[-1:]
        np.testing.assert_allclose(found[-1:], expected, rtol=1e-4, atol=1e-5)


def leaky(before: str, after: str, *, batch: int | str = "batch") -> onnx.ModelProto:
    """A cell of somebody's own without any recurrent operator: s = tanh(s A + x B), y = s C."""
    rng = np.random.default_rng(2)
    graph = GraphBuilder()
    x = graph.input("features", FLOAT, [batch, 3])
    state = graph.input(before, FLOAT, [batch, 4])
    a, b, c = (
        graph.constant(rng.normal(size=shape).astype(np.float32))
        for shape in ((4, 4), (3, 4), (4, 2))
    )
    total = graph.node("Add", graph.node("MatMul", state, a), graph.node("MatMul", x, b))
    graph.node("Tanh", total, output=after)
    graph.node("MatMul", after, c, output="forecast")
    graph.output("forecast", FLOAT, [batch, 2])
    graph.output(after, FLOAT, [batch, 4])
    return graph.model("leaky")


@pytest.mark.parametrize(
    ("before", "after", "options"),
    [
        ("hidden_in", "hidden_out", {}),
        ("stateIn", "stateNew", {}),
        ("hx", "hy", {}),
        ("memory", "kept", {"state": ["memory=kept"]}),
    ],
)
def test_cells_of_any_make_are_matched_by_name(
    folder: Path, before: str, after: str, options: dict[str, Any]
) -> None:
    proto = leaky(before, after)
    onnx.save_model(proto, "net.onnx")
    model = imported(**VALUES, **options)
    a, b, c = (numpy_helper.to_array(tensor) for tensor in proto.graph.initializer)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    state, expected = np.zeros(4, np.float32), []
    for step in x:
        state = np.tanh(state @ a + step @ b)
        expected.append(state @ c)
    np.testing.assert_allclose(served(model, x), expected, rtol=1e-4, atol=1e-5)


def test_names_for_before_and_after_have_one_stem() -> None:
    for before, after in [("h0", "hn"), ("hx", "hy"), ("c_in", "c_out"), ("state", "stateN"),
                          ("hidden.prev", "hidden.next"), ("h_1", "h_1_next")]:  # fmt: skip
        assert stem(before) == stem(after)
    assert stem("h0") != stem("c0")


def test_what_cannot_be_matched_is_asked_for(folder: Path) -> None:
    onnx.save_model(leaky("memory", "kept"), "net.onnx")
    with pytest.raises(ConfigError, match=r"several inputs may be the steps: features, memory"):
        imported(**VALUES)
    with pytest.raises(ConfigError, match="several outputs may be the prediction: forecast, kept"):
        imported(**VALUES, input="features")
    with pytest.raises(ConfigError, match=r"'memory' is neither .* --state memory=OUTPUT"):
        imported(**VALUES, input="features", output="forecast")
    with pytest.raises(ConfigError, match=r"--state memory=nothing: .* the outputs forecast, kept"):
        imported(**VALUES, state=["memory=nothing"])
    with pytest.raises(ConfigError, match="3 numbers per step, without names: give --features"):
        imported(state=["memory=kept"])


def test_an_initial_state_that_is_computed_is_not_carried(folder: Path) -> None:
    """The graph starts from the mean of the sequence it reads: nobody knows that at the start."""
    network = Net(nn.GRU, tokens=False, states=False, num_layers=1)
    exported(network, "net.onnx")
    proto = onnx.load("net.onnx")
    node = next(node for node in proto.graph.node if node.op_type == "GRU")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0, 2]), "axes"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 8]), "wide"))
    at = list(proto.graph.node).index(node)
    mean = helper.make_node("ReduceMean", [node.input[0], "axes"], ["mean"])  # (1, batch, 1)
    proto.graph.node.insert(at, mean)
    proto.graph.node.insert(at + 1, helper.make_node("Expand", ["mean", "wide"], ["start"]))
    proto.graph.node[at + 2].input[5] = "start"
    onnx.save_model(proto, "net.onnx")
    model = imported(**VALUES)
    assert not model.manifest.is_streamable
    assert model.manifest.lengths is None  # a mean over padding would be another one


def test_what_is_no_model_is_refused(folder: Path) -> None:
    (folder / "net.onnx").write_bytes(b"not a model")
    with pytest.raises(DataError, match=r"net.onnx: it is no ONNX file, or it is cut off"):
        imported()
    with pytest.raises(DataError, match=r"gone.onnx: there is no such file"):
        imported("gone.onnx")
    (folder / "net.h5").write_bytes(b"?")
    with pytest.raises(DataError, match=r"its name ends in none of .onnx"):
        imported("net.h5")
    exported(Net(nn.LSTM), "net.onnx")
    path = import_model(options_of({"file": "net.onnx", **TOKENS}), ask=refuse)
    with pytest.raises(DataError, match="carries Cellar's manifest: it needs no import"):
        imported(str(path))


def test_nothing_is_published_that_computes_something_else(folder: Path) -> None:
    """Noise in the graph: no run repeats the one before, so nothing can be proved."""
    proto = leaky("h_in", "h_out")
    proto.graph.node[-1].output[0] = "quiet"
    noise = helper.make_node("RandomNormalLike", ["quiet"], ["noise"], scale=1e-3)
    proto.graph.node.append(noise)
    proto.graph.node.append(helper.make_node("Add", ["quiet", "noise"], ["forecast"]))
    onnx.save_model(proto, "net.onnx")
    with pytest.raises((ParityError, DataError)):
        imported(**VALUES)
    assert not (folder / "model-repository").exists()
