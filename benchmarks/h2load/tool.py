"""h2load, the load tool of nghttp2: where it comes from, how it is run, what it says.

It knows HTTP/2 and nothing of gRPC: a request is the bytes of a framed message, and the status of a
call that failed is read off the headers that it prints.
"""

import base64
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from benchmarks.errors import UnmeasuredError
from benchmarks.processes import ROOT
from benchmarks.triton.install import run

FOLDER = ROOT / ".bench-h2load"
PACKAGES = ("nghttp2-client", "libnghttp2-14", "libjemalloc2", "libev4")
_HEADERS = ("content-type: application/grpc", "te: trailers")
_OUTSTANDING = 1000
"""Calls of one connection: so many that none waits for another, in place of a closed loop."""
_CODES = {str(code.value[0]): code.name for code in grpc.StatusCode}
_TOTALS = re.compile(r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded")


@dataclass(frozen=True, slots=True)
class Tool:
    """h2load as it can be started here."""

    program: str
    environment: Mapping[str, str]


@dataclass(slots=True)
class Heard:
    """What came of some requests.

    Attributes:
        started: requests sent.
        ends: answers by gRPC status.
        milliseconds: how long each answer took, from when its request was sent.
        messages: what refusals said, without numbers.
        retryable: refusals that say when to try again.
    """

    started: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    messages: Counter[str] = field(default_factory=Counter)
    retryable: int = 0

    @property
    def answered(self) -> int:
        """Answers of any kind."""
        return sum(self.ends.values())

    def percentile(self, share: float) -> float:
        """So many percent of the answers came within this many milliseconds."""
        return float(np.percentile(self.milliseconds, share)) if self.milliseconds else 0.0


def find(folder: Path = FOLDER) -> Tool:
    """The one that is installed, or else the system's packages, unpacked beside the sources.

    Raises:
        UnmeasuredError: it cannot be had here.
    """
    installed = shutil.which("h2load")
    if installed is not None:
        return Tool(installed, os.environ)
    program = folder / "usr" / "bin" / "h2load"
    if not program.is_file():
        _unpack(folder)
    libraries = {str(each.parent) for each in folder.rglob("lib*.so.*")}
    found = Tool(str(program), {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)})
    run([found.program, "--version"], "h2load does not start", environment=found.environment)
    return found


def _unpack(folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise UnmeasuredError("there is no h2load, and no apt-get: install nghttp2")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        run(
            ["apt-get", "download", "-o", "APT::Sandbox::User=root", *PACKAGES],
            "h2load cannot be downloaded: run apt-get update, or install nghttp2-client",
            folder=Path(scratch),
        )
        for package in Path(scratch).glob("*.deb"):
            run(["dpkg", "-x", str(package), str(folder)], f"{package.name} cannot be unpacked")


def framed(message: Message) -> bytes:
    """A message as gRPC sends it: not compressed, its length, its bytes."""
    data = message.SerializeToString()
    return b"\0" + struct.pack(">I", len(data)) + data


def drive(
    tool: Tool,
    url: str,
    bodies: Sequence[bytes],
    *,
    seconds: float,
    folder: Path,
    rate: float | None = None,
    streams: int = _OUTSTANDING,
) -> Heard:
    """Send requests for a while, from one process and connection per body, all at once.

    Args:
        tool: h2load.
        url: http://host:port/service/method.
        bodies: framed messages.
        seconds: how long.
        folder: for files on the way.
        rate: requests a second, of all bodies together, sent when they are due whatever has become
            of those before. ``None`` is a closed loop: the next follows the answer to the last.
        streams: calls that one connection has under way at most.

    Raises:
        UnmeasuredError: h2load fails.
    """
    running = []
    for number, body in enumerate(bodies):
        (folder / f"{number}.bin").write_bytes(body)
        with (folder / f"{number}.txt").open("wb") as output:
            command = _command(tool, folder, number, seconds, streams)
            if rate is not None:
                command.append(f"--rps={max(1, round(rate / len(bodies)))}")
            running.append(
                subprocess.Popen([*command, url], env=dict(tool.environment), stdout=output)
            )
    heard = Heard()
    try:
        for number, process in enumerate(running):
            if process.wait(seconds + 60):
                raise UnmeasuredError(f"h2load ended with status {process.returncode}")
            _add(heard, folder, number)
    except subprocess.TimeoutExpired:
        raise UnmeasuredError("h2load did not end") from None
    finally:
        for process in running:
            process.kill()
            process.wait()
    return heard


def _command(tool: Tool, folder: Path, number: int, seconds: float, streams: int) -> list[str]:
    log = folder / f"{number}.log"
    log.unlink(missing_ok=True)
    return [
        tool.program,
        "--verbose",
        f"--duration={seconds:g}",
        "--clients=1",
        f"--max-concurrent-streams={streams}",
        f"--data={folder / f'{number}.bin'}",
        f"--log-file={log}",
        *(f"--header={each}" for each in _HEADERS),
    ]


def _add(heard: Heard, folder: Path, number: int) -> None:
    text = (folder / f"{number}.txt").read_text(errors="replace")
    totals = _TOTALS.search(text)
    if totals is None:
        raise UnmeasuredError("h2load names no totals")
    _, started, done, _ = map(int, totals.groups())
    refused: Counter[str] = Counter()
    for line in text.splitlines():
        name, _, value = line.partition("] ")[2].partition(": ")
        if name == "grpc-status" and value != "0":
            refused[_CODES.get(value, value)] += 1
        elif name == "grpc-message":
            heard.messages[re.sub(r"\d+|'[^']*'", "…", value)] += 1
        elif name == "grpc-status-details-bin":
            heard.retryable += _says_when(value)
    heard.started += max(started, done)
    heard.ends.update(refused)
    heard.ends["OK"] += done - sum(refused.values())
    log = (folder / f"{number}.log").read_text()
    heard.milliseconds += [int(line.split("\t")[2]) / 1000 for line in log.splitlines()]


def _says_when(details: str) -> bool:
    """Whether the details of a status hold a RetryInfo."""
    status = Status.FromString(base64.b64decode(details + "=" * (-len(details) % 4)))
    return any(each.Is(RetryInfo.DESCRIPTOR) for each in status.details)


__all__ = ["FOLDER", "Heard", "Tool", "drive", "find", "framed"]
