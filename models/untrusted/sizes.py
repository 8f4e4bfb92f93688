"""How much memory a model may need by what it declares, against what its file has.

Knows the operators that make much of little when ONNX Runtime computes constants in advance.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from models.errors import ModelError
from models.graph.builder import STANDARD_DOMAINS
from models.untrusted.walking import Inside, sparse_in

MOST_MADE = 2**28
"""Numbers of a tensor that the graph makes of constants: 1 GiB in float32."""
_MOST_AXES = 64


def check_tensor(tensor: onnx.TensorProto, external: int | None, *, where: str) -> None:
    """Check that a constant has as many numbers as its shape says.

    Args:
        tensor: the constant.
        external: its bytes in another file; ``None`` where they are in it.
        where: names the file in the error.

    Raises:
        ModelError: it has not, or its type is unknown.
    """
    subject = f"{where}: tensor '{tensor.name}'"
    count = _count(tensor.dims, subject)
    if tensor.data_type == onnx.TensorProto.STRING:
        _check_same(subject, tensor.dims, count, len(tensor.string_data), "strings")
        return
    bits = _bits(tensor.data_type)
    if bits is None:
        raise ModelError(f"{subject} is of an unknown type ({tensor.data_type})")
    if external is None and not tensor.HasField("raw_data"):
        _check_same(subject, tensor.dims, _typed(tensor, count, bits), _values(tensor), "numbers")
        return
    held = len(tensor.raw_data) if external is None else external
    _check_same(subject, tensor.dims, (count * bits + 7) // 8, held, "bytes")


def check_sparse(part: Inside, *, where: str) -> None:
    """Check that no sparse constant is large once it is dense, as it is when it is loaded.

    Raises:
        ModelError: one is.
    """
    for sparse in sparse_in(part):
        subject = f"{where}: sparse tensor '{sparse.values.name}'"
        count = _count(sparse.dims, subject)
        if count > MOST_MADE:
            raise ModelError(_too_large(subject, sparse.dims))


def check_made(part: Inside, constants: Mapping[str, onnx.TensorProto], *, where: str) -> None:
    """Check that no operator makes a large tensor of constants alone.

    Sees one operator at a time; what several of them make is for a trial to find.

    Args:
        part: a graph of the model.
        constants: those that are known in it, by name.
        where: names the file in the error.

    Raises:
        ModelError: one does; the message names it.
    """
    for node in part.graph.node:
        if node.domain not in STANDARD_DOMAINS:
            continue
        shape = _made_shape(node, constants)
        if shape is None:
            continue
        subject = f"{where}: operator {node.op_type} '{node.name or ''.join(node.output[:1])}'"
        if _count([max(length, 1) for length in shape], subject) > MOST_MADE:
            raise ModelError(_too_large(subject, shape))


def _made_shape(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> list[int] | None:
    """The shape of what a node makes, as far as constants tell; ``None`` where they do not."""
    inputs = [constants.get(name) for name in node.input]
    known = [None if one is None else _numbers(one) for one in inputs]
    if node.op_type in ("RandomNormal", "RandomUniform"):
        return next((list(one.ints) for one in node.attribute if one.name == "shape"), None)
    if node.op_type == "ConstantOfShape" and len(known) == 1:
        return known[0]
    if node.op_type == "Expand" and len(known) == 2:
        return known[1]
    if node.op_type == "Tile" and len(known) == 2 and inputs[0] is not None:
        return known[1] and [
            math.prod(inputs[0].dims) * math.prod(max(times, 0) for times in known[1])
        ]
    if node.op_type == "Range" and len(known) == 3 and all(len(one or []) == 1 for one in known):
        start, limit, delta = (float((one or [0])[0]) for one in known)
        if delta == 0 or not all(map(math.isfinite, (start, limit, delta))):
            return None
        return [min(max(int((limit - start) / delta), 0), 2**62)]
    return None


def _numbers(tensor: onnx.TensorProto) -> list[int] | None:
    """What is in a small constant of numbers."""
    if tensor.data_type == onnx.TensorProto.STRING or math.prod(tensor.dims) > _MOST_AXES:
        return None
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    found: Sequence[int] = np.asarray(numpy_helper.to_array(tensor)).ravel().tolist()
    return list(found)


def _count(dims: Sequence[int], subject: str) -> int:
    if len(dims) > _MOST_AXES:
        raise ModelError(f"{subject} has {len(dims)} axes, and {_MOST_AXES} are the most")
    if any(length < 0 for length in dims):
        raise ModelError(f"{subject} has an axis of negative length: {_shape(dims)}")
    return math.prod(dims)


def _check_same(subject: str, dims: Sequence[int], declared: int, held: int, unit: str) -> None:
    if declared != held:
        raise ModelError(
            f"{subject} of shape {_shape(dims)} takes {declared:,} {unit}, and the file has "
            f"{held:,}: it is damaged, or written wrongly; export the model anew"
        )


def _bits(dtype: int) -> int | None:
    """Bits of a number of a type, which may be less than a byte's."""
    try:
        name = onnx.TensorProto.DataType.Name(dtype)
    except ValueError:
        return None
    if dtype == onnx.TensorProto.UNDEFINED:
        return None
    if name.startswith(("INT4", "UINT4", "FLOAT4")):
        return 4
    if name.startswith(("INT2", "UINT2")):
        return 2
    return 8 * onnx.helper.tensor_dtype_to_np_dtype(dtype).itemsize


def _typed(tensor: onnx.TensorProto, count: int, bits: int) -> int:
    """Entries that so many numbers take in the field of their type."""
    if bits < 8:
        return (count * bits + 7) // 8
    complex_types = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
    return count * (2 if tensor.data_type in complex_types else 1)


def _values(tensor: onnx.TensorProto) -> int:
    return max(
        len(tensor.float_data),
        len(tensor.int32_data),
        len(tensor.int64_data),
        len(tensor.double_data),
        len(tensor.uint64_data),
    )


def _too_large(subject: str, shape: Sequence[int]) -> str:
    return (
        f"{subject} makes a tensor of shape {_shape(shape)} of constants, and {MOST_MADE:,} "
        "numbers are the most: export the model without it"
    )


def _shape(dims: Sequence[int]) -> str:
    shown = ", ".join(map(str, dims[:8]))
    return f"[{shown}{', ...' if len(dims) > 8 else ''}]"
