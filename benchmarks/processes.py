"""Child processes: the servers under test, and the load. Each writes JSON lines to stdout."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import procfs
from benchmarks.errors import UnmeasuredError
from service import GRPC_EXPERIMENTS

ROOT = Path(__file__).parents[1]
START_S = 60.0
REPLY_S = 300.0


class Child:
    """A process, its lines, and what it costs.

    Args:
        name: what to call it in errors.
        command: the program and its arguments.
        environment: added to this process's own, less what sets up Cellar or gRPC there.
        folder: where it runs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        folder: Path = ROOT,
    ) -> None:
        self.name = name
        self._folder = folder
        mine = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CELLAR_", "GRPC_"))
        }
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**mine, "ORT_DISABLE_TELEMETRY": "1", **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def cpu_s(self) -> float:
        """CPU seconds so far, all threads."""
        return procfs.cpu_s(self.pid)

    def tree_cpu_s(self) -> float:
        """CPU seconds so far, its own and of all it has started that still run."""
        return procfs.tree_cpu_s(self.pid)

    def rss_bytes(self) -> int:
        """Resident memory."""
        return procfs.rss_bytes(self.pid)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give a command and wait for its reply.

        Raises:
            UnmeasuredError: the command failed.
        """
        self.tell(do, **arguments)
        return self.hear()

    def tell(self, do: str, **arguments: Any) -> None:
        """Give a command whose reply `hear` brings."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def hear(self, timeout_s: float = REPLY_S) -> dict[str, Any]:
        """The next line.

        Raises:
            UnmeasuredError: it is an error, or there is none.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise UnmeasuredError(f"{self.name}: no answer in {timeout_s:g} s") from None
        if line is None:
            raise self._ended()
        found: dict[str, Any] = json.loads(line)
        if "error" in found and "event" not in found:  # a server's log may name errors, too
            raise UnmeasuredError(f"{self.name}: {found['error']}")
        return found

    def unread(self) -> list[str]:
        """The lines that it has written and nobody has read."""
        found = []
        while not self._lines.empty():
            line = self._lines.get()
            if line is None:
                self._lines.put(None)  # the end stays the end
                break
            found.append(line)
        return found

    def errors(self) -> str:
        """What it has written to stderr so far."""
        descriptor = self._errors.fileno()  # its offset is the child's, too: leave it alone
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def terminate(self, timeout_s: float) -> int:
        """Ask it to end, and wait; returns its status.

        Raises:
            UnmeasuredError: it does not end in time.
        """
        self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise UnmeasuredError(f"{self.name} did not end in {timeout_s:g} s") from None

    def close(self) -> None:
        """End it, at once."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):  # a command that was never read
                    stream.close()

    def _ended(self) -> UnmeasuredError:
        status = self._process.wait()
        self._errors.seek(0)
        last = next(reversed(self._errors.read().strip().splitlines()), "no message")
        last = last.replace(
            f"{self._folder}/", ""
        )  # results are kept: they name no folder of this machine
        return UnmeasuredError(f"{self.name} ended with status {status}: {last}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module with this Python."""
    return [sys.executable, "-m", name, *arguments]


def importing(tree: Path) -> dict[str, str]:
    """The environment in which Cellar's packages are those of a source tree."""
    others = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(tree), others)))}


class CellarServer(Child):
    """``cellar-serve``, serving: on the CPU unless a flag says otherwise, whatever there is.

    Args:
        models: the repository.
        flags: of the command line.
        tree: the source tree whose code it runs.
    """

    def __init__(self, models: Path, *flags: str, tree: Path = ROOT) -> None:
        always = ["--log-format=json", "--port=0", "--metrics-port=0", f"--models={models}"]
        if not any(flag.startswith("--device") for flag in flags):
            always.append("--device=cpu")
        command = module("service.server", *always, *flags)
        super().__init__("cellar-serve", command, importing(tree), folder=tree)
        try:
            while (entry := self.hear(START_S)).get("event") != "serving":
                pass
        except BaseException:
            self.close()
            raise
        self.address = f"127.0.0.1:{entry['port']}"
        self.metrics = f"127.0.0.1:{entry['metrics_port']}"


class EchoServer(Child):
    """A server that answers each message with as many bytes as it is told, and does nothing.

    It is gRPC as it comes, or ``tuned`` as `service` does.
    """

    def __init__(self, *, reply_bytes: int, tuned: bool = False) -> None:
        environment = {"GRPC_EXPERIMENTS": GRPC_EXPERIMENTS} if tuned else None
        super().__init__("echo", module("benchmarks.echo", str(reply_bytes)), environment)
        try:
            self.address = f"127.0.0.1:{self.hear(START_S)['port']}"
        except BaseException:
            self.close()
            raise


class BareRuntime(Child):
    """ONNX Runtime in a loop over one exported model."""

    def __init__(self, model: Path) -> None:
        super().__init__("bare ONNX Runtime", module("benchmarks.bare", str(model)))


class GraphRuntime(Child):
    """The graph that Cellar compiles of one exported model, in a loop."""

    def __init__(self, model: Path) -> None:
        super().__init__("compiled graph", module("benchmarks.graph", str(model)))


class LoadProcess(Child):
    """The callers, as light as gRPC can be made: they should not be the limit."""

    def __init__(self) -> None:
        light = {"GRPC_EXPERIMENTS": "-event_engine_client"}
        super().__init__("load", module("benchmarks.load"), light)


__all__ = [
    "ROOT",
    "BareRuntime",
    "CellarServer",
    "Child",
    "EchoServer",
    "GraphRuntime",
    "LoadProcess",
    "importing",
    "module",
]
