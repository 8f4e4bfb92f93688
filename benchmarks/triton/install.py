"""Triton and its client in an environment of their own, from the package registries.

The server comes out of the nvidia-pytriton wheel, which holds it with its Python backend; the
ONNX Runtime backend is not in it. 2.44 is the version that survives 64 sequences at once: the
servers in later wheels crash there. numpy stays below 2, with which the Python backend of 2.44
returns empty tensors and says nothing.
"""

import platform
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from benchmarks.errors import UnmeasuredError
from benchmarks.processes import ROOT

FOLDER = ROOT / ".bench-triton"
SERVER_WHEEL = "nvidia-pytriton==0.5.6"
SERVER_VERSION = "2.44.0"
PACKAGES = (
    "numpy<2",
    f"onnxruntime=={onnxruntime.__version__}",  # the arithmetic of both sides is the same
    "tritonclient[grpc]",
    "protobuf<7",
    "uvloop",
)
_READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Triton:
    """An installed Triton.

    Attributes:
        python: runs its client.
        binary: the server.
        backends: its backends.
        libraries: where the server finds what it is linked to.
        packages: what its Python backend imports from.
    """

    python: Path
    binary: Path
    backends: Path
    libraries: tuple[Path, ...]
    packages: Path


def install(folder: Path = FOLDER) -> Triton:
    """Install once; later calls find what is there.

    Raises:
        UnmeasuredError: it cannot be installed here.
    """
    _check_platform()
    server = folder / "server" / "pytriton" / "tritonserver"
    environment = folder / "venv"
    if not (folder / _READY).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _install_server(folder, server)
        _install_client(environment)
        (folder / _READY).write_text(f"{SERVER_WHEEL}\n", "utf-8")
    python = environment / "bin" / "python"
    packages = next((environment / "lib").glob("python*/site-packages"))
    return Triton(
        python=python,
        binary=server / "bin" / "tritonserver",
        backends=server / "backends",
        libraries=(_libpython(), folder / "server" / "nvidia_pytriton.libs"),
        packages=packages,
    )


def _check_platform() -> None:
    here = (sys.platform, platform.machine(), sys.version_info[:2])
    if here != ("linux", "x86_64", (3, 11)):
        raise UnmeasuredError("the wheel with Triton is for Linux on x86-64 and Python 3.11")
    _libpython()


def _libpython() -> Path:
    """The folder of the shared libpython that the Python backend is linked to."""
    for variable in ("LIBDIR", "LIBPL"):
        folder = Path(str(sysconfig.get_config_var(variable)))
        library = folder / "libpython3.11.so.1.0"
        if library.exists():
            return library.resolve().parent
    raise UnmeasuredError("Triton's Python backend needs a libpython3.11.so.1.0: there is none")


def _install_server(folder: Path, server: Path) -> None:
    wheels = folder / "wheels"
    download(SERVER_WHEEL, wheels)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        wanted = ("pytriton/tritonserver/", "nvidia_pytriton.libs/")
        names = [name for name in archive.namelist() if name.startswith(wanted)]
        archive.extractall(folder / "server", names)
    stub = server / "backends" / "python" / "triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / "3.11" / stub.name, stub)
    for program in (stub, server / "bin" / "tritonserver"):
        program.chmod(0o755)
    shutil.rmtree(wheels)


def _install_client(environment: Path) -> None:
    run([sys.executable, "-m", "venv", str(environment)], "no virtual environment can be made")
    python = str(environment / "bin" / "python")
    run(
        [python, "-m", "pip", "install", "--disable-pip-version-check", *PACKAGES],
        "Triton's client cannot be installed",
    )


def download(requirement: str, folder: Path) -> None:
    """Put a wheel into a folder, without what it depends on.

    Raises:
        UnmeasuredError: the registry does not give it.
    """
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    run([*pip, f"--dest={folder}", requirement], f"{requirement} cannot be downloaded")


def run(
    command: list[str],
    failure: str,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 900,
) -> str:
    """Run a program to its end; returns what it wrote to stdout.

    Raises:
        UnmeasuredError: it fails, or takes too long; ``failure`` begins the message.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise UnmeasuredError(f"{failure}: it took more than {timeout_s:g} s") from None
    if done.returncode:
        last = next(reversed(done.stderr.strip().splitlines()), "no message")
        raise UnmeasuredError(f"{failure}: {last}")
    return done.stdout


__all__ = ["FOLDER", "SERVER_VERSION", "Triton", "download", "install", "run"]
