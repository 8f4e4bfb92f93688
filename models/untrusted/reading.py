"""Reads a model file of somebody else's, and checks it before anything else looks at it.

What passes may still crash ONNX Runtime, or take memory in ways that only running it shows: that
is for a process of its own.
"""

import os
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from models.errors import ModelError
from models.untrusted.operators import check_functions, check_operators, functions_of
from models.untrusted.outside import external_bytes
from models.untrusted.sizes import check_made, check_sparse, check_tensor
from models.untrusted.walking import parts_of, sparse_in, tensors_in

MOST_BYTES = 2**30
"""Of a model with its weights, unless told otherwise."""


def read_bytes(path: Path, most: int, *, what: str) -> bytes:
    """The whole of a file.

    Args:
        path: the file.
        most: bytes that it may have.
        what: how to go on where it has more.

    Raises:
        ModelError: it is larger, or no regular file.
        OSError: it cannot be read.
    """
    # A pipe would be waited for, and nothing be said of it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{path}: no regular file")
        if found.st_size > most:
            raise ModelError(
                f"{path}: it has {found.st_size:,} bytes, and {most:,} are the most{what}"
            )
        return file.read(found.st_size)  # what is appended now is not read


def read_onnx(path: Path, *, most_bytes: int = MOST_BYTES) -> onnx.ModelProto:
    """Read an ONNX file without the weights that it keeps elsewhere, and check it.

    Raises:
        ModelError: it is too large, no ONNX, or holds what no model may; the message says what.
    """
    try:
        data = read_bytes(path, most_bytes, what=": raise --max-model-bytes if it is your own")
        proto = onnx.ModelProto.FromString(data)
    except (DecodeError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{path}: not a readable ONNX model: {reason}") from error
    if not proto.HasField("graph"):  # so is a file of no bytes, and one that was cut off early
        raise ModelError(f"{path}: not a readable ONNX model: there is no graph in it")
    check_untrusted(proto, path.parent, where=str(path), most_bytes=most_bytes, size=len(data))
    return proto


def check_untrusted(
    proto: onnx.ModelProto, folder: Path, *, where: str, most_bytes: int, size: int
) -> None:
    """Check what a model declares before anything acts on it.

    Args:
        proto: the model, without the weights that it keeps elsewhere.
        folder: where those have to be.
        where: names the file in errors.
        most_bytes: of the file and of those weights.
        size: bytes of the file itself.

    Raises:
        ModelError: it uses operators that are not built in, keeps weights outside its folder, or
            needs more than a model may; the message names the part.
    """
    functions, left = functions_of(proto), most_bytes - size
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for part in parts_of(proto, where=where):
        check_operators(part, functions, where=where)
        for tensor in tensors_in(part):
            external = None
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                external = external_bytes(tensor, folder, where=where)
                left -= external
                if left < 0:
                    raise ModelError(
                        f"{where}: with the weights in its other files it has more than "
                        f"{most_bytes:,} bytes: raise --max-model-bytes if it is your own"
                    )
            check_tensor(tensor, external, where=where)
        for sparse in sparse_in(part):
            if onnx.TensorProto.EXTERNAL in (
                sparse.values.data_location,
                sparse.indices.data_location,
            ):
                raise ModelError(
                    f"{where}: sparse tensor '{sparse.values.name}' keeps its data in another "
                    "file, which is not supported: export it as a dense one"
                )
        check_sparse(part, where=where)
        own = {
            node.output[0]: attribute.t
            for node in part.graph.node
            for attribute in node.attribute
            if node.op_type == "Constant" and attribute.name == "value" and node.output
        }
        if isinstance(part.graph, onnx.GraphProto):
            own |= {tensor.name: tensor for tensor in part.graph.initializer}
        check_made(part, own if part.is_function else constants | own, where=where)
    check_functions(proto, where=where)
