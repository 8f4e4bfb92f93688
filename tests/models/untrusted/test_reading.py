"""Model files of somebody else's: what is refused before anything but Python has read it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.errors import ModelError, plain
from models.manifest import Manifest
from models.repository import ModelRepository, load_model
from models.untrusted.reading import read_onnx
from models.untrusted.walking import DEEPEST, MOST_NODES
from tests.models.untrusted.mutations import PLACES
from tests.service.foreign import MANIFEST, publish_foreign


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return publish_foreign(tmp_path / "models", "own")


def refusal(path: Path, change: Callable[[onnx.ModelProto], None]) -> str:
    """What is said of a file after a change."""
    proto = onnx.load_model(str(path), load_external_data=False)
    change(proto)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError) as caught:
        read_onnx(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    return text


def kept_at(place: str, **others: str) -> Callable[[onnx.ModelProto], None]:
    """Keep the only weight of a model in another file."""

    def change(proto: onnx.ModelProto) -> None:
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": place, **others}.items():
            tensor.external_data.add(key=key, value=value)

    return change


@pytest.mark.parametrize("place", PLACES)
def test_weights_outside_the_folder_are_refused_by_tensor_and_path(
    model: Path, tmp_path: Path, place: str
) -> None:
    secret = tmp_path / "outside" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(np.float32(0.5).tobytes())
    (model.parent / "link").symlink_to(secret)
    (model.parent / "folder").symlink_to(secret.parent)
    os.mkfifo(model.parent / "pipe")
    said = refusal(model, kept_at(place))
    assert "tensor 'gain'" in said
    assert f"'{place}'" in said


def test_weights_in_the_folder_are_read(model: Path) -> None:
    (model.parent / "parts").mkdir()
    (model.parent / "parts" / "gain").write_bytes(b"1234" + np.float32(0.25).tobytes())
    proto = onnx.load_model(str(model))
    kept_at("parts/gain", offset="4", length="4")(proto)
    model.write_bytes(proto.SerializeToString())
    found = load_model(model, name="own", version=1)
    assert numpy_helper.to_array(found.proto.graph.initializer[0]) == 0.25


@pytest.mark.parametrize(
    ("offset", "length", "words"),
    [
        ("4", "4", "up to byte 8, and that has 4"),
        ("0", "99999999999999999", "up to byte"),
        ("-1", "4", "the offset of its external data is no number"),
        ("0", "1e9", "the length of its external data is no number"),
        ("9" * 30, "4", "the offset of its external data is no number"),
        ("0", "2", r"takes 4 bytes, and the file has 2"),
    ],
)
def test_more_than_the_other_file_has_is_refused(
    model: Path, offset: str, length: str, words: str
) -> None:
    (model.parent / "gain").write_bytes(b"1234")
    assert words in refusal(model, kept_at("gain", offset=offset, length=length))


def test_what_many_tensors_read_of_one_file_counts_each_time(model: Path) -> None:
    (model.parent / "gain").write_bytes(bytes(4096))
    proto = onnx.load_model(str(model))
    for number in range(64):
        tensor = proto.graph.initializer.add(name=f"w{number}", dims=[1024], data_type=1)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="gain")
    model.write_bytes(proto.SerializeToString())
    read_onnx(model)
    with pytest.raises(ModelError, match=r"more than 200,000 bytes: raise --max-model-bytes"):
        read_onnx(model, most_bytes=200_000)


@pytest.mark.parametrize("domain", ["evil", "ai.onnx.contrib", "com.microsoft.nchwc"])
def test_custom_operators_are_refused_by_name(model: Path, domain: str) -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[1].domain = domain

    assert f"operator Add 's_next' is of the domain '{domain}'" in refusal(model, change)


def test_what_stands_for_a_file_outside_is_refused(model: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[1].domain, proto.graph.node[1].op_type = "com.microsoft", "EPContext"

    assert "operator EPContext 's_next' stands for what is not in the model" in refusal(
        model, change
    )


def functions(calls: int, levels: int, last: str) -> Callable[[onnx.ModelProto], None]:
    """Let functions call one another, each so many times; the last one calls ``last``."""

    def change(proto: onnx.ModelProto) -> None:
        opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        for level in range(levels):
            called = f"F{level + 1}" if level + 1 < levels else last
            domain = "own" if called.startswith("F") else ""
            nodes = [
                helper.make_node(called, ["a"], [f"b{n}"], domain=domain) for n in range(calls)
            ]
            proto.functions.append(
                helper.make_function("own", f"F{level}", ["a"], ["b0"], nodes, opset)
            )

    return change


def test_functions_that_multiply_or_never_end_are_refused(model: Path, tmp_path: Path) -> None:
    other = publish_foreign(tmp_path / "models", "other")
    assert "calls itself" in refusal(model, functions(1, 3, "F0"))
    assert f"more than {MOST_NODES:,} operators" in refusal(other, functions(10, 8, "Identity"))
    third = publish_foreign(tmp_path / "models", "third")
    proto = onnx.load_model(str(third))
    functions(1, 500, "Identity")(proto)
    third.write_bytes(proto.SerializeToString())
    read_onnx(third)


def test_graphs_are_bounded_in_number_and_depth(model: Path, tmp_path: Path) -> None:
    def many(proto: onnx.ModelProto) -> None:
        proto.graph.node.extend([helper.make_node("Identity", ["x"], [""])] * MOST_NODES)

    def deep(proto: onnx.ModelProto) -> None:
        body = helper.make_graph([], "b", [], [])
        for _ in range(DEEPEST + 1):
            node = helper.make_node("Scan", ["t"], ["o"], body=body)
            body = helper.make_graph([node], "b", [], [])
        proto.graph.node.extend(body.node)

    assert f"more than {MOST_NODES:,} operators" in refusal(model, many)
    other = publish_foreign(tmp_path / "models", "other")
    assert f"more than {DEEPEST} deep" in refusal(other, deep)


def constants(op: str, **numbers: object) -> Callable[[onnx.ModelProto], None]:
    """Add an operator of constants."""

    def change(proto: onnx.ModelProto) -> None:
        for name, value in numbers.items():
            proto.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        proto.graph.node.insert(0, helper.make_node(op, [*numbers], ["made"], name="maker"))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (constants("ConstantOfShape", s=[10**6, 10**6]), "shape [1000000, 1000000]"),
        (constants("Expand", d=1.0, s=[10**6, 10**6]), "shape [1000000, 1000000]"),
        (constants("Tile", d=[1.0, 2.0], s=[10**12]), "shape [2000000000000]"),
        (constants("Range", a=0, b=10**13, c=1), "shape [10000000000000]"),
    ],
)
def test_what_would_be_computed_in_advance_is_bounded(
    model: Path, change: Callable[[onnx.ModelProto], None], words: str
) -> None:
    said = refusal(model, change)
    assert "'maker' makes a tensor" in said
    assert words in said


@pytest.mark.parametrize("dims", [[10**6, 10**6], [-1], [2**62, 4], [2], [1] * 65])
def test_a_constant_has_the_numbers_that_its_shape_says(model: Path, dims: list[int]) -> None:
    def change(proto: onnx.ModelProto) -> None:
        del proto.graph.initializer[0].dims[:]
        proto.graph.initializer[0].dims.extend(dims)

    assert "tensor 'gain'" in refusal(model, change)


@pytest.mark.parametrize(
    "array",
    [
        np.ones((2, 3), np.float16),
        np.ones(3, np.complex64),
        np.array([["a", "b"]], object),
        np.ones((0, 2), np.int8),
        np.array(True),
    ],
)
def test_constants_of_all_types_are_taken_raw_or_not(model: Path, array: NDArray[Any]) -> None:
    proto = onnx.load_model(str(model))
    proto.graph.initializer.append(numpy_helper.from_array(array, "raw"))
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    values: Any = [one.encode() if isinstance(one, str) else one for one in array.ravel().tolist()]
    proto.graph.initializer.append(helper.make_tensor("typed", kind, array.shape, values))
    model.write_bytes(proto.SerializeToString())
    read_onnx(model)


def test_a_file_is_not_read_where_it_is_too_large_or_none(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"10 are the most: raise --max-model-bytes"):
        read_onnx(model, most_bytes=10)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="no regular file"):
        read_onnx(tmp_path / "pipe")


# ---- places in a repository ----


def faults(root: Path) -> dict[str, str | None]:
    return {entry.name: entry.fault for entry in ModelRepository(root).entries()}


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 129, "\u202eabc", os.fsdecode(b"\xff")])
def test_names_that_cannot_be_told_are_no_models(model: Path, name: str) -> None:
    root = model.parents[2]
    publish_foreign(root, "other").parents[1].rename(root / name)
    assert "its name cannot be that of a model" in (faults(root)[name] or "")
    assert faults(root)["own"] is None


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json"])
def test_files_that_lie_outside_the_repository_are_not_read(
    model: Path, tmp_path: Path, file: str
) -> None:
    moved = tmp_path / "elsewhere"
    (model.parent / file).rename(moved)
    (model.parent / file).symlink_to(moved)
    root = model.parents[2]
    assert f"its {file} is a link that leads out of the repository" in (faults(root)["own"] or "")
    (model.parent / file).unlink()
    moved.rename(model.parents[1] / file)  # within it
    (model.parent / file).symlink_to(model.parents[1] / file)
    assert faults(root)["own"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"states": [{"input": "s", "output": "t", "shape": [10**9]}]}, "numbers"),
        ({"states": [{"input": "s", "output": "t", "shape": [1] * 17}]}, "at most 16"),
        ({"name": "a/../b"}, "name"),
        ({"lengths": "x" * 2000}, "lengths"),
        ({"prediction": {"output": "y", "kind": "raw", "width": 10**9}}, "prediction.width"),
        ({"x" * 5000: 1}, "xxx"),
    ],
)
def test_manifests_are_bounded(model: Path, changes: dict[str, object], words: str) -> None:
    text = MANIFEST.model_dump(mode="json") | changes
    with pytest.raises(ModelError) as caught:
        Manifest.parse(json.dumps(text), where="here")
    assert words in str(caught.value)


def test_a_reason_is_one_line_whatever_a_file_has_in_it() -> None:
    assert plain("a\nb\x1b[2J\ud800") == "a\\nb\\x1b[2J\\ud800"
    assert len(plain("x" * 10**6)) < 1000
