"""Certificates that are read again when their files change: no restart, and nobody is cut off."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from service.tls.files import TlsError, TlsFiles, TlsMaterial, read
from service.watched import mark_of

_log = structlog.get_logger("cellar")
_LOOK_S = 1.0
_REMIND = timedelta(days=1)


class Certificates:
    """What TLS is served with, always as it was last when the files fitted together.

    Args:
        files: where it lies.
        show: called with what is served with from now on, at the start too.

    Attributes:
        current: read it from any thread; another object stands here after a change.

    Raises:
        TlsError: the files cannot be used, or their certificate is not valid now.
    """

    def __init__(self, files: TlsFiles, *, show: Callable[[TlsMaterial], None]) -> None:
        self._files = files
        self._show = show
        self._looked = [mark_of(path) for path in files.paths]
        self.current = read(files)
        if self.current.fault is not None:
            raise TlsError(f"--tls-cert: {files.cert} cannot be served with: {self.current.fault}")
        self._told = ""  # what is wrong with what lies there now
        self._reminded: datetime | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="certificates", daemon=True)
        self._take(self.current, "TLS is on")

    def start(self) -> None:
        """Look at the files once a second from now on, on a thread: they may be on a slow disk."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ending.set()

    def look(self) -> None:
        """Take what is in the files, if that has changed and fits together."""
        self._remind()
        signs = [mark_of(path) for path in self._files.paths]
        if signs == self._looked and not self._told:
            return
        self._looked = signs  # before they are read: what changes meanwhile is seen next time
        try:
            found = read(self._files)
        except TlsError as error:
            self._complain(str(error))
            return
        if found.fault is not None and self.current.fault is None:
            self._complain(f"--tls-cert: {self._files.cert}: {found.fault}")
            return
        self._told = ""
        if found != self.current:
            self._take(found, "certificates are read again")

    def _take(self, found: TlsMaterial, event: str) -> None:
        self.current = found
        self._show(found)
        _log.info(
            event,
            certificate=", ".join(found.certificate.names),
            valid_until=f"{found.ends:%Y-%m-%d %H:%M} UTC",
            client_certificates=found.client_ca is not None,
        )
        if found.key_is_open:
            _log.warning(
                "everybody on this machine may read the key",
                file=str(self._files.key),
                mend="chmod 600",
            )
        self._reminded = None
        self._remind()

    def _remind(self) -> None:
        """Warn once a day of a certificate that ends soon."""
        now = datetime.now(UTC)
        if not self.current.ends_soon:
            return
        if self._reminded is None or now - self._reminded >= _REMIND:
            self._reminded = now
            _log.warning(
                "the certificate has expired"
                if self.current.fault
                else "the certificate ends soon",
                file=str(self._files.cert),
                valid_until=f"{self.current.ends:%Y-%m-%d %H:%M} UTC",
                mend="put a new one in its place: it is read without a restart",
            )

    def _complain(self, reason: str) -> None:
        """Once for each thing that is wrong: a file may be half written, and is looked at again."""
        if reason != self._told:
            self._told = reason
            _log.warning("certificates are left as they were", reason=reason)

    def _keep(self) -> None:
        while not self._ending.wait(_LOOK_S):
            try:
                self.look()
            except Exception:  # the next look may do better
                _log.exception("certificates could not be looked at")
