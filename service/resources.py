"""What the settings name and the machine has: descriptors, certificates, keys, tokens, stores."""

import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from service import process
from service.auth.access import Access
from service.auth.file import TokenFileError
from service.engine.calls.snapshots.key import SnapshotKey, SnapshotKeyError
from service.metrics import Metrics
from service.rpc.connections import most_connections
from service.settings import Settings
from service.store.embedded import LmdbStore
from service.store.journal.segments import SEGMENT_BYTES
from service.store.store import Store
from service.tls.files import TlsFiles
from service.tls.reloading import Certificates

_log = structlog.get_logger("cellar")


def room_for_connections(settings: Settings) -> int:
    """How many connections there may be, once all descriptors that may be had are taken."""
    descriptors = process.raise_descriptors()
    room = most_connections(settings.max_connections, descriptors)
    if room < settings.max_connections:
        _log.warning(
            "there are descriptors for fewer connections",
            max_connections=room,
            asked=settings.max_connections,
            descriptors=descriptors,
            mend="raise the limit: LimitNOFILE, --ulimit nofile, or ulimit -n",
        )
    return room


def certificates_of(settings: Settings, metrics: Metrics) -> Certificates | None:
    """What TLS is served with; ``None``: there is no TLS.

    Raises:
        TlsError: the files cannot be used.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    files = TlsFiles(cert=settings.tls_cert, key=settings.tls_key, client_ca=settings.tls_client_ca)
    return Certificates(files, show=metrics.show_certificates)


def open_access(settings: Settings, metrics: Metrics) -> Access | None:
    """Who may call; ``None``: everybody.

    Raises:
        TokenFileError: the file of tokens cannot be used.
    """
    if settings.tokens is None:
        return None
    try:
        access = Access(settings.tokens, counts=metrics.authentications.counts)
    except TokenFileError as error:
        raise TokenFileError(f"--tokens: {error}") from error
    metrics.tokens_file_ok.set_function(lambda: access.is_sound)
    return access


def snapshot_key_of(settings: Settings) -> Callable[[], bytes | None]:
    """What says with which key snapshots are signed now; ``None``: with none.

    Raises:
        SnapshotKeyError: the file of the key cannot be used.
    """
    if settings.snapshot_key is None:
        return lambda: None
    try:
        return SnapshotKey(settings.snapshot_key).now
    except SnapshotKeyError as error:
        raise SnapshotKeyError(f"--snapshot-key: {error}") from error


def open_store(settings: Settings) -> Store | None:
    """Where sessions are kept; ``None``: nowhere.

    Raises:
        StoreError: it cannot be used.
    """
    kind, _, path = settings.store.partition(":")
    if kind != "lmdb":
        return None
    # What is let go leaves the disk a segment at a time.
    segment_bytes = min(SEGMENT_BYTES, max(1 << 20, settings.journal_bytes // 16))
    return LmdbStore.open(Path(path), segment_bytes=segment_bytes)


def show_disk(metrics: Metrics, store: str) -> None:
    """Let metrics tell whenever they are read what is free on the disk of a store."""
    kind, _, path = store.partition(":")
    metrics.store_free_bytes.labels(kind).set_function(lambda: shutil.disk_usage(path).free)
