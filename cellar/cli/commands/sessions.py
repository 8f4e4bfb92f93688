"""``cellar sessions``, ``close``, ``reset``, ``rewind``, ``upgrade``: a server's sessions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import Any

from rich.cells import cell_len

from cellar.cli.shown import print_json, told
from cellar.errors import CellarError, SessionNotFoundError, StaleBranchError
from cellar.sync.client import Client
from cellar.values.model_info import SessionInfo

_ROWS_AT_ONCE = 1000  # printed before the next page is asked for
_CLOSED_AT_ONCE = 8
_HEADINGS = (
    "id",
    "model",
    "version",
    "status",
    "position",
    "opened",
    "last used",
    "idle timeout",
    "ends with",
    "tier",
    "owner",
    "branch",
)
_NUMBERS = {"version", "position", "branch"}


def run_sessions(client: Client, options: argparse.Namespace) -> None:
    """List the open sessions."""
    found = _listed(client, options)
    if options.json:
        print_json([_json(info) for info in found])
        return
    widths = [len(heading) for heading in _HEADINGS]
    first = True
    while page := [_row(info) for info in islice(found, _ROWS_AT_ONCE)]:
        widths = [
            max(width, *map(cell_len, column))
            for width, column in zip(widths, zip(*page, strict=True), strict=True)
        ]
        if first:
            print(_line(_HEADINGS, widths))
            first = False
        for row in page:
            print(_line(row, widths))
    if first:
        print("no sessions" if options.idle_for is None else "no sessions that are idle so long")


def run_close(client: Client, options: argparse.Namespace) -> None:
    """Close sessions."""
    if bool(options.ids) == options.all:
        options.refuse("name sessions, or say --model NAME --all")
    if options.all and options.model is None:
        options.refuse("--all needs --model NAME: whose sessions are to be closed")
    if not options.all and (options.model or options.idle_for is not None or options.yes):
        options.refuse("--model, --idle-for and --yes go with --all")
    if not options.all:
        _for_each(options.ids, lambda name: _closed(client, name, options))
        return
    found = list(_listed(client, options))
    if found and not options.yes and sys.stdin.isatty():
        print(f"close {_count(len(found))} of {_label(options.model)}? [y/N] ", end="")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was closed")
            return
    with ThreadPoolExecutor(_CLOSED_AT_ONCE) as pool:
        closed = sum(pool.map(lambda info: _close_if_same(client, info), found))
    gone = len(found) - closed
    if options.json:
        print_json({"closed": closed, "gone": gone})
        return
    print(f"closed {_count(closed)}" + (f"; {_count(gone)} gone already" if gone else ""))


def run_reset(client: Client, options: argparse.Namespace) -> None:
    """Put sessions back to their beginning."""

    def reset(name: str) -> None:
        info = client.reset_session(name)
        if options.json:
            print_json(_json(info))
        else:
            print(f"{name} is at position {info.position}")

    _for_each(options.ids, reset)


def run_rewind(client: Client, options: argparse.Namespace) -> None:
    """Put a session back to an earlier position."""
    info = client.attach(options.id).rewind(position=options.to, steps=options.steps)
    if options.json:
        print_json(_json(info))
    else:
        print(f"{info.id} is at position {info.position}")


def run_upgrade(client: Client, options: argparse.Namespace) -> None:
    """Let a session go on with another version of its model."""
    info = client.attach(options.id).upgrade(version=options.version)
    if options.json:
        print_json(_json(info))
    else:
        print(f"{info.id} is a session of {info.model} {info.version}, at position {info.position}")


def _closed(client: Client, name: str, options: argparse.Namespace) -> None:
    position = client.close_session(name, owner=options.owner)
    if options.json:
        print_json({"id": name, "position": position})
    else:
        print(f"{name} is closed" + ("" if position is None else f", at position {position}"))


def _close_if_same(client: Client, info: SessionInfo) -> bool:
    """Closes a session that was listed, unless it has ended since or begun anew."""
    try:
        client.close_session(info.id, branch=info.branch, owner=info.owner)
    except (SessionNotFoundError, StaleBranchError):
        return False
    return True


def _for_each(names: Iterable[str], do: Any) -> None:
    """Does it for all, whatever fails.

    Raises:
        CellarError: the last failure; those before it were printed.
    """
    failed: CellarError | None = None
    for name in names:
        try:
            do(name)
        except CellarError as error:
            if failed is not None:
                print(f"cellar: {told(failed)}", file=sys.stderr)
            failed = error
    if failed is not None:
        raise failed


def _listed(client: Client, options: argparse.Namespace) -> Iterator[SessionInfo]:
    name, version = options.model or ("", 0)
    return client.list_sessions(
        name, version=version, idle_for_s=options.idle_for, owner=options.owner
    )


def _row(info: SessionInfo) -> list[str]:
    return [
        info.id,
        info.model,
        str(info.version),
        str(info.status),
        str(info.position),
        _time(info.open_time),
        _time(info.last_used_time),
        _duration(info.idle_timeout_s),
        "its stream" if info.ephemeral else "",
        str(info.tier),
        info.owner,
        str(info.branch),
    ]


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    line = []
    for heading, cell, width in zip(_HEADINGS, cells, widths, strict=True):
        room = " " * (width - cell_len(cell))
        line.append(room + cell if heading in _NUMBERS else cell + room)
    return "  ".join(line).rstrip()


def _json(info: SessionInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "model": info.model,
        "version": info.version,
        "status": info.status,
        "position": info.position,
        "open_time": info.open_time.isoformat(),
        "last_used_time": info.last_used_time.isoformat(),
        "idle_timeout_s": info.idle_timeout_s,
        "ephemeral": info.ephemeral,
        "owner": info.owner,
        "tier": info.tier,
        "branch": info.branch,
        "history_position": info.history_position,
    }


def _count(sessions: int) -> str:
    return f"{sessions:,} session" + ("" if sessions == 1 else "s")


def _time(when: datetime) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _label(model: tuple[str, int]) -> str:
    name, version = model
    return f"{name}/{version}" if version else name
