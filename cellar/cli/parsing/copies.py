"""The commands that hold a session's state: to copy it, and to move it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellar.cli.arguments import model, whole
from cellar.cli.commands.copies import run_export, run_fork, run_import
from cellar.cli.commands.move import run_move
from cellar.cli.parsing.options import add_connection


def add_copies(commands: Any) -> None:
    """The commands that hold a session's state."""
    export = commands.add_parser(
        "export",
        help="write a session's state to a file",
        description="Write all that a session has come to into a file, a snapshot; the session "
        "stays as it is.",
        examples=("cellar export today --out today.snapshot",),
    )
    export.add_argument("id", metavar="ID", help="the session's id")
    export.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the file to write; - is stdout"
    )
    export.set_defaults(run=run_export)
    add_connection(export)

    importing = commands.add_parser(
        "import",
        help="open a session from such a file",
        description="Open a session that stands where a snapshot was taken, on this server or on "
        "another one that has the model's file.",
        examples=("cellar import today.snapshot --session again",),
    )
    importing.add_argument("file", type=Path, metavar="FILE", help="the snapshot; - is stdin")
    importing.add_argument("--session", metavar="ID", help="its id [the one that it had]")
    importing.set_defaults(run=run_import)
    add_connection(importing)

    fork = commands.add_parser(
        "fork",
        help="open a session where another stands",
        description="Open a session that stands where another one stands, which stays as it is.",
        examples=("cellar fork today --as tomorrow", "cellar fork today --model prices/2"),
    )
    fork.add_argument("id", metavar="ID", help="the session's id")
    fork.add_argument("--as", dest="new_id", metavar="ID", help="the new one's id [a random one]")
    fork.add_argument(
        "--position", type=whole, metavar="N", help="where the new one stands [where it stands]"
    )
    fork.add_argument(
        "--model", type=model, metavar="NAME[/VERSION]", help="the new one's [the same]"
    )
    fork.set_defaults(run=run_fork)
    add_connection(fork)
    _add_move(commands)


def _add_move(commands: Any) -> None:
    move = commands.add_parser(
        "move",
        help="move a session to another server",
        description="Move a session to another server, which has the model's file. At every moment "
        "one of the two has it; where anything fails, run the same again to go on.",
        examples=(
            "cellar move today --to other:50051 --to-token-file other.token",
            "cellar move today --cancel",
        ),
    )
    move.add_argument("id", metavar="ID", help="the session's id")
    move.add_argument("--to", metavar="SERVER", help="the server that it moves to")
    move.add_argument(
        "--cancel", action="store_true", help="let it step again here, if it was not released"
    )
    there = move.add_argument_group("the other server", "As the options of this one, below.")
    there.add_argument("--to-tls", action="store_true", default=None, help="speak TLS")
    there.add_argument("--to-ca", metavar="FILE", help="the authorities to trust")
    there.add_argument("--to-cert", metavar="FILE", help="the certificate to show")
    there.add_argument("--to-key", metavar="FILE", help="its key")
    there.add_argument("--to-server-name", metavar="NAME", help="what its certificate is for")
    there.add_argument("--to-token-file", metavar="FILE", help="a file with the token")
    there.add_argument("--to-token", metavar="TOKEN", help="the token itself")
    there.add_argument(
        "--to-header", action="append", default=[], metavar="NAME:VALUE", help="further metadata"
    )
    move.set_defaults(run=run_move)
    add_connection(move)
