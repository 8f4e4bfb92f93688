"""Files that cannot be imported: one message for each cause, in a moment, and never a traceback."""

import os
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from models.graph.builder import FLOAT, INT64
from tests.training.importing.graphs import HIDDEN, WIDTH, cell, gru, made, value, weights
from training.cli import main
from training.errors import ConfigError, DataError, ParityError
from training.importing.command import import_model
from training.importing.isolated import runtime as isolated
from training.importing.isolated.runtime import FatalError, RefusedError, Runtime
from training.importing.options import options_of, refuse

UNKNOWN = "not known to the import"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def importing(file: str, **options: object) -> None:
    import_model(options_of({"file": file, "features": "a,b,c", **options}), ask=refuse)


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    """`cell`, but for one thing."""
    proto = cell()
    change(proto)
    return proto


def _external(proto: onnx.ModelProto, location: str) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def _huge(proto: onnx.ModelProto) -> None:
    _external(proto, "huge.bin")
    proto.graph.initializer[0].dims[0] = 2**28


def _custom(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].domain, proto.graph.node[2].op_type = "com.acme", "MagicTanh"
    proto.opset_import.add(domain="com.acme", version=1)


def _not_built_in(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].domain, proto.graph.node[2].op_type = "com.microsoft", "MagicTanh"
    proto.opset_import.add(domain="com.microsoft", version=1)


def _half(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        if tensor.name in "WRB":
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _in_half_precision() -> onnx.ModelProto:
    proto = gru()
    _half(proto)
    return proto


def _over_the_batch() -> onnx.ModelProto:
    proto = cell()
    proto.graph.node[-1].output[0] = "each"
    proto.graph.node.append(helper.make_node("ReduceMax", ["each"], ["most"], axes=[0]))
    proto.graph.node.append(helper.make_node("Add", ["each", "most"], ["y"]))
    return proto


def _next_state_of_all() -> onnx.ModelProto:
    proto = cell()
    proto.graph.node[2].output[0] = "each"
    proto.graph.node[3].input[0] = "each"
    proto.graph.node.append(helper.make_node("ReduceMean", ["each"], ["s_out"], axes=[0]))
    proto.graph.output[1].CopyFrom(value("s_out", ["one", HIDDEN]))
    return proto


def _drawn() -> onnx.ModelProto:
    proto = cell()
    proto.graph.node[-1].output[0] = "quiet"
    proto.graph.node.append(helper.make_node("RandomNormalLike", ["quiet"], ["noise"]))
    proto.graph.node.append(helper.make_node("Add", ["quiet", "noise"], ["y"]))
    return proto


def _of_five_steps() -> onnx.ModelProto:
    """An unrolled cell: its time axis is cut into five."""
    parts = [f"x{number}" for number in range(5)]
    nodes = [helper.make_node("Split", ["x"], parts, axis=1)]
    for number, part in enumerate(parts):
        nodes.append(helper.make_node("Squeeze", [part, "time"], [f"flat{number}"]))
        nodes.append(helper.make_node("MatMul", [f"flat{number}", "B"], [f"b{number}"]))
        before = "h" if number == 0 else f"h{number}"
        nodes.append(helper.make_node("Add", [f"b{number}", before], [f"a{number}"]))
        after = "h_out" if number == 4 else f"h{number + 1}"
        nodes.append(helper.make_node("Tanh", [f"a{number}"], [after]))
    nodes.append(helper.make_node("Identity", ["h_out"], ["y"]))
    shape: list[int | str] = ["b", HIDDEN]
    return made(
        nodes,
        [value("x", ["b", 5, WIDTH]), value("h", shape)],
        [value("y", shape), value("h_out", shape)],
        {"B": weights(WIDTH, HIDDEN), "time": np.array([1])},
    )


def _of_one_row() -> onnx.ModelProto:
    proto = cell()
    proto.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([1, WIDTH + HIDDEN]), "shape")
    )
    proto.graph.node[0].output[0] = "loose"
    proto.graph.node.insert(1, helper.make_node("Reshape", ["loose", "shape"], ["both"]))
    proto.graph.input[0].CopyFrom(value("x", [1, WIDTH]))
    proto.graph.input[1].CopyFrom(value("s", [1, HIDDEN]))
    return proto


def _endless() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Sin", ["before"], ["after"]),
        ],
        "body",
        [value("turn", [], INT64), value("go", [], TensorProto.BOOL), value("before", ["b", 2])],
        [value("go_on", [], TensorProto.BOOL), value("after", ["b", 2])],
    )
    proto = cell()
    proto.graph.node[-1].output[0] = "first"
    proto.graph.node.append(helper.make_node("Loop", ["", "yes", "first"], ["y"], body=body))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    return proto


