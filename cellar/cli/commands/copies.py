"""``cellar export``, ``cellar import`` and ``cellar fork``: a session's state in the hand."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from cellar.cli.shown import print_json
from cellar.sync.client import Client
from cellar.sync.session import Session


def run_export(client: Client, options: argparse.Namespace) -> None:
    """Write a session's snapshot to a file, which only its owner may read."""
    session = client.attach(options.id)
    snapshot = session.export()
    if str(options.out) == "-":
        sys.stdout.buffer.write(snapshot)
        return
    _write(options.out, snapshot)
    if options.json:
        found = {"id": session.id, "file": str(options.out), "bytes": len(snapshot)}
        print_json(found)
    else:
        print(f"{session.id} is in {options.out}: {len(snapshot):,} bytes")


def run_import(client: Client, options: argparse.Namespace) -> None:
    """Open a session that stands where a snapshot was taken."""
    is_piped = str(options.file) == "-"
    snapshot = sys.stdin.buffer.read() if is_piped else options.file.read_bytes()
    _tell(client.import_session(snapshot, id=options.session), options)


def run_fork(client: Client, options: argparse.Namespace) -> None:
    """Open a session that stands where another one stands."""
    name, version = options.model or ("", 0)
    source = client.attach(options.id)
    _tell(
        source.fork(id=options.new_id, position=options.position, model=name, version=version),
        options,
    )


def _tell(session: Session, options: argparse.Namespace) -> None:
    if options.json:
        found = {
            "id": session.id,
            "model": session.model.name,
            "version": session.model.version,
            "position": session.position,
            "branch": session.branch,
        }
        print_json(found)
    else:
        print(f"{session.id} is at position {session.position}, on {session.model.title}")


def _write(path: Path, data: bytes) -> None:
    """The whole file or none, which nobody else may read."""
    file = tempfile.NamedTemporaryFile(  # noqa: SIM115 (it is renamed, not removed)
        dir=path.parent, prefix=f".{path.name}.", delete=False
    )
    try:
        with file:
            file.write(data)
        os.replace(file.name, path)
    except BaseException:
        with suppress(OSError):
            Path(file.name).unlink()
        raise
