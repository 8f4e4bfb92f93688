"""NVIDIA's own load tool, on Triton: a third party's word on what our callers find.

perf_analyzer comes out of the last tritonclient wheel that holds it; what it is linked to comes
from another wheel and from the system's package archive, unpacked and not installed.
"""

import json
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from benchmarks.errors import UnmeasuredError
from benchmarks.triton.install import FOLDER, download, run
from benchmarks.triton.server import MODEL
from benchmarks.triton.traffic import SEQUENCE_STEPS, VOCABULARY

CLIENT_WHEEL = "tritonclient==2.51.0"
CUDA_WHEEL = "nvidia-cuda-runtime-cu12==12.6.77"
B64_PACKAGE = "libb64-0d"
_FIRST_ID = 1_000_000_000  # above every id of our own callers: Triton 2.44 can crash on used ones
_SECONDS = 120
_ROUND = re.compile(r"Throughput: ([0-9.]+) infer/sec")


def install(folder: Path = FOLDER / "perf_analyzer") -> Path:
    """Install once; returns the program. Its libraries lie beside it.

    Raises:
        UnmeasuredError: it cannot be installed here.
    """
    program = folder / "perf_analyzer"
    if not program.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _unpack(Path(scratch), folder)
    return program


def steps_per_s(program: Path, address: str, *, sequences: int) -> float:
    """What it finds, with so many sequences at once.

    Raises:
        UnmeasuredError: it fails.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as data:
        steps = [{"tokens": [number % VOCABULARY]} for number in range(SEQUENCE_STEPS)]
        json.dump({"data": [steps]}, data)
        data.flush()
        output = run(
            [
                str(program),
                *("-u", address, "-i", "grpc", "--streaming", "-m", MODEL),
                *("--concurrency-range", str(sequences), "--input-data", data.name),
                *("--sequence-id-range", str(_FIRST_ID)),
                *("-p", "1000", "-r", "5", "-s", "30"),  # windows of 1 s, three within 30 %
            ],
            "perf_analyzer failed",
            environment={**os.environ, "LD_LIBRARY_PATH": str(program.parent)},
            timeout_s=_SECONDS,
        )
    found = _ROUND.findall(output)
    if not found:
        raise UnmeasuredError("perf_analyzer names no throughput")
    return float(found[-1])


def _unpack(scratch: Path, folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise UnmeasuredError(f"perf_analyzer needs {B64_PACKAGE}, and there is no apt-get")
    run(
        ["apt-get", "download", "-o", "APT::Sandbox::User=root", B64_PACKAGE],
        f"perf_analyzer needs {B64_PACKAGE}, which cannot be downloaded",
        folder=scratch,
    )
    (package,) = scratch.glob("libb64*.deb")
    run(["dpkg", "-x", str(package), str(scratch / "b64")], f"{package.name} cannot be unpacked")
    for library in (scratch / "b64").rglob("libb64.so*"):
        shutil.copy(library, folder, follow_symlinks=True)
    download(CUDA_WHEEL, scratch)
    download(CLIENT_WHEEL, scratch)
    _take(next(scratch.glob("nvidia_cuda_runtime*.whl")), "/lib/libcudart", folder)
    _take(next(scratch.glob("tritonclient*.whl")), "/bin/perf_analyzer", folder)
    (folder / "perf_analyzer").chmod(0o755)


def _take(wheel: Path, pattern: str, folder: Path) -> None:
    """The files of a wheel whose path holds this, without their folders."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if pattern in name:
                (folder / Path(name).name).write_bytes(archive.read(name))


__all__ = ["install", "steps_per_s"]
