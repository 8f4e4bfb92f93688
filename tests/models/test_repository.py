"""Models on disk: what is found, what is published, what is refused and in which words."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.errors import ModelError, ModelNotFoundError
from models.graph.builder import FLOAT, GraphBuilder
from models.manifest import METADATA_KEY, Manifest, State, TokensInput, fingerprint
from models.repository import ModelRepository
from tests.foreign import embedding_case, foreign_case
from tests.recurrent import char_case, series_case, write_repository


def test_a_published_model_comes_back_whole(tmp_path: Path) -> None:
    case = char_case("gru", layers=2)
    write_repository(tmp_path, case)
    model = ModelRepository(tmp_path).load("letters")
    assert model.manifest == case.manifest
    assert model.fingerprint == case.model.fingerprint
    assert (model.name, model.version) == ("letters", 1)


def test_where_a_state_starts_is_kept(tmp_path: Path) -> None:
    """One number, as it always was, or one for each entry, row after row."""
    case = char_case("gru")
    state = case.manifest.states[0]
    for initial in (0.0, 0.5, tuple(number / 7 for number in range(16))):
        own = state.model_copy(update={"initial": initial})
        manifest = case.manifest.model_copy(update={"states": (own, *case.manifest.states[1:])})
        path = ModelRepository(tmp_path).publish(case.model.proto, manifest)
        found = ModelRepository(tmp_path).load("letters", int(path.parent.name)).manifest
        assert found == manifest
        expected = np.full(16, initial, np.float32)
        assert np.array_equal(found.states[0].start, expected)
    axes = State(input="h", output="n", shape=(2, 3), batch_axis=1, initial=tuple(range(6)))
    assert axes.batched_start(4).shape == (2, 4, 3)
    assert np.array_equal(axes.batched_start(4)[:, 2], np.arange(6).reshape(2, 3))


def test_the_highest_version_is_the_default(tmp_path: Path) -> None:
    repository = ModelRepository(
        write_repository(tmp_path, *(char_case(seed=n) for n in range(11)))
    )
    assert repository.versions("letters") == list(range(1, 12))
    assert repository.load("letters").version == 11
    assert repository.load("letters", 2).fingerprint == char_case(seed=1).model.fingerprint


def test_publishing_leaves_nothing_half_written(tmp_path: Path) -> None:
    write_repository(tmp_path, char_case())
    assert sorted(path.name for path in (tmp_path / "letters").rglob("*")) == ["1", "model.onnx"]


def test_a_number_that_is_in_use_by_anything_is_not_published_again(tmp_path: Path) -> None:
    repository = ModelRepository(write_repository(tmp_path, char_case()))
    for name in ("2", "5", "007", "20240101120000", "notes"):
        (tmp_path / "letters" / name).mkdir()
    (tmp_path / "letters" / "5" / "manifest.json").write_text("{}")
    case = char_case(seed=1)
    assert repository.publish(case.model.proto, case.manifest).parent.name == "8"
    assert repository.versions("letters") == [1, 8]
    (tmp_path / "letters" / str(2**32 - 1)).mkdir()
    with pytest.raises(ModelError, match="letters/4294967295: no higher version is possible"):
        repository.publish(case.model.proto, case.manifest)
    assert not list((tmp_path / "letters").glob(".publish-*"))


@pytest.mark.parametrize("folder", ["007", "0", "20240101120000", "4294967296", "\u0663"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_version_that_the_wire_cannot_carry_is_refused_by_name(
    tmp_path: Path, folder: str, alone: bool
) -> None:
    root = write_repository(tmp_path, char_case()) / "letters"
    (root / folder).mkdir()
    whole = (root / "1" / "model.onnx").read_bytes()
    (root / folder / "model.onnx").write_bytes(whole)
    if alone:
        (root / "1" / "model.onnx").unlink()
    repository = ModelRepository(tmp_path)
    assert repository.names() == ["letters"]
    with pytest.raises(ModelError, match=f"letters/{folder}: .* from 1 to 4294967295, .* rename"):
        repository.load("letters")


def test_the_highest_version_of_the_wire_is_served(tmp_path: Path) -> None:
    root = write_repository(tmp_path, char_case()) / "letters"
    (root / "1").rename(root / str(2**32 - 1))
    assert ModelRepository(tmp_path).load("letters").version == 2**32 - 1


def faults(root: Path) -> dict[tuple[str, int | None], str | None]:
    """What a repository holds, and what is wrong with it, without the folder's own path."""
    entries = ModelRepository(root).entries()
    return {
        (each.name, each.version): each.fault and each.fault.replace(f"{root}/", "")
        for each in entries
    }


