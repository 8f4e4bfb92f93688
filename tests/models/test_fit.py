"""A graph that cannot be served as its manifest says is refused before it runs."""

import onnx
import pytest
from onnx import TensorProto, helper

from models.errors import ModelError
from models.fit import check_fit
from tests.models.test_arena import decaying_sum
from tests.recurrent import Case, char_case, series_case

CHAR, SERIES = char_case(hidden=16), series_case()


def declared(case: Case, name: str, *, dtype: int | None, shape: list[int | str] | None) -> str:
    """What is said of a model whose tensor is declared otherwise; empty if nothing is."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model.proto)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name == name:
            if shape is not None:
                value.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
            if dtype is not None:
                value.type.tensor_type.elem_type = dtype
    try:
        check_fit(proto, case.manifest, where="here")
    except ModelError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("case", "name", "dtype", "complaint"),
    [
        (CHAR, "tokens", TensorProto.FLOAT, "here: tokens 'tokens' is float32, it must be int64"),
        (CHAR, "lengths", TensorProto.FLOAT, "lengths 'lengths' is float32, it must be int32 or"),
        (CHAR, "logits", TensorProto.FLOAT16, "prediction 'logits' is float16, it must be float32"),
        (CHAR, "logits", TensorProto.DOUBLE, "prediction 'logits' is double, it must be float32"),
        (CHAR, "h_0", TensorProto.FLOAT16, "state 'h_0' is float16, it must be float32"),
        (CHAR, "c_0_next", TensorProto.FLOAT16, "state 'c_0_next' is float16, it must be float32"),
        (SERIES, "values", TensorProto.DOUBLE, "values 'values' is double, it must be float32"),
        (SERIES, "levels", TensorProto.DOUBLE, "levels 'levels' is double, it must be float32"),
        (SERIES, "quantiles", TensorProto.DOUBLE, "quantiles 'quantiles' is double"),
    ],
)
def test_types(case: Case, name: str, dtype: int, complaint: str) -> None:
    assert complaint in declared(case, name, dtype=dtype, shape=None)


@pytest.mark.parametrize("name", ["tokens", "lengths"])
def test_both_widths_of_integers_fit(name: str) -> None:
    assert not declared(CHAR, name, dtype=TensorProto.INT32, shape=None)
    assert not declared(CHAR, name, dtype=TensorProto.INT64, shape=None)


@pytest.mark.parametrize(
    ("case", "name", "shape", "complaint"),
    [
        (CHAR, "logits", ["b", "t", 9], "'logits' has shape [b, t, 9], the manifest says [batch,"),
        (CHAR, "logits", ["b", 27], "prediction 'logits' has shape [b, 27]"),
        (CHAR, "logits", [2, "t", 27], "prediction 'logits' has shape [2, t, 27]"),
        (CHAR, "h_0", [2, 16], "state 'h_0' has shape [2, 16]"),
        (CHAR, "h_0_next", ["b", 8], "state 'h_0_next' has shape [b, 8]"),
        (SERIES, "values", ["b", "t", 2], "values 'values' has shape [b, t, 2]"),
        (SERIES, "values", ["b", 1, 1], "values 'values' has shape [b, 1, 1]"),
        (SERIES, "levels", ["b", 9], "levels 'levels' has shape [b, 9]"),
        (SERIES, "levels", [1, "l"], "levels 'levels' has shape [1, l]"),
        (SERIES, "distribution", ["b", "t", 7], "'distribution' has shape [b, t, 7]"),
    ],
)
def test_shapes(case: Case, name: str, shape: list[int | str], complaint: str) -> None:
    assert complaint in declared(case, name, dtype=None, shape=shape)


def test_a_length_left_open_is_left_to_the_first_run() -> None:
    assert not declared(CHAR, "logits", dtype=None, shape=["b", "t", "v"])


def test_a_graph_of_single_steps_may_have_a_time_axis_or_not() -> None:
    model = decaying_sum(0)
    check_fit(model.proto, model.manifest, where="here")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 2])
    model.proto.graph.output[0].CopyFrom(y)
    check_fit(model.proto, model.manifest, where="here")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5, 2])
    model.proto.graph.output[0].CopyFrom(y)
    with pytest.raises(ModelError, match=r"the manifest says \[batch, 1, 2\] or \[batch, 2\]"):
        check_fit(model.proto, model.manifest, where="here")
