"""The real server, in a process of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
AS_MODULE = ("-m", "service.server")
AS_COMMAND = ("-c", "import sys; from cellar.commands import serve; sys.exit(serve())")
START_S = 30.0
"""A start is bounded by this; it takes a second or two."""


def launch(
    *flags: str,
    program: Sequence[str] = AS_MODULE,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Starts ``cellar-serve``, or what plays it; its output is JSON, and piped unless told so.

    It runs on the CPU unless told so, whatever the machine has.
    """
    if not any(flag.startswith("--device") for flag in flags):
        flags = ("--device=cpu", *flags)
    mine = {name: value for name, value in os.environ.items() if not name.startswith("CELLAR_")}
    return subprocess.Popen(
        [sys.executable, *program, "--log-format=json", *flags],
        cwd=ROOT,
        env=mine,
        stdout=stdout,
        stderr=stderr,
        text=True,
    )


class ServerProcess:
    """A server that is serving.

    Attributes:
        process: the process.
        port: where it serves.
        address: host:port.
    """

    def __init__(self, models: Path, *flags: str, program: Sequence[str] = AS_MODULE) -> None:
        """Starts it, and waits until it serves."""
        self._errors = io.StringIO()
        self._events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._ended = False
        self.process = launch(
            f"--models={models}", "--port=0", "--metrics-port=0", *flags, program=program
        )
        self._threads = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        try:
            serving = self.wait_for("serving", START_S)
        except BaseException:
            self.kill()
            raise
        self.port: int = serving["port"]
        self.address = f"127.0.0.1:{self.port}"
        self._metrics = f"http://127.0.0.1:{serving['metrics_port']}/metrics"
        self._browser = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def wait_for(self, event: str, timeout_s: float) -> dict[str, Any]:
        """The log entry with this event, once it has been written."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self._has(event), timeout_s)
            for entry in self._events:
                if entry["event"] == event:
                    return entry
            raise AssertionError(f"no {event!r} in {timeout_s} s; {self._events} {self.errors()}")

    def page(self) -> str:
        """What Prometheus would read."""
        page: str = self._browser.open(self._metrics, timeout=5).read().decode()
        return page

    def metric(self, name: str) -> float:
        """A metric's value; 0 while it has none."""
        for line in self.page().splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def wait_for_metric(self, name: str, at_least: float, timeout_s: float = 10.0) -> None:
        """Waits until a metric has come to a value."""
        give_up = time.monotonic() + timeout_s
        while self.metric(name) < at_least:
            assert time.monotonic() < give_up, f"{name} stays below {at_least}"

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.wait()

    def terminate(self) -> None:
        """SIGTERM."""
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Any signal."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        """The exit status."""
        status = self.process.wait(timeout_s)
        for thread in self._threads:
            thread.join(5)
        return status

    def errors(self) -> str:
        """What it has written to stderr."""
        return self._errors.getvalue()

    def close(self) -> None:
        """Stops it if it runs, and closes the pipes."""
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _has(self, event: str) -> bool:
        return any(entry["event"] == event for entry in self._events)

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._events.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._errors.write(line)


@contextmanager
def running(
    models: Path, *flags: str, program: Sequence[str] = AS_MODULE
) -> Iterator[ServerProcess]:
    """A server for the length of a block."""
    server = ServerProcess(models, *flags, program=program)
    try:
        yield server
    finally:
        server.close()