def test_what_lies_about_is_no_model(tmp_path: Path) -> None:
    root = write_repository(tmp_path, char_case())
    for name in (".DS_Store", "README.md", "letters/notes.txt", "letters/.publish-x"):
        (root / name).write_text("x")
    (root / "lost+found").mkdir(mode=0)
    for name in (".ipynb_checkpoints/1", ".git/objects", "letters/.cache", "data/train"):
        (root / name).mkdir(parents=True)
    (root / ".ipynb_checkpoints" / "1" / "model.onnx").write_bytes(b"")
    assert faults(root) == {("letters", 1): None}


def test_what_seems_meant_as_a_model_says_what_is_wrong(tmp_path: Path) -> None:
    root = write_repository(tmp_path, char_case())
    model = root / "letters" / "1" / "model.onnx"
    for name in ("2", "3", "4", "v5", "007", "6", "8"):
        (root / "letters" / name).mkdir()
    for name in ("v5", "007"):
        (root / "letters" / name / "model.onnx").write_bytes(model.read_bytes())
    (root / "letters" / "3" / "model.onnx").mkdir()
    (root / "letters" / "4" / "model.onnx").symlink_to(root / "gone.onnx")
    (root / "letters" / "6" / "model.onnx").symlink_to(model)
    os.mkfifo(root / "letters" / "8" / "model.onnx")
    (root / "letters" / "9").write_text("a file")
    (root / "letters" / "10").symlink_to(root / "gone")
    (root / "elsewhere").symlink_to(root / "gone")
    (root / "linked").symlink_to(root / "letters")
    misnamed = "a version is a whole number from 1 to 4294967295"
    found = {key: fault for key, fault in faults(root).items() if key[0] != "linked"}
    assert found.pop(("letters", None)) in {
        f"letters/{name}: {misnamed}, without leading zeros: rename the folder"
        for name in ("v5", "007")
    }
    assert found == {
        ("elsewhere", None): "elsewhere: a link to nowhere",
        ("letters", 1): None,
        ("letters", 2): "letters/2: there is no model.onnx",
        ("letters", 3): "letters/3: its model.onnx is not a file",
        ("letters", 4): "letters/4: its model.onnx is a link to nowhere",
        ("letters", 6): None,
        ("letters", 8): "letters/8: its model.onnx is not a file",
        ("letters", 9): "letters/9: not a folder",
        ("letters", 10): "letters/10: a link to nowhere",
    }
    assert faults(root)["linked", 6] is None


