"""What Prometheus reads of any process, and what this one was built from."""

import platform
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector

_PACKAGES = {
    "version": ("cellar",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "grpc": ("grpcio",),
}


def show_process(registry: CollectorRegistry) -> None:
    """Add ``process_*``: CPU seconds, memory, descriptors and the start; on Linux only."""
    ProcessCollector(registry=registry)


def show_build(info: Gauge) -> None:
    """Say which versions of what this is."""
    versions = {label: _version(names) for label, names in _PACKAGES.items()}
    info.labels(**versions, python=platform.python_version()).set(1)


def _version(names: tuple[str, ...]) -> str:
    """The version of the first of some packages that is installed."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
