"""Where sessions of imported models start: what is found, taken and said."""

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from rich.console import Console
from torch import nn

from models.compile.arena import compile_model
from models.graph.builder import INT64
from models.repository import Model, ModelRepository
from service.engine.execution.cpu.runner import CpuRunner
from tests.training.importing.graphs import (
    HIDDEN,
    WIDTH,
    cell,
    gru,
    made,
    of_cell,
    of_gru,
    spread,
    value,
    weights,
)
from training.errors import ConfigError, DataError
from training.importing.command import import_model
from training.importing.options import options_of, refuse

STEPS = weights(5, WIDTH, seed=8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(proto: onnx.ModelProto, **options: Any) -> tuple[Model, str]:
    """The published model, and what was printed."""
    onnx.save_model(proto, "net.onnx")
    return of_file("net.onnx", **options)


def of_file(file: str, **options: Any) -> tuple[Model, str]:
    printed = StringIO()
    console = Console(width=120, file=printed)
    given = {"features": "a,b,c", "file": file, **options}
    import_model(options_of(given), ask=refuse, console=console)
    return ModelRepository(Path("model-repository")).load(Path(file).stem), printed.getvalue()


def served(model: Model, x: np.ndarray = STEPS) -> np.ndarray:
    """What a session says after each step, (steps, width), in company of another."""
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


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_no_file_says_is_taken_to_be_zero_and_said(folder: Path) -> None:
    model, told = imported(cell())
    close(served(model), of_cell(STEPS, np.zeros(HIDDEN)))
    assert "0 (taken: the file does not say)" in told
    assert "taken, not found: s." in told
    assert "--initial s=VALUE" in told


@pytest.mark.parametrize("how", ["number", "list", "npy", "npy with its axes"])
def test_a_start_can_be_said(folder: Path, how: str) -> None:
    start = np.full(HIDDEN, 0.5, np.float32) if how == "number" else weights(HIDDEN, seed=9)
    shaped = start[None, :, None] if how == "npy with its axes" else start
    np.save("start.npy", shaped)
    said = {"number": "0.5", "list": ",".join(map(str, start))}.get(how, "start.npy")
    model, told = imported(cell(), initial=[f"s={said}"])
    close(served(model), of_cell(STEPS, start))
    assert "said by --initial" in told
    assert "taken" not in told.split("where sessions start")[1]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("t=1", r"the states are: s"),
        ("s", r"as STATE=VALUE; the states are: s"),
        ("s=one", r"'one' is neither a number, numbers with commas, nor a .npy file"),
        ("s=1,2,3", r"it has shape \[3\], and one session's state \[4\]: give 4 numbers"),
        ("s=nan", "has to be finite"),
        ("s=1e39", "has to be finite"),
        ("s=gone.npy", "gone.npy is no readable .npy file"),
        ("s=text.npy", "text.npy is no readable .npy file"),
        ("s=words.npy", "words.npy holds no numbers"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(folder: Path, said: str, why: str) -> None:
    Path("text.npy").write_text("0.5")
    np.save("words.npy", np.array(["a", "b", "c", "d"]))
    with pytest.raises(ConfigError, match=f"--initial {said}: .*{why}"):
        imported(cell(), initial=[said])
    assert not Path("model-repository").exists()


@pytest.mark.parametrize("start", [np.full((1, HIDDEN), 0.25, np.float32), weights(1, HIDDEN)])
def test_the_value_of_an_optional_input_is_where_its_state_starts(start: np.ndarray) -> None:
    model, told = imported(cell(s=start))
    close(served(model), of_cell(STEPS, start[0]))
    assert "found: the value of its input" in told
    with pytest.raises(DataError, match=r"state 's' has in the file is \[2, 4\]"):
        imported(cell(s=weights(2, HIDDEN)))


def test_a_start_that_was_learned_is_found(folder: Path) -> None:
    nodes, constants = spread("learned")
    learned = weights(1, 1, HIDDEN, seed=9)
    proto = gru(*nodes, constants={"learned": learned, **constants})
    model, told = imported(proto)
    assert model.manifest.is_streamable
    close(served(model), of_gru(STEPS, learned[0, 0]))
    assert "4 numbers, " in told
    assert "found: 'learned'" in told
    model, _ = imported(proto, initial=["h_0=-0.5"])
    close(served(model), of_gru(STEPS, np.full(HIDDEN, -0.5)))


def test_a_start_of_zeros_and_one_per_row_of_the_batch(folder: Path) -> None:
    model, told = imported(gru())
    close(served(model), of_gru(STEPS, np.zeros(HIDDEN)))
    assert "0 (found: its operator starts from zeros)" in told
    rows = weights(1, 2, HIDDEN)
    with pytest.raises(DataError):
        imported(gru(constants={"h0": rows}))


@pytest.mark.parametrize("initial", [(), ("h_0=0.5",)])
def test_operators_that_are_batch_first_are_served(initial: tuple[str, ...]) -> None:
    model, _ = imported(gru(layout=1), initial=initial)
    close(served(model), of_gru(STEPS, np.full(HIDDEN, 0.5 if initial else 0.0)))


def test_states_that_are_never_negative(folder: Path) -> None:
    """A running variance, whose root is taken."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("Mul", ["squares", "tenth"], ["new"]),
        helper.make_node("Mul", ["var", "rest"], ["old"]),
        helper.make_node("Add", ["new", "old"], ["var_out"]),
        helper.make_node("Sqrt", ["var_out"], ["deviation"]),
        helper.make_node("Div", ["x", "deviation"], ["y"]),
    ]
    shape: list[int | str] = ["b", WIDTH]
    proto = made(
        nodes,
        [value("x", shape), value("var", shape)],
        [value("y", shape), value("var_out", shape)],
        {"tenth": np.array(0.1, np.float32), "rest": np.array(0.9, np.float32)},
    )
    model, _ = imported(proto, initial=["var=1"])
    variance, expected = np.ones(WIDTH), []
    for step in STEPS:
        variance = 0.1 * step**2 + 0.9 * variance
        expected.append(step / np.sqrt(variance))
    close(served(model), np.array(expected))


def test_a_state_of_whole_numbers_is_refused_by_name(folder: Path) -> None:
    nodes = [
        helper.make_node("Add", ["n", "one"], ["n_out"]),
        helper.make_node("Cast", ["n_out"], ["count"], to=1),
        helper.make_node("Div", ["x", "count"], ["y"]),
    ]
    proto = made(
        nodes,
        [value("x", ["b", WIDTH]), value("n", ["b", 1], INT64)],
        [value("y", ["b", WIDTH]), value("n_out", ["b", 1], INT64)],
        {"one": np.array([1])},
    )
    with pytest.raises(DataError, match="state 'n' is int64, and a session keeps float32: cast"):
        imported(proto, state=["n=n_out"])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_state_dict_starts_where_it_is_said_to(folder: Path, kind: type[nn.LSTM]) -> None:
    torch.manual_seed(1)
    network = kind(WIDTH, HIDDEN, num_layers=2, batch_first=True)
    torch.save(network.state_dict(), "net.pt")
    start = weights(HIDDEN, seed=9)
    model, told = of_file("net.pt", initial=[f"h_1={','.join(map(str, start))}", "h_0=0.5"])
    h = torch.stack([torch.full((HIDDEN,), 0.5), torch.from_numpy(start)])[:, None]
    given = (h, torch.zeros_like(h)) if kind is nn.LSTM else h
    with torch.no_grad():
        expected, _ = network(torch.from_numpy(STEPS)[None], given)
    close(served(model), expected[0].numpy())
    assert ("taken, not found: c_0, c_1." in told) == (kind is nn.LSTM)