def test_folders_that_cannot_be_read_are_bad_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may read everything sees no such folder, so it is played here."""
    root = write_repository(tmp_path, char_case(), series_case())
    (root / "prices" / "2").mkdir()
    iterate, is_file = Path.iterdir, Path.is_file

    def closed_name(path: Path) -> Iterator[Path]:
        if path.name == "letters":
            raise PermissionError(13, "Permission denied", str(path))
        return iterate(path)

    def closed_version(path: Path) -> bool:
        if path.parent.name == "2":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "iterdir", closed_name)
    monkeypatch.setattr(Path, "is_file", closed_version)
    assert faults(root) == {
        ("letters", None): "letters: cannot be read: Permission denied",
        ("prices", 1): None,
        ("prices", 2): "prices/2: cannot be read: Permission denied",
    }


@pytest.mark.parametrize("initial", ["NaN", "Infinity", "1e300", "-1e39"])
def test_a_state_starts_at_a_number_that_it_can_hold(initial: str) -> None:
    text = char_case().manifest.model_dump_json().replace('"initial":0.0', f'"initial":{initial}')
    with pytest.raises(ModelError, match=r"here: states\.0\.initial: "):
        Manifest.parse(text, where="here")


def test_a_fingerprint_tells_weights_apart_and_ignores_metadata() -> None:
    one, other = char_case(seed=0).model, char_case(seed=1).model
    assert one.fingerprint != other.fingerprint
    copy = onnx.ModelProto()
    copy.CopyFrom(one.proto)
    copy.metadata_props.add(key="note", value="anything")
    assert fingerprint(copy) == one.fingerprint


def test_a_fingerprint_tells_operators_and_functions_apart() -> None:
    model = dense_model()
    opset = [helper.make_opsetid("", 17)]

    def local(op: str) -> onnx.FunctionProto:
        return helper.make_function(
            "own", "F", ["a"], ["b"], [helper.make_node(op, ["a"], ["b"])], opset
        )

    found = {fingerprint(model)}
    model.opset_import[0].version = 18
    found.add(fingerprint(model))
    for op in ("Relu", "Tanh"):
        del model.functions[:]
        model.functions.append(local(op))
        found.add(fingerprint(model))
    assert len(found) == 4


@pytest.mark.parametrize("name", ["nothing", "../letters", "letters/1", "", ".."])
def test_an_unknown_name_says_what_there_is(tmp_path: Path, name: str) -> None:
    repository = ModelRepository(write_repository(tmp_path, char_case()))
    with pytest.raises(ModelNotFoundError, match="holds: letters"):
        repository.load(name)
    with pytest.raises(ModelNotFoundError, match=r"no version 9 \(it has: 1\)"):
        repository.load("letters", 9)


def test_a_corrupted_file_is_refused_by_name(tmp_path: Path) -> None:
    path = write_repository(tmp_path, char_case()) / "letters" / "1" / "model.onnx"
    whole = path.read_bytes()
    for broken in (b"", b"this is no ONNX file", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(ModelError, match=r"letters/1/model.onnx: not a readable ONNX model"):
            ModelRepository(tmp_path).load("letters")


@pytest.mark.parametrize("content", [None, b"short"])
def test_weights_missing_from_another_file_are_named(tmp_path: Path, content: bytes | None) -> None:
    case = char_case()
    folder = tmp_path / "letters" / "1"
    folder.mkdir(parents=True)
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model.proto)
    case.manifest.embed(proto)
    onnx.save_model(
        proto,
        str(folder / "model.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    repository = ModelRepository(tmp_path)
    assert repository.load("letters").manifest == case.manifest
    (folder / "weights.bin").unlink()
    if content is not None:
        (folder / "weights.bin").write_bytes(content)
    with pytest.raises(ModelError, match=r"letters/1/model.onnx: tensor '\w+' keeps its data"):
        repository.load("letters")


def test_a_model_without_state_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "dense" / "1"
    folder.mkdir(parents=True)
    onnx.save_model(dense_model(), str(folder / "model.onnx"))
    with pytest.raises(ModelError, match=r"no manifest: .*recurrent state; put a manifest.json"):
        ModelRepository(tmp_path).load("dense")


def test_a_sidecar_serves_a_foreign_file(tmp_path: Path) -> None:
    case = char_case()
    folder = tmp_path / "foreign" / "1"
    folder.mkdir(parents=True)
    onnx.save_model(case.model.proto, str(folder / "model.onnx"))
    sidecar = folder / "manifest.json"
    sidecar.write_text(case.manifest.model_dump_json())
    assert ModelRepository(tmp_path).load("foreign").manifest == case.manifest

    for change, complaint in (
        (
            {"states": []},
            r"'c_0', which the manifest omits: if it is recurrent state, add it .*none named",
        ),
        ({"format": 9}, "manifest.json: format"),
        ({"lengths": "no_such"}, "names input 'no_such', the graph has: tokens"),
        ({"surprise": 1}, "manifest.json: surprise"),
    ):
        entries = json.loads(case.manifest.model_dump_json()) | change
        sidecar.write_text(json.dumps(entries))
        with pytest.raises(ModelError, match=complaint):
            ModelRepository(tmp_path).load("foreign")
    sidecar.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"manifest.json: not readable: "):
        ModelRepository(tmp_path).load("foreign")
    sidecar.write_text("{ not json")
    with pytest.raises(ModelError, match=r"manifest.json: manifest"):
        ModelRepository(tmp_path).load("foreign")


def test_a_manifest_must_fit_its_graph(tmp_path: Path) -> None:
    case = char_case(hidden=16)
    states = case.manifest.states
    wrong_shape = states[0].model_copy(update={"shape": (17,)})
    for states_now, complaint in (
        (
            (wrong_shape, states[1]),
            r"state 'h_0' has shape \[batch, 16\], the manifest says \[batch, 17\]",
        ),
        ((states[0],), "the graph needs input 'c_0', which the manifest omits"),
    ):
        manifest = case.manifest.model_copy(update={"states": states_now})
        root = tmp_path / complaint[:8].strip()
        ModelRepository(root).publish(case.model.proto, manifest)
        with pytest.raises(ModelError, match=complaint):
            ModelRepository(root).load("letters")


def test_a_manifest_checks_itself() -> None:
    manifest = series_case().manifest
    with pytest.raises(ModelError, match="logits need an input with a vocabulary"):
        Manifest.parse(
            manifest.model_copy(update={"quantiles": None})
            .model_dump_json()
            .replace('"distribution","width"', '"logits","width"')
            .replace('"kind":"distribution"', '"kind":"logits"'),
            where="here",
        )
    with pytest.raises(ModelError, match="a distribution needs an input of values"):
        Manifest.parse(
            manifest.model_copy(
                update={"input": TokensInput(vocabulary=("a", "b"))}
            ).model_dump_json(),
            where="here",
        )
    with pytest.raises(ValueError, match="batch_axis 2 is outside"):
        State(input="h", output="h_next", shape=(4,), batch_axis=2)
    with pytest.raises(
        ValueError, match=r"initial has 3 numbers, and shape \[2, 2\] has 4 entries"
    ):
        State(input="h", output="h_next", shape=(2, 2), initial=(1, 2, 3))
    for initial in (float("nan"), 1e39, (0.0, float("inf"))):
        with pytest.raises(ValueError, match="a number in it is not finite"):
            State(input="h", output="h_next", shape=(2,), initial=initial)
    with pytest.raises(ValueError, match="greater than 0"):
        State(input="h", output="h_next", shape=(-1,))
    with pytest.raises(ValueError, match="twice"):
        TokensInput(vocabulary=("a", "b", "a"))
    assert METADATA_KEY == "cellar.manifest", "files in the world carry this key"


def dense_model() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _weights(model: onnx.ModelProto, name: str, value: float) -> None:
    """Put a number into a tensor of a graph."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    numbers = numpy_helper.to_array(tensor).copy()
    numbers.flat[0] = value
    tensor.CopyFrom(numpy_helper.from_array(numbers, name))


