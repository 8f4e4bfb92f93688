"""Checks that a graph is what its manifest says, in types, shapes and numbers to serve."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from models.errors import ModelError
from models.graph.builder import FLOAT, INT32, INT64, STANDARD_DOMAINS, constants_of
from models.manifest import Manifest, State, TokensInput

_Shape: TypeAlias = tuple[int | str, ...]
_PRODUCTS = ("MatMul", "Gemm", "LSTM", "GRU", "RNN", "Conv", "Gather")
_FLOATS = (FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
_LAYOUT = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose")


def check_fit(proto: onnx.ModelProto, manifest: Manifest, *, where: str) -> None:
    """Check that a graph has the tensors its manifest names, with the types and shapes to serve.

    What a graph leaves open is not checked here; running it will tell.

    Raises:
        ModelError: it has not; the message names the tensor.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = {value.name: value for value in proto.graph.input if value.name not in constants}
    outputs = {value.name: value for value in proto.graph.output}
    expected_inputs, expected_outputs = _inputs(manifest), _outputs(manifest)
    for side, expected, found in (
        ("input", expected_inputs, inputs),
        ("output", expected_outputs, outputs),
    ):
        for name in sorted({tensor.name for tensor in expected} - found.keys()):
            known = ", ".join(found)
            raise ModelError(f"{where}: the manifest names {side} '{name}', the graph has: {known}")
    for name in sorted(inputs.keys() - {tensor.name for tensor in expected_inputs}):
        hint = _if_a_state(inputs[name], manifest)
        raise ModelError(f"{where}: the graph needs input '{name}', which the manifest omits{hint}")
    for tensor in expected_inputs:
        _check_tensor(inputs[tensor.name], tensor, where=where)
    for tensor in expected_outputs:
        _check_tensor(outputs[tensor.name], tensor, where=where)
    _check_vocabulary(proto.graph, manifest, where=where)


def _if_a_state(value: onnx.ValueInfoProto, manifest: Manifest) -> str:
    """What to say of an input that looks like recurrent state: numbers, and few axes are open."""
    dims = value.type.tensor_type.shape.dim
    if value.type.tensor_type.elem_type != FLOAT or not any(dim.dim_value for dim in dims):
        return ""
    named = len(manifest.states) or "none"
    return (
        f": if it is recurrent state, add it to the manifest's states ({named} named), with the "
        "output that holds it after the last step"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """What a tensor may be; a name in a shape stands for a length that must stay open."""

    name: str
    role: str
    types: tuple[int, ...] = (FLOAT,)
    shapes: tuple[_Shape, ...]


def _inputs(manifest: Manifest) -> list[_Expected]:
    if isinstance(manifest.input, TokensInput):
        expected = [
            _Expected(
                name=manifest.input.name,
                role="tokens",
                types=(INT64, INT32),
                shapes=_steps(manifest),
            )
        ]
    else:
        width = manifest.input.width
        shapes = tuple((*step, width) for step in _steps(manifest))
        expected = [_Expected(name=manifest.input.name, role="values", shapes=shapes)]
    if manifest.lengths is not None:
        expected.append(
            _Expected(
                name=manifest.lengths, role="lengths", types=(INT32, INT64), shapes=(("batch",),)
            )
        )
    if manifest.quantiles is not None:
        name = manifest.quantiles.levels
        # The head gets the rows of many runs: there must be room for more than one.
        expected.append(_Expected(name=name, role="levels", shapes=(("rows", "levels"),)))
    states = (
        _Expected(name=state.input, role="state", shapes=(_batched(state),))
        for state in manifest.states
    )
    return [*expected, *states]


def _outputs(manifest: Manifest) -> list[_Expected]:
    steps = _steps(manifest)
    if manifest.quantiles is not None:  # they need the time axis, be it of one step
        steps = steps[:1]
    width = manifest.prediction.width
    shapes = tuple((*step, width) for step in steps)
    if not manifest.prediction.per_step:
        shapes = (("batch", width),)
    expected = [_Expected(name=manifest.prediction.output, role="prediction", shapes=shapes)]
    if manifest.quantiles is not None:
        name = manifest.quantiles.output
        expected.append(_Expected(name=name, role="quantiles", shapes=((*steps[0], "levels"),)))
    states = (
        _Expected(name=state.output, role="state", shapes=(_batched(state),))
        for state in manifest.states
    )
    return [*expected, *states]


def _steps(manifest: Manifest) -> tuple[_Shape, ...]:
    """The leading axes of what holds a row per step.

    Without lengths a run is one step, or sequences of one length where there is no state.
    """
    if manifest.lengths is None and manifest.is_streamable:
        return (("batch", 1), ("batch",))
    return (("batch", "time"),)


def _batched(state: State) -> _Shape:
    axes: list[int | str] = list(state.shape)
    axes.insert(state.batch_axis, "batch")
    return tuple(axes)


def _check_tensor(value: onnx.ValueInfoProto, expected: _Expected, *, where: str) -> None:
    subject = f"{where}: {expected.role} '{value.name}'"
    found = value.type.tensor_type
    if found.elem_type not in expected.types:
        allowed = " or ".join(_type_name(dtype) for dtype in expected.types)
        raise ModelError(f"{subject} is {_type_name(found.elem_type)}, it must be {allowed}")
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in found.shape.dim]
    if not any(_fits(dims, shape) for shape in expected.shapes):
        allowed = " or ".join(f"[{', '.join(map(str, shape))}]" for shape in expected.shapes)
        declared = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in found.shape.dim)
        raise ModelError(
            f"{subject} has shape [{declared}], the manifest says {allowed} "
            "(a number must match, a name must be a dynamic axis)"
        )