def _with(output: onnx.ValueInfoProto, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    proto = cell()
    proto.graph.node.extend(nodes)
    proto.graph.output[0].CopyFrom(output)
    return proto


@pytest.mark.parametrize(
    ("proto", "why"),
    [
        (changed(lambda p: p.graph.ClearField("output")), "the graph has no outputs"),
        (changed(lambda p: p.graph.node[2].ClearField("input")), "is no valid ONNX model: Node"),
        (changed(lambda p: _external(p, "gone.bin")), "'gone.bin', which .*there is no"),
        (changed(_huge), r"with its weights it has 4.0 GiB, and 2 are the most"),
        (changed(lambda p: _external(p, "/etc/hosts")), "must be in the model's folder"),
        (changed(lambda p: _external(p, "../up")), "must be in the model's folder"),
        (changed(_custom), r"operator MagicTanh 's_out' is of the domain 'com.acme'"),
        (changed(lambda p: setattr(p.graph.node[2], "op_type", "Nonsense")), "Nonsense is none of"),
        (changed(lambda p: setattr(p.opset_import[0], "version", 99)), "opset 99 is newer than"),
        (changed(lambda p: setattr(p, "ir_version", 99)), "of a newer ONNX than is installed"),
        (changed(lambda p: p.graph.node[3].output.insert(0, "sum")), "Node|'sum' is given twice"),
        (changed(lambda p: p.graph.input.append(value("x", ["b", WIDTH]))), "'x' is given twice"),
        (changed(lambda p: p.graph.node.reverse()), "'s_out' is read by a node before"),
        (changed(lambda p: p.graph.input[0].CopyFrom(value("x", [0, 3]))), "'x' .* of length 0"),
        (changed(lambda p: p.graph.input[0].CopyFrom(value("x", None))), "no type or shape"),
        (changed(lambda p: p.graph.input[1].CopyFrom(value("s", ["b", "h"]))), r"'s' .*\[\?, \?"),
        (cell(A=weights(WIDTH + HIDDEN + 1, HIDDEN)), "stops at operator MatMul"),
        (cell(A=np.full((WIDTH + HIDDEN, HIDDEN), np.nan, np.float32)), "weights 'A' hold such"),
        (_with(value("z", ["b", 1], INT64), helper.make_node("ArgMax", ["y"], ["z"], axis=1)),
         "'z' is int64, and a prediction is float32"),
        (_with(helper.make_tensor_sequence_value_info("z", FLOAT, None),
               helper.make_node("SequenceConstruct", ["y"], ["z"])), "'z' is no tensor but seq"),
        (_in_half_precision(), "the weights of its GRU '' are in half precision"),
        (_over_the_batch(), "reads changes 'y' of another"),
        (_next_state_of_all(), r"'s' is \[2, 4\] .* 's_out', is \[1, 4\]"),
        (_drawn(), "the same steps give other numbers in every run"),
        (_of_five_steps(), "input 'x' takes exactly 5 steps"),
        (_of_one_row(), "it takes a batch of 1 sequence alone"),
    ],
)  # fmt: skip
def test_each_fault_of_a_graph_has_its_own_message(proto: onnx.ModelProto, why: str) -> None:
    Path("net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(DataError, match=f"net.onnx: .*{why}"):
        importing("net.onnx")
    assert not Path("model-repository").exists()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.onnx", b"", "it is empty"),
        ("a.pt", b"", "it is empty"),
        ("a.onnx", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("a.pt", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("a.onnx", b"<!DOCTYPE html>", "a web page"),
        ("a.onnx", b"\x89HDF\r\n\x1a\n", "a Keras file in HDF5"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "a Keras file in HDF5"),
        ("a.onnx", b"PK\x03\x04abc", "what torch.save writes"),
        ("a.pt", cell().SerializeToString(), "an ONNX file: name it .onnx"),
        ("a.onnx", cell().SerializeToString()[:100], "it is no ONNX file, or it is cut off"),
        ("a.pt", b"nothing that anybody knows", "not a file of tensors alone"),
        ("a.txt", b"text", "its name ends in none of .onnx"),
    ],
)
def test_each_kind_of_file_is_named(name: str, content: bytes, why: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*{why}"):
        importing(name)


def test_what_is_no_file_is_named(folder: Path) -> None:
    (folder / "model.onnx").mkdir()
    (folder / "saved.onnx").mkdir()
    (folder / "saved.onnx" / "saved_model.pb").touch()
    os.mkfifo("pipe.onnx")
    for file, why in {
        "gone.onnx": "there is no such file",
        "model.onnx": "a folder: name the model's file in it",
        "saved.onnx": "a TensorFlow SavedModel: convert it",
        "pipe.onnx": "no regular file",
        "x" * 300: "not readable: File name too long",
    }.items():
        with pytest.raises(DataError, match=f"{file}: {why}"):
            importing(file)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("hacked",)


def test_each_fault_of_a_torch_file_has_its_own_message(folder: Path) -> None:
    good = torch.nn.LSTM(WIDTH, HIDDEN).state_dict()
    torch.save(good, "good.pt")
    whole = Path("good.pt").read_bytes()
    ih, hh = good["weight_ih_l0"], good["weight_hh_l0"]
    cases: list[tuple[object, str]] = [
        ({"weight_ih_l0": _Evil()}, r"would run code \(posix.mkdir\), so it is not loaded"),
        (torch.nn.LSTM(WIDTH, HIDDEN), "a whole pickled module"),
        (good | {"weight_ih_l0": ih * float("nan")}, "weight_ih_l0 holds numbers that are not fin"),
        (good | {"weight_ih_l0": torch.complex(ih, ih)}, "weight_ih_l0 is complex64"),
        (good | {"weight_ih_l0": ih.to_sparse()}, "weight_ih_l0 is sparse"),
        (good | {"weight_ih_l0": ih.to("meta")}, "weight_ih_l0 is without numbers"),
        (good | {"weight_ih_l0": ih[:, :0]}, "weight_ih_l0 is empty: 16×0"),
        (good | {"weight_hh_l0": hh[0]}, "weight_hh of layer 0 is 4, .* must have 16 rows"),
        (good | {"bias_hh_l0": hh[:5, 0]}, "bias_hh of layer 0 is 5, .* must have 16 numbers"),
        ([1, 2], "it holds no weights of torch's LSTM"),
    ]
    for content, why in cases:
        torch.save(content, "net.pt")
        with pytest.raises(DataError, match=f"net.pt: .*{why}"):
            importing("net.pt")
    Path("net.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"net.pt: it is cut off or damaged"):
        importing("net.pt")
    Path("net.pt").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(DataError, match=r"net.pt: .*not a file of tensors alone"):
        importing("net.pt")
    assert not Path("hacked").exists()


def test_a_graph_without_end_is_given_up(folder: Path) -> None:
    onnx.save_model(_endless(), "net.onnx")
    why = "net.onnx: ONNX Runtime ran the graph for 1 seconds and came to no end: .*--timeout"
    with pytest.raises(DataError, match=why):
        importing("net.onnx", timeout=1.0)
    onnx.save_model(cell(), "net.onnx")
    importing("net.onnx")  # the next has a process of its own


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGSEGV, "ONNX Runtime crashed .Segmentation fault. when it ran the graph"),
        (signal.SIGKILL, "was killed, most likely because there was too little memory"),
    ],
)
def test_what_ends_the_runtime_does_not_end_the_import(number: signal.Signals, why: str) -> None:
    runtime = Runtime()
    session, process = runtime.open(_endless()), runtime._process
    threading.Timer(0.2, lambda: os.kill(process.pid, number)).start()
    feed = {"x": weights(1, WIDTH), "s": weights(1, HIDDEN)}
    with pytest.raises(FatalError, match=why), runtime:
        session.run(["y"], feed)
    assert process.poll() is not None
    assert process not in isolated._spare


def test_what_was_refused_leaves_the_process_to_the_next(folder: Path) -> None:
    runtime = Runtime()
    process = runtime._process
    with pytest.raises(RefusedError), runtime:
        runtime.open(b"nothing")
    with Runtime() as runtime:
        assert runtime._process is process
        session = runtime.open(cell())
        assert [one.name for one in session.get_inputs()] == ["x", "s"]


def test_the_runtimes_own_words_are_said_when_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save_model(changed(_not_built_in), "net.onnx")
    asked = ["import", "net.onnx", "--features", "a,b,c"]
    assert main(asked) == 2
    short = capsys.readouterr().err
    assert short.splitlines()[1:] == ["--verbose says in full why."]
    assert main([*asked, "--verbose"]) == 2
    assert "[ONNXRuntimeError]" in capsys.readouterr().err
    assert "[ONNXRuntimeError]" not in short


def test_what_nobody_thought_of_is_a_message_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise IndexError("list index out of range")

    onnx.save_model(cell(), "net.onnx")
    monkeypatch.setattr("training.importing.publishing.prove", stumble)
    assert main(["import", "net.onnx", "--features", "a,b,c"]) == 2
    said = capsys.readouterr().err
    assert UNKNOWN in said
    assert "Traceback" not in said


DAMAGED = [cell(s=weights(1, HIDDEN)), gru(), _of_five_steps()]


@settings(deadline=None, max_examples=30)
@given(
    content=st.sampled_from([proto.SerializeToString() for proto in DAMAGED]),
    cut=st.none() | st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_whatever_is_damaged_is_imported_or_refused(
    content: bytes, cut: float | None, flips: list[tuple[float, int]]
) -> None:
    damaged = bytearray(content)
    for where, byte in flips:
        damaged[round(where * (len(damaged) - 1))] = byte
    if cut is not None:
        del damaged[round(cut * len(damaged)) :]
    Path("net.onnx").write_bytes(damaged)
    said = ""
    try:
        importing("net.onnx", timeout=30.0)
    except (ConfigError, DataError, ParityError) as error:
        said = str(error)
    assert UNKNOWN not in said
    assert "\n" not in said
