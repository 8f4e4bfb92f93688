"""Where and with what a measurement was made."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime

from benchmarks import procfs
from benchmarks.processes import ROOT


def describe() -> dict[str, object]:
    """Hardware, versions, time and revision."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "revision": _revision(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(procfs.total_bytes() / 1e9, 1),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "grpcio": _version("grpcio"),
        "numpy": _version("numpy"),
        "uvloop": _version("uvloop"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()


def _revision() -> str | None:
    """The commit, with a + where files differ from it."""
    if shutil.which("git") is None or not (found := _output("git", "rev-parse", "HEAD")):
        return None
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return found + "+" if changed else found


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


__all__ = ["describe"]
