"""The commands ``cellar-serve``, ``cellar-store`` and ``cellar-train``, wherever they can run.

Every installation has this package, and only one made from a checkout has the server and training
beside it. So the commands begin here, and say in one line what is missing. They import by name
alone: the client needs none of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = Path(__file__).parents[1]
_OURS = ("cellar", "models", "service", "training")


def serve() -> Any:
    """Run ``cellar-serve``; returns its exit status."""
    load = _tokens if sys.argv[1:2] == ["token"] else _server
    return _run("cellar-serve", package="service", extra="serve", load=load)


def store() -> Any:
    """Run ``cellar-store``; returns its exit status."""
    return _run("cellar-store", package="service", extra="serve", load=_store)


def train() -> Any:
    """Run ``cellar-train``; returns its exit status."""
    return _run("cellar-train", package="training", extra="train", load=_training)


def _server() -> ModuleType:
    told = _grpc_is_told()
    import_module("service.process").prepare()
    if "grpc" in sys.modules and _grpc_is_told() != told:
        # The server has just told gRPC how to run. But gRPC listens when it is first imported, and
        # somebody has done that: the command has to begin anew.
        if sys.stdout is not None:
            sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return import_module("service.server")


def _grpc_is_told() -> list[str | None]:
    return [os.environ.get(name) for name in ("GRPC_EXPERIMENTS", "GRPC_VERBOSITY")]


def _tokens() -> ModuleType:
    return import_module("service.auth.tool")


def _store() -> ModuleType:
    return import_module("service.store.tool")


def _training() -> ModuleType:
    return import_module("training.cli")


def _run(command: str, *, package: str, extra: str, load: Callable[[], ModuleType]) -> Any:
    remedy = f"pip install -e '.[{extra}]' in a checkout of Cellar"
    if not (_ROOT / package / "__init__.py").is_file():
        print(f"{command}: only Cellar's client is installed here: {remedy}", file=sys.stderr)
        return 1
    _prefer_ours(package)
    try:
        return load().main()
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] in _OURS:
            raise
        print(
            f"{command}: needs the extra '{extra}' (there is no {missing}): {remedy}",
            file=sys.stderr,
        )
        return 1


def _prefer_ours(package: str) -> None:
    """Look here first, where a module of the user's would be taken for one of ours."""
    found = find_spec(package)
    if found is None or Path(found.origin or "").parent.parent != _ROOT:
        sys.path.insert(0, str(_ROOT))