def _fits(dims: list[int | None], shape: _Shape) -> bool:
    return len(dims) == len(shape) and all(
        have is None or have == want or (have, want) == (1, "batch")  # rows that run alone
        for have, want in zip(dims, shape, strict=True)
    )


def check_weights(proto: onnx.ModelProto, *, where: str) -> None:
    """Check that the numbers in a file are numbers.

    Infinity is one where it masks or bounds, but not as the factor of a product.

    Raises:
        ModelError: one is not; the message names the tensor.
    """
    for graph in _graphs(proto):
        constants = constants_of(graph)
        factors = {
            name for node in graph.node if node.op_type in _PRODUCTS for name in node.input if name
        }
        for name, tensor in constants.items():
            if tensor.data_type not in _FLOATS:
                continue
            numbers = numpy_helper.to_array(tensor)
            if np.isnan(numbers).any() or (name in factors and np.isinf(numbers).any()):
                bad = numbers.size - int(np.isfinite(numbers).sum())
                raise ModelError(
                    f"{where}: weights '{name}': {bad} of {numbers.size} numbers are NaN or "
                    "infinite, as of a training that has diverged: export the model anew"
                )


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph of a model, and those inside it."""
    left = [proto.graph]
    while left:
        graph = left.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                left += [body for body in (attribute.g, *attribute.graphs) if body.node]


def _check_vocabulary(graph: onnx.GraphProto, manifest: Manifest, *, where: str) -> None:
    """Check that every token has a row in the table that tokens are looked up in."""
    if not isinstance(manifest.input, TokensInput):
        return
    symbols = len(manifest.input.vocabulary)
    constants = constants_of(graph)
    tokens = {manifest.input.name}
    for node in graph.node:  # in topological order
        if node.domain not in STANDARD_DOMAINS or not tokens.intersection(node.input):
            continue
        if node.op_type in _LAYOUT and node.input[0] in tokens:
            tokens.update(node.output)
        table = constants.get(node.input[0])
        axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 0)
        if node.op_type == "Gather" and table is not None and axis == 0:
            rows = table.dims[0] if table.dims else 0
            if rows < symbols:
                raise ModelError(
                    f"{where}: the manifest's vocabulary has {symbols} symbols, but the embedding "
                    f"'{node.input[0]}' has {rows} rows: name the {rows} that it was trained with"
                )


def _type_name(dtype: int) -> str:
    if dtype == onnx.TensorProto.FLOAT:
        return "float32"
    return onnx.TensorProto.DataType.Name(dtype).lower()
