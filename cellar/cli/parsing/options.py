"""Options that several commands have."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from cellar.cli.access import add_access
from cellar.cli.arguments import positive
from cellar.connection.variables import default_server


def add_model(command: argparse.ArgumentParser) -> None:
    """Which model."""
    command.add_argument("model", help="the model's name")


def add_owner(command: argparse.ArgumentParser) -> None:
    """Whose sessions."""
    command.add_argument("--owner", metavar="PRINCIPAL", help="for admins: sessions of this one")


def add_session(command: argparse.ArgumentParser) -> None:
    """Which session, and what it begins with."""
    command.add_argument(
        "--session", metavar="ID", help="go on with this session, or begin it; it is kept"
    )
    command.add_argument(
        "--initial-state",
        type=Path,
        metavar="FILE",
        help="the state to begin with: an .npz file, with an array for each of the model's states",
    )


def add_connection(command: argparse.ArgumentParser) -> None:
    """The options that every command has, which come last."""
    command.add_argument("--json", action="store_true", help="print JSON")
    server = default_server(os.environ)
    command.add_argument(
        "--server",
        default=server,
        metavar="ADDRESS",
        help="host:port or unix:PATH, or the variable CELLAR_SERVER [%(default)s]",
    )
    command.add_argument(
        "--timeout", type=positive, default=30.0, metavar="S", help="seconds per request [30]"
    )
    add_access(command)
