"""Where a server listens: a port, or a socket file of this machine."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

_UNIX = "unix:"
_MOST_BYTES = 107  # of a socket's path; the system has room for no more


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen.

    Args:
        host: an address of this machine, or "unix:PATH".
        port: 0 lets the system choose; a socket file has none.
    """

    host: str
    port: int

    def __str__(self) -> str:
        """What gRPC is told."""
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def path(self) -> Path | None:
        """The socket file, if it is one."""
        if not self.host.startswith(_UNIX):
            return None
        return Path(self.host.removeprefix(_UNIX).replace("///", "/", 1))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name that is not known here is not."""
        if self.path is not None:
            return True
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return False
        return all(ip_address(address[0]).is_loopback for *_, address in found)

    def check_free(self) -> None:
        """Say why it cannot be had: gRPC's core writes that to stderr, and tells nobody.

        The socket file of a server that has died is removed.

        Raises:
            OSError: it is somebody's, or cannot be at all.
        """
        try:
            if self.path is not None:
                _check_socket(self.path)
            else:
                family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
                socket.create_server((self.host, self.port), family=family).close()
        except OSError as error:
            reason = (error.strerror or str(error)).partition(" (while")[0]
            raise OSError(f"cannot listen on {self}: {reason}") from error

    @contextmanager
    def binding(self) -> Iterator[None]:
        """For the moment in which gRPC makes the file: who may connect is who may write.

        That is the owner, and the group where the umask lets groups write.
        """
        if self.path is None:
            yield
            return
        before = os.umask(0o177)
        try:
            if not before & stat.S_IWGRP:
                os.umask(0o117)
            yield
        finally:
            os.umask(before)

    def id_of_file(self) -> int | None:
        """Tells the socket file from one that another server has put in its place."""
        with suppress(OSError):
            return None if self.path is None else self.path.stat().st_ino
        return None

    def remove(self, id_of_file: int | None) -> None:
        """Remove the socket file, if it still is that one."""
        if self.path is not None and id_of_file is not None and self.id_of_file() == id_of_file:
            self.path.unlink(missing_ok=True)


def _check_socket(path: Path) -> None:
    if len(os.fsencode(path)) > _MOST_BYTES:
        raise OSError(f"the path has more than {_MOST_BYTES} bytes: choose a shorter one")
    if not path.parent.is_dir():
        raise OSError(f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OSError(f"the folder {path.parent} may not be written")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError("there is a file that is no socket: remove it, or choose another path")
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except FileNotFoundError:
            return
        except (TimeoutError, BlockingIOError):
            pass  # somebody listens, and has much to do
    raise OSError("another server listens there: stop it, or choose another path")
