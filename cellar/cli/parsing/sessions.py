"""The commands for sessions that are open, whoever has opened them."""

from __future__ import annotations

from typing import Any

from cellar.cli.arguments import duration, model, whole
from cellar.cli.commands.sessions import (
    run_close,
    run_reset,
    run_rewind,
    run_sessions,
    run_upgrade,
)
from cellar.cli.parsing.options import add_connection, add_owner


def add_sessions(commands: Any) -> None:
    """The commands for sessions that are open, whoever has opened them."""
    sessions = commands.add_parser(
        "sessions",
        help="list the open sessions",
        description="List the sessions that are open on the server, of all its clients. Where the "
        "server asks for tokens: those of the token's principal, and of all for an admin.",
        examples=("cellar sessions", "cellar sessions --model prices --idle-for 1h"),
    )
    sessions.add_argument("--model", type=model, metavar="NAME[/VERSION]", help="only of this one")
    sessions.add_argument("--idle-for", type=duration, metavar="TIME", help="idle so long: 90s, 1h")
    add_owner(sessions)
    sessions.set_defaults(run=run_sessions)
    add_connection(sessions)

    close = commands.add_parser(
        "close",
        help="close sessions",
        description="Close sessions of yours, whichever client has opened them; their state is "
        "gone then.",
        examples=("cellar close today", "cellar close --model prices --all --idle-for 1h"),
    )
    close.add_argument("ids", nargs="*", metavar="ID", help="a session's id")
    close.add_argument("--all", action="store_true", help="all sessions of --model")
    close.add_argument("--model", type=model, metavar="NAME[/VERSION]", help="with --all: whose")
    close.add_argument(
        "--idle-for", type=duration, metavar="TIME", help="with --all: idle so long: 90s, 1h"
    )
    add_owner(close)
    close.add_argument("--yes", action="store_true", help="with --all: do not ask")
    close.set_defaults(run=run_close, refuse=close.error)
    add_connection(close)

    reset = commands.add_parser(
        "reset",
        help="put sessions back to their beginning",
        description="Put sessions back to position 0, with their initial state.",
        examples=("cellar reset today",),
    )
    reset.add_argument("ids", nargs="+", metavar="ID", help="a session's id")
    reset.set_defaults(run=run_reset)
    add_connection(reset)

    rewind = commands.add_parser(
        "rewind",
        help="put a session back to an earlier position",
        description="Put a session back to an earlier position, as if it had read no more. The "
        "server has to keep its history, but for the session's last generation.",
        examples=("cellar rewind today --to 1200", "cellar rewind today --steps 10"),
    )
    rewind.add_argument("id", metavar="ID", help="the session's id")
    where = rewind.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", type=whole, metavar="POSITION", help="where it is to stand")
    where.add_argument("--steps", type=whole, metavar="N", help="how many steps are taken back")
    rewind.set_defaults(run=run_rewind)
    add_connection(rewind)

    upgrade = commands.add_parser(
        "upgrade",
        help="let a session go on with another version of its model",
        description="Let a session go on with another version of its model, which reads all that "
        "the session has read. The server has to keep its whole history.",
        examples=("cellar upgrade today", "cellar upgrade today --version 2"),
    )
    upgrade.add_argument("id", metavar="ID", help="the session's id")
    upgrade.add_argument(
        "--version", type=whole, default=0, metavar="N", help="which; the highest by default"
    )
    upgrade.set_defaults(run=run_upgrade)
    add_connection(upgrade)
