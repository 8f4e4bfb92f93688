"""Compiles the stand-in for CUDA's libraries, once for each state of its sources."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import onnxruntime

SOURCES = Path(__file__).parent / "cuda"
BUILDS = Path(__file__).parents[2] / "build" / "standin"
PROVIDER = "libonnxruntime_providers_cuda.so"
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-unused-parameter")
RUNTIME = "libcudart.so.13"
# By library: its sources, and whether its symbols bear its name as their version.
LIBRARIES = {
    RUNTIME: (("trace.cc", "memory.cc", "streams.cc", "kernels.cc", "device.cc"), True),
    "libcublas.so.13": (("blas.cc",), True),
    "libcublasLt.so.13": (("blas.cc",), True),
    "libcurand.so.10": (("driver.cc",), False),
    "libcuda.so.1": (("driver.cc",), False),
}


class UnbuiltError(Exception):
    """There is no stand-in here; the message says what is missing."""


def build() -> Path:
    """The folder with the libraries.

    Raises:
        UnbuiltError: there is no compiler, or no CUDA provider that would use them.
    """
    provider = Path(onnxruntime.__file__).parent / "capi" / PROVIDER
    if not provider.exists():
        raise UnbuiltError(f"this onnxruntime has no CUDA provider ({PROVIDER})")
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise UnbuiltError(f"there is no C++ compiler ({', '.join(COMPILERS)})")
    folder = BUILDS / _hash(compiler)
    if not folder.exists():
        BUILDS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILDS) as found:
            made = Path(found) / "made"
            made.mkdir()
            _compile(compiler, made)
            try:
                made.rename(folder)
            except OSError:  # somebody else was sooner
                if not folder.exists():
                    raise
    return folder


def _hash(compiler: str) -> str:
    found = hashlib.sha256(repr((compiler, FLAGS, LIBRARIES)).encode())
    for source in sorted(SOURCES.iterdir()):
        found.update(source.name.encode())
        found.update(source.read_bytes())
    return found.hexdigest()[:16]


def _compile(compiler: str, folder: Path) -> None:
    for library, (sources, has_version) in LIBRARIES.items():
        flags = [f"-Wl,-soname,{library}"]
        if has_version:
            script = folder / f"{library}.map"
            script.write_text(f"{library} {{ global: cu*; __cu*; standin_*; local: *; }};\n")
            flags.append(f"-Wl,--version-script={script}")
        if library.startswith("libcublas"):
            flags += [str(folder / RUNTIME)]
        files = [str(SOURCES / source) for source in sources]
        command = [compiler, *FLAGS, *files, *flags, "-o", str(folder / library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{library} cannot be compiled:\n{done.stderr}")
