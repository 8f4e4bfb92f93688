"""``cellar-serve --check``: what a start would do with these settings, this store, these models.

Listens to nothing and writes nothing: it may run beside the server whose settings it checks.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from models.errors import ModelError
from models.repository import ModelRepository
from service.auth import file as tokens
from service.auth.file import TokenFileError
from service.engine.calls.snapshots.key import SnapshotKeyError, read_key
from service.engine.engine import Engine
from service.engine.execution.devices import choose
from service.engine.execution.runtime import DeviceError
from service.engine.log.recovery.reading import read_store
from service.loading import Loader
from service.metrics import Metrics
from service.settings import Reading
from service.settings.exposure import exposures
from service.store import folder as folders
from service.store.embedded import BALLAST_BYTES, look_for_rest
from service.store.journal.snapshot import JournalSnapshot
from service.store.reading import Snapshot
from service.store.store import Store, StoreError
from service.tls.files import TlsError, TlsFiles
from service.tls.files import read as read_tls
from service.watched import is_open_to_all

_HEADS = ("MODEL", "VERSION", "SERVED", "")


async def check(reading: Reading) -> int:
    """Check all there is and print what was found; returns the exit status: 0 all is well, 1."""
    faults, notes = list[str](), [*reading.warnings]
    settings = reading.settings
    stored = Counter[tuple[str, int, str]]()
    _print_settings(reading)
    if settings.tls_cert is not None and settings.tls_key is not None:
        files = TlsFiles(
            cert=settings.tls_cert, key=settings.tls_key, client_ca=settings.tls_client_ca
        )
        faults += _check_tls(files, notes)
    notes += exposures(settings)
    if settings.tokens is not None:
        try:
            print(f"tokens: {_look_at_tokens(settings.tokens, notes)}")
        except TokenFileError as error:
            faults.append(f"--tokens: {error}")
    if settings.snapshot_key is not None:
        try:
            read_key(settings.snapshot_key)
            print(f"snapshots: signed with the key in {settings.snapshot_key}")
        except SnapshotKeyError as error:
            faults.append(f"--snapshot-key: {error}")
    try:
        told, stored, damage = _look_into(settings.store)
        print(f"store: {told}")
        faults += damage
    except StoreError as error:
        faults.append(f"store: {error}")
    engine = Engine(settings, Metrics())
    executor = ThreadPoolExecutor(max_workers=1)
    try:
        choice = choose(settings.device)
        print(f"device: {', '.join(map(str, choice.places))}")
        if choice.sign is not None:
            notes.append(f"device: there is a GPU ({choice.sign}), unused: {choice.reason}")
        loader = Loader(engine, settings, choice.places, executor)
        most = settings.max_model_bytes
        await loader.load(ModelRepository(settings.models, most_bytes=most))
    except (DeviceError, ModelError, OSError, MemoryError) as error:
        if not engine.registry.unavailable():  # the table has the reasons otherwise
            faults.append(str(error) or "there is not enough memory")
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    faults += _print_models(engine, _short(engine, stored, notes))
    engine.stop()
    for note in notes:
        print(f"note: {note}")
    for fault in faults:
        print(f"fault: {fault}")
    print(_count(len(faults), "fault") if faults else "nothing is wrong")
    return 1 if faults else 0


def _print_settings(reading: Reading) -> None:
    told = reading.told()
    print("settings:" + ("" if told else " as they are by default"))
    for values in told.values():
        for name, value in values.items():
            print(f"  {name} = {_as_given(value)}  ({reading.given[name].origin})")


def _as_given(value: object) -> object:
    """In words that a setting may be given in."""
    if value is None or isinstance(value, bool):
        return "on" if value else "off"
    return value


def _check_tls(files: TlsFiles, notes: list[str]) -> list[str]:
    """Print what TLS would be served with; returns what is wrong with that."""
    try:
        found = read_tls(files)
    except TlsError as error:
        return [f"tls: {error}"]
    names = ", ".join(found.certificate.names) or "nobody"
    print(f"tls: a certificate for {names}, valid until {found.ends:%Y-%m-%d %H:%M} UTC")
    if found.client_ca_ends is not None:
        print(
            f"tls: clients show certificates of {files.client_ca}, "
            f"valid until {found.client_ca_ends:%Y-%m-%d %H:%M} UTC"
        )
    if found.key_is_open:
        notes.append(f"tls: everybody on this machine may read {files.key}: chmod 600")
    if found.fault is not None:
        return [f"tls: --tls-cert: {files.cert} cannot be served with: {found.fault}"]
    if found.ends_soon:
        notes.append(f"tls: the certificate ends soon, at {found.ends:%Y-%m-%d %H:%M} UTC")
    return []


# ---- tokens ----


def _look_at_tokens(path: Path, notes: list[str]) -> str:
    """What is in the file of tokens, as it is now.

    Raises:
        TokenFileError: it cannot be used.
    """
    file, now = tokens.read(path), datetime.now(UTC)
    found = [token for _, token in file.tokens()]
    expired = sum(token.is_expired(now) for token in found)
    if expired == len(found):
        notes.append("tokens: none is valid, so that nobody can call")
    powerless = [name for name, each in file.principals.items() if each.tokens and not each.roles]
    if powerless:
        notes.append(
            f"tokens: {', '.join(powerless[:3])} may do nothing ({len(powerless)} without a role): "
            "cellar-serve token set NAME --role ROLE"
        )
    if is_open_to_all(path):
        notes.append(f"tokens: everybody on this machine may read {path}: chmod o= {path}")
    told = f"{_count(len(file.principals), 'principal')}, {_count(len(found), 'token')}"
    return f"{path}: {told}, {expired} of them expired"


# ---- models ----


def _print_models(engine: Engine, short: dict[str, str]) -> list[str]:
    """A row for each model; returns what is wrong with them, a line each."""
    rows: list[Sequence[str]] = [_HEADS]
    registry, faults = engine.registry, list[str]()
    for served in registry.all():
        label = f"{served.name}/{served.version}"
        facts = [f"{served.manifest.session_bytes:,} bytes per session"]
        if served.usage.capacity:
            facts.insert(0, f"{served.usage.capacity:,} sessions")
        if registry.default_version(served.name) == served.version:
            facts.append("default version")
        rows.append((served.name, str(served.version), "yes", ", ".join(facts)))
        if label in short:
            faults.append(f"{label}: {short[label]}")
    for missing in registry.unavailable():
        number = str(missing.version or "?")
        rows.append((missing.name, number, "no", missing.reason))
        faults.append(f"{missing.name}/{number}: it cannot be served")
    for name, version, others in registry.missing_defaults():
        faults.append(
            f"{name}/{version} is the version of who names none, and they are refused; there are "
            f"{', '.join(map(str, others))}"
        )
    if len(rows) > 1:
        widths = [max(len(row[at]) for row in rows) for at in range(3)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
            print("  ".join([*cells, row[3]]).rstrip())
    return faults


def _short(
    engine: Engine, stored: Counter[tuple[str, int, str]], notes: list[str]
) -> dict[str, str]:
    """By model, why the sessions of the store have no room; who has no model is noted."""
    short, strangers = dict[str, str](), 0
    served = {(one.name, one.version, one.fingerprint): one for one in engine.registry.all()}
    for key, count in stored.items():
        found = served.get(key)
        if found is None:
            strangers += count
        elif count > found.usage.capacity:
            short[f"{key[0]}/{key[1]}"] = (
                f"the store has {count:,} sessions of it, and there is room for "
                f"{found.usage.capacity:,}: raise --max-open-sessions"
            )
    if strangers:
        notes.append(f"store: {strangers:,} sessions are of models that would not be served")
    return short


# ---- the store ----


class _Readable:
    """What `read_store` asks of a store, of one that a server may be writing."""

    def __init__(self, journal: JournalSnapshot, table: Snapshot) -> None:
        self._journal = journal
        self._rows = dict(table.items())

    def groups(self, first: int = 0) -> Iterator[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []  # all of it, as a server may let go of its beginning
        for group in self._journal.groups(forget=found.clear):
            if group.number >= first:
                found.append((group.number, group.data))  # noqa: PERF401 (which cannot forget)
        return iter(found)

    def rows(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return ((key, row) for key, row in self._rows.items() if key.startswith(prefix))

    def row(self, key: bytes) -> bytes | None:
        return self._rows.get(key)


def _look_into(store: str) -> tuple[str, Counter[tuple[str, int, str]], list[str]]:
    """What is in the store that is set, and its sessions by model, version and fingerprint.

    What is damaged in it comes with that, a line each: a server starts without it.

    Raises:
        StoreError: it cannot be used.
    """
    kind, _, name = store.partition(":")
    if kind != "lmdb":
        return "memory: sessions end with the server", Counter(), []
    path = Path(name)
    if not folders.is_store(path):
        parent = path if path.is_dir() else path.absolute().parent
        if not parent.is_dir():
            raise StoreError(
                f"{path} cannot be made: there is no {parent}; make it, or name another path"
            )
        if not os.access(parent, os.W_OK | os.X_OK):
            raise StoreError(f"{path} cannot be made: {parent} is not to be written to")
        look_for_rest(path)
        _check_room(path)
        return f"{path}: there is none yet, and it would be made", Counter(), []
    if not os.access(path, os.W_OK | os.X_OK):
        raise StoreError(f"{path} is not to be written to: run as the owner of the store")
    _check_room(path)
    with ExitStack() as opened:
        journal = opened.enter_context(JournalSnapshot(path / folders.JOURNAL))
        table = opened.enter_context(Snapshot(path / folders.TABLE))
        found = read_store(cast(Store, _Readable(journal, table)))
    sessions = found.sessions.values()
    damaged, damage = sum(one.is_damaged for one in sessions), list[str]()
    if found.damaged_groups or damaged:
        groups = _count(found.damaged_groups, "group")
        damage.append(
            f"store: {groups} of its journal and {_count(damaged, 'session')} are damaged, and "
            "would be left out: see cellar-store verify"
        )
    rows = (one.row for one in sessions)
    return (
        f"{path}: {_count(len(sessions), 'session')}",
        Counter((row.model, row.version, row.fingerprint) for row in rows),
        damage,
    )


def _check_room(path: Path) -> None:
    folders.check_room(path, folders.Ballast(path, BALLAST_BYTES).missing)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
