"""Writes the synchronous client from the asynchronous one: ``make sync-client``.

``python -m deploy.sync_client [FOLDER]`` writes into ``FOLDER`` (``cellar/sync``). unasync turns
names (``async``, ``await``, ``__aenter__``) into their twins; what is more than a name is in
``_TEXT`` below; ruff drops the imports that are then unused, and lays the code out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

_ROOT = Path(__file__).resolve().parent.parent
_SOURCE = Path("cellar/aio")
_TARGET = Path("cellar/sync")

_MODULES = ("client", "connecting", "drive", "generation", "session", "stream", "transport")
"""Modules of the client that are the same on both sides, but for how they wait."""

_NAMES = {"aclose": "close", "anext": "next", "asyncio": "time"}
"""Names besides those that unasync knows; of asyncio these modules use ``sleep`` alone."""

_TEXT = (
    (r"\bcellar\.aio\b", "cellar.sync"),
    (r"\bgrpc\.aio\b", "grpc"),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    # What is opened when it is awaited, is opened at once.
    (r"\bOpening\[(\w+)\]", r"\1"),
    (r"\bOpening\(lambda: (.+)\)", r"\1"),
    (r"\n\n +``await`` it, or ``async with`` it\.", ""),
    (r"for info in infos:\n +yield info", "yield from infos"),
    # Docstrings. One thread at a time may use a stream, where any task may.
    (r"\basynchronous", "synchronous"),
    (
        r"share it and its streams, but not one session\.",
        "share it, but not one session or stream.",
    ),
    (r"(one connection\.) Tasks may share it\.", r"\1 For one thread at a time."),
    (r"\bTasks may share", "Threads may share"),
    (r"\bone task at a time", "one thread at a time"),
)
"""Patterns and what stands for them in the synchronous client, applied in this order."""


def main(arguments: list[str]) -> None:
    """Writes the modules into the folder named, or into the client."""
    folder = Path(arguments[0]) if arguments else _ROOT / _TARGET
    for name, text in generate().items():
        (folder / name).write_text(text, encoding="utf-8")


def generate() -> dict[str, str]:
    """The synchronous modules by file name.

    Raises:
        ValueError: a pattern of ``_TEXT`` matched nowhere: it is out of date.
    """
    sources = {
        f"{module}.py": (_ROOT / _SOURCE / f"{module}.py").read_text(encoding="utf-8")
        for module in _MODULES
    }
    for pattern, replacement in _TEXT:
        found = 0
        for name, text in sources.items():
            sources[name], hits = re.subn(pattern, replacement, text)
            found += hits
        if not found:
            raise ValueError(f"{pattern!r} is not in {_SOURCE} any more")
    return {
        name: _tidied(
            f"# Generated from {_SOURCE / name} by `make sync-client`; do not edit.\n" + text,
            _TARGET / name,
        )
        for name, text in _unasynced(sources).items()
    }


def _unasynced(sources: dict[str, str]) -> dict[str, str]:
    """The sources by name, without ``async`` and ``await``. unasync works on files only."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "async"), Path(folder, "sync")
        before.mkdir()
        for name, text in sources.items():
            (before / name).write_text(text, encoding="utf-8")
        rule = unasync.Rule(f"{before}/", f"{after}/", additional_replacements=_NAMES)
        unasync.unasync_files([str(before / name) for name in sources], [rule])
        return {name: (after / name).read_text(encoding="utf-8") for name in sources}


def _tidied(text: str, path: Path) -> str:
    """Imports sorted and none unused, laid out as ``make format`` would at this path."""
    for command in (["check", "--quiet", "--fix-only", "--select", "I,F401"], ["format"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"],
            input=text,
            capture_output=True,
            check=True,
            cwd=_ROOT,
            encoding="utf-8",
        ).stdout
    return text


if __name__ == "__main__":
    main(sys.argv[1:])