@pytest.mark.parametrize(("value", "refused"), [(np.nan, True), (np.inf, True), (1e30, False)])
def test_weights_that_are_no_numbers_are_refused_by_name(
    tmp_path: Path, value: float, refused: bool
) -> None:
    case = char_case()
    name = next(node.input[2] for node in case.model.proto.graph.node if node.op_type == "LSTM")
    _weights(case.model.proto, name, value)
    repository = ModelRepository(write_repository(tmp_path, case))
    if not refused:
        repository.load("letters")
        return
    with pytest.raises(ModelError, match=f"onnx: weights '{re.escape(name)}': 1 of .* numbers are"):
        repository.load("letters")


@pytest.mark.parametrize(("value", "refused"), [(np.nan, True), (-np.inf, False)])
def test_infinity_may_mask_and_nan_may_not(tmp_path: Path, value: float, refused: bool) -> None:
    """In the body of an operator as well."""

    def change(graph: GraphBuilder, x: str, s: str) -> str:
        body = GraphBuilder("body.")
        mask = body.constant(np.array([0, value], np.float32), "mask")
        body.output(body.node("Max", s, mask), FLOAT, ["batch", 2])
        yes = graph.constant(np.array([True]))
        branch = body.graph("branch")
        return graph.node("If", yes, then_branch=branch, else_branch=branch)

    write_repository(tmp_path, foreign_case(change))
    if not refused:
        ModelRepository(tmp_path).load("sums")
        return
    with pytest.raises(ModelError, match=r"weights 'mask': 1 of 2 numbers are NaN or infinite"):
        ModelRepository(tmp_path).load("sums")


@pytest.mark.parametrize("rows", [6, 7, 8])
def test_a_vocabulary_has_rows_for_all_its_symbols(tmp_path: Path, rows: int) -> None:
    write_repository(tmp_path, embedding_case(rows=rows, vocabulary=7))
    if rows >= 7:
        ModelRepository(tmp_path).load("symbols")
        return
    with pytest.raises(ModelError, match="vocabulary has 7 symbols, but the embedding 'embedding'"):
        ModelRepository(tmp_path).load("symbols")


@pytest.mark.parametrize(("batch", "refused"), [(1, False), (2, True), ("batch", False)])
def test_one_row_at_a_time_can_be_served_and_two_cannot(
    tmp_path: Path, batch: int | str, refused: bool
) -> None:
    write_repository(tmp_path, foreign_case(batch=batch))
    if not refused:
        ModelRepository(tmp_path).load("sums")
        return
    with pytest.raises(ModelError, match=r"has shape \[2, 2\], the manifest says .*\[batch, 2\]"):
        ModelRepository(tmp_path).load("sums")
