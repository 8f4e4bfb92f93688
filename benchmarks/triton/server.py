"""Triton as a child process, and the load that speaks its protocol."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from benchmarks import procfs
from benchmarks.errors import UnmeasuredError
from benchmarks.processes import Child
from benchmarks.triton.install import Triton

MODEL = "lstm"
_TEMPLATE = Path(__file__).parent / "repository"
_START_S = 60.0
_STOP_S = 10.0


class TritonServer(Child):
    """Triton with one model in its Python backend, listening on loopback only.

    Args:
        triton: the installation.
        onnx: the exported model.
        folder: for its model repository.
    """

    def __init__(self, triton: Triton, onnx: Path, folder: Path) -> None:
        repository = _repository(onnx, folder)
        http, grpc, metrics = _free_ports(3)
        path = os.environ.get("PATH", "")
        # A name of its own: all servers share Triton's default, and a crash leaves it behind.
        self._shared = f"cellar-bench-{os.getpid()}-{grpc}-"
        super().__init__(
            "Triton",
            [
                str(triton.binary),
                f"--model-repository={repository}",
                f"--backend-directory={triton.backends}",
                *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
                f"--http-port={http}",
                f"--grpc-port={grpc}",
                f"--metrics-port={metrics}",
                "--disable-auto-complete-config",
                "--allow-gpu-metrics=false",
                "--backend-config=python,shm-default-byte-size=268435456",
                f"--backend-config=python,shm-region-prefix-name={self._shared}",
            ],
            {
                "LD_LIBRARY_PATH": ":".join(map(str, triton.libraries)),
                "PYTHONPATH": str(triton.packages),
                "PATH": f"{triton.python.parent}:{path}",
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            },
        )
        self.address = f"127.0.0.1:{grpc}"

    def wait_until_ready(self, load: "TritonLoad") -> None:
        """Wait for the model.

        Raises:
            UnmeasuredError: it does not come up.
        """
        give_up = time.monotonic() + _START_S
        while not load.ask("ready", address=self.address)["ready"]:
            if self._process.poll() is not None:
                raise self._ended()
            if time.monotonic() > give_up:
                raise UnmeasuredError(f"Triton is not ready after {_START_S:g} s")
            time.sleep(0.2)

    def crashed(self) -> bool:
        """Whether it has ended by itself, or is about to: its connections close before it does."""
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Stop it: its backends are processes, too, and share memory with it."""
        family = procfs.tree(self.pid)
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for child in family[1:]:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:  # as it should be
                continue
        for left in Path("/dev/shm").glob(f"{self._shared}*"):
            left.unlink(missing_ok=True)
        super().close()


class TritonLoad(Child):
    """The callers of Triton, in its client's environment."""

    def __init__(self, triton: Triton) -> None:
        super().__init__("Triton's load", [str(triton.python), "-m", "benchmarks.triton.load"])


def _repository(onnx: Path, folder: Path) -> Path:
    """A model repository for this file."""
    version = folder / MODEL / "1"
    version.mkdir(parents=True)
    shutil.copy(_TEMPLATE / "model.py", version)
    config = (_TEMPLATE / "config.pbtxt").read_text("utf-8")
    parameter = f'parameters {{ key: "onnx" value {{ string_value: "{onnx}" }} }}\n'
    (folder / MODEL / "config.pbtxt").write_text(config + parameter, "utf-8")
    return folder


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has at this moment: Triton cannot choose its own."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


__all__ = ["MODEL", "TritonLoad", "TritonServer"]
