"""``cellar move``: a session goes from one server to another."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from contextlib import suppress

from cellar.cli.access import access
from cellar.cli.arguments import UsageError
from cellar.cli.shown import print_json
from cellar.errors import CellarError, SessionMovingError
from cellar.sync.client import Client
from cellar.sync.connecting import connect

_STEPS = {
    "frozen": "it is frozen here, and steps no more",
    "accepted": "the other server can take it",
    "released": "it is released: it never steps here again",
    "opened": "it is open there",
    "closed": "it is closed here",
}


def run_move(client: Client, options: argparse.Namespace) -> None:
    """Move a session to another server, or let one step here again that was to move."""
    if options.cancel:
        client.call_off_move(options.id)
        _tell(options, {"id": options.id, "moved": False}, f"{options.id} steps here again")
        return
    if options.to is None:
        raise UsageError("--to SERVER: name the server that it moves to, or --cancel")
    done: list[str] = []

    def told(step: str) -> None:
        done.append(step)
        if not options.json:
            print(_STEPS[step], flush=True)

    with _target(options) as target:
        try:
            info = client.move_session(options.id, target, name=options.to, told=told)
        except CellarError as error:
            with suppress(OSError):
                print(f"cellar: {_what_now(options, done, error)}", file=sys.stderr)
            raise
    found = {"id": info.id, "moved": True, "server": options.to, "position": info.position}
    _tell(options, found, f"{info.id} is on {options.to}, at position {info.position}")


def _target(options: argparse.Namespace) -> Client:
    own = {
        name: getattr(options, f"to_{name}")
        for name in ("tls", "ca", "cert", "key", "server_name", "token_file", "token")
    }
    own["allow_plaintext_token"] = options.allow_plaintext_token
    own["header"] = options.to_header
    # What the environment says is of the first server, but for who is trusted.
    kept = {name: os.environ[name] for name in ("CELLAR_TLS", "CELLAR_CA") if name in os.environ}
    with access(argparse.Namespace(**own), kept) as given:
        return connect(options.to, timeout_s=options.timeout, **given)


def _what_now(options: argparse.Namespace, done: list[str], error: CellarError) -> str:
    """What to run to go on, or to call it off."""
    line = shlex.join(["cellar", "move", options.id, "--to", options.to])
    back = shlex.join(["cellar", "move", options.id, "--cancel"])
    if isinstance(error, SessionMovingError) and error.move_to:
        line = shlex.join(["cellar", "move", options.id, "--to", error.move_to])
    tail = f"go on with: {line}"
    if "released" not in done:
        tail += f"; or, unless it was released, call it off with: {back}"
    return f"the move is not done: {tail} (and the options of this one)"


def _tell(options: argparse.Namespace, found: dict[str, object], line: str) -> None:
    if options.json:
        print_json(found)
    else:
        print(line)
