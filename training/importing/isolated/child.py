"""What runs in the process beside: it reads, opens and runs graphs, one request after the other.

A request and its answer are each one message with its length before it. Standard output belongs to
the answers, so that whatever the runtime prints goes to standard error.
"""

import contextlib
import math
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from models.compile.portable import normalised
from models.errors import ModelError
from models.untrusted.reading import check_untrusted
from training.importing.isolated.messages import packed, unpacked

MOST_BYTES = 2**31 - 2**20
"""Of a model with its weights; a message of protobuf holds less than 2 GiB."""
LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], message: object) -> None:
    """Write one message."""
    content = packed(message)
    stream.write(LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


class Sessions:
    """The graphs that are open, by numbers that the other side chooses."""

    def __init__(self) -> None:
        self._open: dict[int, ort.InferenceSession] = {}

    def read(self, path: str) -> bytes:
        """Read a file with its weights, check it and bring it up to date."""
        proto = _loaded(path)
        # Before version 4 all initializers had to be inputs too, and not every exporter knew.
        proto.ir_version = max(proto.ir_version, 4)
        onnx.checker.check_model(proto)
        return normalised(proto).SerializeToString()

    def open(self, number: int, model: bytes) -> list[tuple[str, str, list[Any]]]:
        """Open a graph; returns name, type and shape of each input."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong comes back as an exception
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._open[number] = session
        values = [*session.get_inputs(), *session.get_overridable_initializers()]
        return [(value.name, value.type, value.shape) for value in values]

    def open_file(self, number: int, path: str) -> list[tuple[str, str, list[Any]]]:
        """Open a graph as it lies in its file, but for the lengths that it declares."""
        proto = _loaded(path)
        proto.ir_version = max(proto.ir_version, 4)
        del proto.graph.value_info[:]
        for value in (*proto.graph.input, *proto.graph.output):
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                dim.dim_param = f"{value.name}.{axis}"
        return self.open(number, proto.SerializeToString())

    def run(
        self, number: int, outputs: list[str], feed: dict[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Run a graph that is open."""
        return [np.asarray(found) for found in self._open[number].run(outputs, feed)]

    def forget(self) -> None:
        """Close every graph."""
        self._open.clear()


def _loaded(path: str) -> onnx.ModelProto:
    """A file with the weights beside it, if all of it is little enough to be one message."""
    proto = onnx.load_model(path, load_external_data=False)
    size = proto.ByteSize()
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            size += kind.itemsize * math.prod(tensor.dims)
    if size > MOST_BYTES:
        raise ModelError(
            f"with its weights it has {size / 2**30:.1f} GiB, and 2 are the most that is served: "
            "export it in float32 and not float64, or with fewer units"
        )
    folder = os.path.dirname(path)
    # Also by a server, later; what is at fault is said of the file as it was given here.
    check_untrusted(
        proto, Path(folder), where="", most_bytes=MOST_BYTES, size=os.path.getsize(path)
    )
    onnx.load_external_data_for_model(proto, folder)
    return proto


def main() -> None:
    """Answer requests until the other side ends."""
    _end_alone()
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sessions = Sessions()
    while header := requests.read(LENGTH.size):
        name, arguments = unpacked(requests.read(*LENGTH.unpack(header)))
        method: Callable[..., object] = getattr(sessions, name)
        try:
            answer: tuple[str, object] = "found", method(*arguments)
        except ModelError as error:
            answer = "model", str(error).removeprefix(": ")
        except MemoryError as error:
            answer = "memory", str(error)
        except Exception as error:  # of many kinds; the other side says what it means
            answer = "refused", f"{type(error).__name__}: {error}"
        send(answers, answer)


def _end_alone() -> None:
    """Leave no core behind, and end with whoever started this, in the middle of a run too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this gets it as well
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
