"""ONNX Runtime, as this server uses it. The only file that imports it."""

from typing import Any, TypeAlias

import onnxruntime as ort
from numpy.typing import NDArray

Session: TypeAlias = ort.InferenceSession
Binding: TypeAlias = ort.IOBinding
Value: TypeAlias = ort.OrtValue


def open_session(graph: bytes) -> Session:
    """Load a graph on the CPU."""
    options = ort.SessionOptions()
    # One thread per shard: small matrices gain nothing from more, and the arithmetic of a row
    # then cannot depend on how a batch was split.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def bindable(array: NDArray[Any]) -> Value:
    """Wrap an array without copying it: in-place writes hang on that."""
    value = ort.OrtValue.ortvalue_from_numpy(array)
    if value.data_ptr() != array.ctypes.data:
        raise RuntimeError("ONNX Runtime copied a buffer that must be shared")
    return value


def input_shapes(session: Session) -> dict[str, list[int | str | None]]:
    """A graph's inputs by name, with their shapes."""
    return {value.name: value.shape for value in session.get_inputs()}
