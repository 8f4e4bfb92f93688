"""ONNX Runtime in a process beside this one: what crashes it, or never ends, only ends that."""

import atexit
import itertools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import onnx
from numpy.typing import NDArray

from models.errors import ModelError
from training.errors import DataError
from training.importing.isolated import SECONDS
from training.importing.isolated.child import LENGTH, send
from training.importing.isolated.messages import unpacked

_IN_ALL = 5
"""As many times that for all requests together."""


class RefusedError(Exception):
    """The runtime does not take a graph, or stops in the middle of it; the text is its reason."""


class FatalError(DataError):
    """What was asked ended the process, or did not end itself; the message does not name a file."""


@dataclass(slots=True, kw_only=True)
class InputInfo:
    """What a graph declares of one input, in the runtime's words."""

    name: str
    type: str
    shape: list[Any]


class Session:
    """A graph that is open in the other process; it takes the calls of an InferenceSession."""

    def __init__(self, runtime: "Runtime", number: int, inputs: Sequence[InputInfo]) -> None:
        self._runtime, self._number, self._inputs = runtime, number, list(inputs)

    def get_inputs(self) -> list[InputInfo]:
        """What it takes."""
        return self._inputs

    def run(self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        """Run it once.

        Raises:
            RefusedError: the runtime stops.
            FatalError: it crashes, or does not end.
        """
        found: list[Any] = self._runtime.ask(
            "ran the graph", "run", self._number, list(outputs), dict(feed)
        )
        return found


class Runtime:
    """Reads, opens and runs graphs in a process of its own.

    Args:
        seconds: the most that one request may take; all together may take five times that.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._left = _IN_ALL * seconds
        self._process = _spare.pop() if _spare else _start()
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        healthy = error is None or (isinstance(error, Exception) and self._process.poll() is None)
        if healthy:
            self.ask("closed its graphs", "forget")
            _spare.append(self._process)
        else:
            _stop(self._process)

    def read(self, file: Path) -> onnx.ModelProto:
        """Read a file with its weights, check it and bring it up to date.

        Raises:
            RefusedError: it is not readable, or is no valid model.
            ModelError: its operators are too old, or its names the server's.
            FatalError: reading it crashes, or does not end.
        """
        content: bytes = self.ask("read the file", "read", str(file.absolute()))
        return onnx.load_model_from_string(content)

    def open(self, model: onnx.ModelProto | bytes) -> Session:
        """Open a graph.

        Raises:
            RefusedError: the runtime does not take it.
            FatalError: it crashes, or does not end.
        """
        content = model if isinstance(model, bytes) else model.SerializeToString()
        return self._opened("open", content)

    def open_file(self, file: Path) -> Session:
        """Open a graph as it lies in its file, with every declared length left open.

        Raises:
            RefusedError: the runtime does not take it.
            FatalError: it crashes, or does not end.
        """
        return self._opened("open_file", str(file.absolute()))

    def ask(self, doing: str, name: str, *arguments: object) -> Any:
        """Have the other process do something, and wait for its answer."""
        limit = min(self.seconds, self._left)
        began = time.monotonic()
        try:
            if self._process.stdin is None or self._process.stdout is None:
                raise RuntimeError("the process has no pipes")
            send(self._process.stdin, (name, arguments))
            kind, found = _answer(self._process.stdout, began + limit)
        except TimeoutError as error:
            _stop(self._process)
            loop = ", and otherwise look for a Loop in it that never stops" * (name == "run")
            raise FatalError(
                f"ONNX Runtime {doing} for {limit:.0f} seconds and came to no end: nothing is "
                f"published; if the model is only large, allow more with --timeout SECONDS{loop}"
            ) from error
        except (EOFError, BrokenPipeError) as error:
            raise FatalError(_why_it_ended(self._process.wait(), doing)) from error
        self._left -= time.monotonic() - began
        if kind == "found":
            return found
        if kind == "model":
            raise ModelError(found)
        if kind == "memory":
            raise FatalError(f"there is too little memory for it (while ONNX Runtime {doing})")
        raise RefusedError(found)

    def _opened(self, how: str, content: object) -> Session:
        number = next(self._numbers)
        inputs = self.ask("opened the graph", how, number, content)
        return Session(
            self, number, [InputInfo(name=name, type=t, shape=shape) for name, t, shape in inputs]
        )


_spare: list["subprocess.Popen[bytes]"] = []
"""Processes that wait for the next import of this one."""


def _start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "training.importing.isolated.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Where this process finds the modules, that one has to look as well.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):  # what was not yet written does not matter
                stream.close()


@atexit.register
def _stop_all() -> None:
    while _spare:
        _stop(_spare.pop())


def _answer(stream: IO[bytes], deadline: float) -> tuple[str, Any]:
    """One message, before a time of the monotonic clock."""
    header = _read(stream, LENGTH.size, deadline)
    (size,) = LENGTH.unpack(header)
    kind, found = unpacked(_read(stream, size, deadline))
    return kind, found


def _read(stream: IO[bytes], size: int, deadline: float) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            raise TimeoutError
        part = os.read(stream.fileno(), min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _why_it_ended(code: int, doing: str) -> str:
    if code == -signal.SIGKILL:
        return (
            f"the process in which ONNX Runtime {doing} was killed, most likely because there was "
            "too little memory: nothing is published"
        )
    how = signal.strsignal(-code) if code < 0 else f"code {code}"
    return (
        f"ONNX Runtime crashed ({how}) when it {doing}: nothing is published, for a server would "
        "die of it too; this is a fault of the runtime: export the model in float32, with its "
        "operators as they are and another opset"
    )
