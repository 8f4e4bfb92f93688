"""The server that is hurt: a process which is killed, stopped, starved and started again."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from benchmarks.errors import UnmeasuredError
from benchmarks.processes import ROOT, CellarServer

SERVE_FLAGS = (
    # Far less room than there are sessions: they are evicted, to memory and to the store, and back.
    "--max-sessions=100",
    "--host-memory=256KiB",
    "--max-request-steps=2000",
    "--max-idle-timeout-s=86400",
    "--idle-timeout-s=86400",
    "--drain-timeout-s=3",
    "--drain-delay-s=0",
)
_END_S = 30.0
_UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def has_store() -> bool:
    """Whether this tree's server keeps sessions in a store."""
    command = [sys.executable, "-m", "service.server", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return "--store" in done.stdout


class Server(Protocol):
    """What can be hurt.

    Attributes:
        port: where it serves, once it was started.
        deaths: how servers ended that nobody had asked to, in words.
    """

    port: int
    deaths: list[str]

    async def start(self) -> None:
        """Serve, with what the store has."""

    async def kill(self) -> None:
        """End at once; whatever is not in the store is gone."""

    async def terminate(self) -> None:
        """End in good order."""

    async def pause(self, seconds: float) -> None:
        """Do nothing for so long."""

    async def fill_disk(self, seconds: float) -> None:
        """Have no room for so long."""

    def has_died(self) -> bool:
        """Whether it has ended by itself; remembers how."""

    async def close(self) -> None:
        """End for good."""


class Victim:
    """One server after another, on one port and one store.

    Args:
        models: the repository.
        store: the store's folder; ``None`` for sessions that end with their process.
        durability: of that store.
        flags: more of the command line.

    Attributes:
        port: where it serves.
        deaths: how servers ended that nobody had asked to, in words.
    """

    def __init__(
        self, models: Path, *, store: Path | None, durability: str, flags: tuple[str, ...] = ()
    ) -> None:
        self._models = models
        self._store = store
        self._flags = (*SERVE_FLAGS, *flags)
        if store is not None:
            self._flags += (f"--store=lmdb:{store}", f"--durability={durability}")
        self._server: CellarServer | None = None
        self.port = 0
        self.deaths: list[str] = []

    async def start(self) -> None:
        """Start it, and wait until it serves.

        Raises:
            UnmeasuredError: it does not.
        """
        flags = (*self._flags, f"--port={self.port}")
        self._server = await asyncio.to_thread(CellarServer, self._models, *flags)
        self.port = int(self._server.address.rpartition(":")[2])

    async def kill(self) -> None:
        """SIGKILL: whatever it has not written is gone."""
        await asyncio.to_thread(self._running.close)

    async def terminate(self) -> None:
        """SIGTERM: it has some time to put things in order."""
        try:
            status = await asyncio.to_thread(self._running.terminate, _END_S)
        except UnmeasuredError as error:
            self.deaths.append(str(error))
        else:
            if status:
                self.deaths.append(f"SIGTERM ended it with status {status}")
        await self.kill()

    async def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT so much later."""
        pid = self._running.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def fill_disk(self, seconds: float) -> None:
        """Let no file grow for a while, as on a full disk: RLIMIT_FSIZE of the process."""
        pid = self._running.pid
        sizes = [path.stat().st_size for path in self._files()]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (max(sizes, default=0), _UNLIMITED[1]))
        await asyncio.sleep(seconds)
        with suppress(ProcessLookupError):  # it has ended, and is started anew without a limit
            resource.prlimit(pid, resource.RLIMIT_FSIZE, _UNLIMITED)

    def has_died(self) -> bool:
        """Whether it has ended by itself; remembers how."""
        if self._running.is_running():
            return False
        self.deaths.append(f"it ended by itself: {self.last_words()}")
        return True

    def last_words(self) -> str:
        """The end of what it wrote to its log and to stderr."""
        server = self._running
        lines = [*server.unread()[-3:], *server.errors().strip().splitlines()[-3:]]
        return " | ".join(line.strip()[:300] for line in lines)

    async def close(self) -> None:
        """End it for good."""
        if self._server is not None:
            await self.kill()

    @property
    def _running(self) -> CellarServer:
        assert self._server is not None, "start it first"
        return self._server

    def _files(self) -> list[Path]:
        return [] if self._store is None else [p for p in self._store.rglob("*") if p.is_file()]


__all__ = ["SERVE_FLAGS", "Server", "Victim", "has_store"]
