"""``cellar-store``: look into a store, check it, compact it, copy it.

Knows how keys begin (docs/store-format.md); all but ``compact`` work beside a running server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import shtab

from service.store import folder as folders
from service.store import records
from service.store.embedded import TABLE_MAP, LmdbStore
from service.store.environment import Environment
from service.store.folder import JOURNAL, TABLE, Ballast
from service.store.journal.disk import Folder
from service.store.journal.reading import Group
from service.store.journal.snapshot import JournalSnapshot
from service.store.reading import Snapshot
from service.store.store import StoreError

EXIT_FAILED = 1

_KINDS = {b"s": "sessions", b"c": "checkpoints", b"i": "initial states", b"m": "meta"}
_NUMBERED = (b"s", b"c", b"i")
_COLUMNS = ("number", "id", "model", "version", "seed", "owner")
_SECRETS = ("move_secret",)  # of a session, that nobody is to read off a screen
_BATCH_BYTES = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 1 where the store is damaged or cannot be used."""
    given = vars(_parser().parse_args(arguments))
    del given["command"], given["print_completion"]
    run = given.pop("run")
    try:
        return int(run(**given))
    except StoreError as error:
        print(f"cellar-store: {error}", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
    return EXIT_FAILED


def _folder(given: str) -> Path:
    return Path(given.removeprefix("lmdb:"))  # as --store of the server has it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cellar-store", description="Look into the store of a Cellar server, and keep it well."
    )
    version = next((each.version for each in distributions(name="cellar")), "not installed")
    parser.add_argument("--version", action="version", version=f"cellar-store {version}")
    shtab.add_argument_to(parser, ["--print-completion"], help="print a script for this shell")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary)
        added.add_argument("path", type=_folder, metavar="PATH", help="the folder of the store")
        added.set_defaults(run=run)
        return added

    listing = command("list", _list, "what is in a store; works beside a running server")
    listing.add_argument("--json", action="store_true", dest="as_json", help="as one JSON document")
    command("verify", _verify, "read all of a store; exits with 1 and names what is damaged")
    command("compact", _compact, "leave nothing that was deleted; not beside a running server")
    backup = command("backup", _backup, "copy a store; works beside a running server")
    backup.add_argument("to", type=_folder, metavar="TO", help="a folder: new, or empty")
    return parser


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What a journal holds, as far as it was read.

    Attributes:
        groups: How many.
        bytes: Of them.
        first: The number of the first one.
        last: That of the last one.
        damages: What is wrong with them, if anybody looked.
    """

    groups: int = 0
    bytes: int = 0
    first: int | None = None
    last: int | None = None
    damages: list[str] = field(default_factory=list)

    def add(self, group: Group) -> None:
        """One more."""
        self.groups += 1
        self.bytes += len(group.data)
        self.first = group.number if self.first is None else self.first
        self.last = group.number

    def forget(self) -> None:
        """It holds none of them any more."""
        self.groups = self.bytes = 0
        self.first = self.last = None
        self.damages.clear()


# ---- list ----


def _list(path: Path, *, as_json: bool) -> int:
    told: dict[str, Any] = {"path": os.fspath(path), "format": folders.VERSION}
    seen = _Seen()
    with _journal(path) as journal:
        for group in journal.groups(forget=seen.forget):
            seen.add(group)
    told[JOURNAL] = {
        "bytes": seen.bytes,
        "disk_bytes": _disk_bytes(path, JOURNAL),
        "groups": seen.groups,
        "first": seen.first,
        "last": seen.last,
    }
    counts = dict.fromkeys((*_KINDS.values(), "other"), 0)
    sessions = []
    with _table(path) as table:
        for key, value in table.items():
            kind = _KINDS.get(key[:1], "other")
            counts[kind] += 1
            if kind == "sessions":
                sessions.append({"number": int.from_bytes(key[1:]), **_session(value)})
        sizes = {"bytes": table.held_bytes, "disk_bytes": _disk_bytes(path, TABLE)}
        told[TABLE] = {**sizes, **counts}
    told["sessions"] = sessions
    if as_json:
        print(json.dumps(told))
    else:
        _print(told)
    return 0


def _session(value: bytes) -> dict[str, Any]:
    try:
        sections = records.unpack(value)
    except records.DamagedError as error:
        sections = error.sections
    except records.NewerError:
        sections = []
    found = next((each for each in sections if each.kind == "session"), None)
    if found is None:
        return {"damaged": True}
    return {name: fact for name, fact in found.meta.items() if name not in _SECRETS}


def _print(told: dict[str, Any]) -> None:
    journal, table = told[JOURNAL], told[TABLE]
    span = f", {journal['first']} to {journal['last']}" if journal["groups"] else ""
    print(f"{told['path']}: a store of format {told['format']}")
    print(f"journal: {journal['groups']:,} groups{span}; {_mib(journal)}")
    counts = ", ".join(f"{table[kind]:,} {kind}" for kind in (*_KINDS.values(), "other"))
    print(f"table: {counts}; {_mib(table)}")
    if not told["sessions"]:
        return
    rows = [_COLUMNS, *([_cell(each, name) for name in _COLUMNS] for each in told["sessions"])]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_COLUMNS))]
    for row in rows:
        cells = zip(row, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


def _cell(session: dict[str, Any], name: str) -> str:
    text = str(session.get(name, "(damaged)" if "damaged" in session and name == "id" else ""))
    # Callers choose ids: none of them may move the cursor of a terminal.
    return text if text.isprintable() else ascii(text)


def _mib(sizes: dict[str, int]) -> str:
    return f"{sizes['bytes'] / 2**20:,.1f} MiB, {sizes['disk_bytes'] / 2**20:,.1f} MiB on disk"


# ---- verify ----


def _verify(path: Path) -> int:
    rows = 0
    seen = _Seen()
    damages = seen.damages
    with _journal(path) as journal:
        for group in journal.groups(forget=seen.forget):
            seen.add(group)
            if damage := _damage_of_group(group):
                damages.append(f"group {group.number}: {damage}")
    with _table(path) as table:
        for key, value in table.items():
            rows += 1
            if damage := _damage_of_row(key, value):
                damages.append(f"{_named(key)}: {damage}")
    if journal.torn is not None:
        print(
            f"group {journal.torn.number}: it was being written ({journal.torn.length:,} bytes are "
            "there), and is no damage unless the disk has lost what it had"
        )
    for line in damages:
        print(line)
    print(f"{seen.groups:,} groups and {rows:,} rows read, {len(damages):,} damaged")
    return EXIT_FAILED if damages else 0


def _damage(value: bytes) -> str | None:
    try:
        records.unpack(value)
    except (records.DamagedError, records.NewerError) as error:
        return str(error)
    return None


def _damage_of_group(group: Group) -> str | None:
    # What unpacks it knows better which part of it is damaged.
    found = _damage(group.data) if group.data or not group.problem else None
    return found or group.problem


def _damage_of_row(key: bytes, value: bytes) -> str | None:
    if key[:1] in _NUMBERED:
        return "its number has not 8 bytes" if len(key) != 9 else _damage(value)
    # Meta may be plain text.
    return _damage(value) if value.startswith(records.MAGIC) else None


def _named(key: bytes) -> str:
    if key[:1] in _NUMBERED and len(key) == 9:
        return f"row of {_KINDS[key[:1]][:-1]} {int.from_bytes(key[1:])}"
    return f"row {key!r}"


# ---- compact ----


def _compact(path: Path) -> int:
    store = LmdbStore.open(path, create=False)
    try:
        before = _disk_bytes(path, JOURNAL, TABLE)
        store.compact()
        after = _disk_bytes(path, JOURNAL, TABLE)
        print(f"{before / 2**20:,.1f} MiB on disk before, {after / 2**20:,.1f} MiB after")
    finally:
        store.close()
    return 0


def _disk_bytes(path: Path, *names: str) -> int:
    taken = 0
    for name in names:
        for file in (path / name).glob("*"):
            # A server that drops or compacts may take it away.
            with suppress(FileNotFoundError):
                taken += file.stat().st_blocks * 512
    return taken


# ---- backup ----


def _backup(path: Path, to: Path) -> int:
    _check(path)
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise StoreError(f"{to} is not empty: name a folder that is new, or empty")
    folders.make_folder(to)
    try:
        # The journal first: what a server drops from it in between is in the table by then.
        (to / JOURNAL).mkdir(folders.FOLDER_MODE)
        with _journal(path) as journal:
            journal.copy(Folder(to / JOURNAL))
        _copy_table(path, to)
        folders.write_format(to)
    except BaseException as error:
        # The folder itself was perhaps there before.
        for left in list(to.iterdir()):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if isinstance(error, OSError):
            raise folders.refusal(to, error) from error
        raise
    print(f"copied {path} to {to}")
    return 0


def _copy_table(path: Path, to: Path) -> None:
    copied = Environment(to / TABLE, map_bytes=TABLE_MAP, ballast=Ballast(to, 0))
    try:
        with _table(path) as snapshot:
            for batch in _batches(snapshot):
                copied.write(batch, ascending=True)
    finally:
        copied.close()
    folders.sync_folder(to / TABLE)


def _batches(snapshot: Snapshot) -> Iterator[list[tuple[bytes, bytes]]]:
    batch: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in snapshot.items():
        batch.append((key, value))
        size += len(value)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _journal(path: Path) -> JournalSnapshot:
    _check(path)
    return JournalSnapshot(path / JOURNAL)


def _table(path: Path) -> Snapshot:
    _check(path)
    return Snapshot(path / TABLE)


def _check(path: Path) -> None:
    if not folders.is_store(path):
        raise StoreError(f"there is no store at {path}: name the folder of one")


if __name__ == "__main__":
    sys.exit(main())
