"""A server serves and ends well whatever becomes of what it writes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import cellar
from service.healthcheck import is_serving
from tests.e2e.process import AS_MODULE, START_S, launch


@contextmanager
def full_pipe() -> Iterator[int]:
    """A pipe that somebody holds, and does not read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while os.write(writer, bytes(4096)):
            pass
    except BlockingIOError:
        os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


@contextmanager
def closed_pipe() -> Iterator[int]:
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextmanager
def full_disk() -> Iterator[int]:
    """A file that takes nothing."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as file:
        yield file.fileno()


# As ``>&- 2>&-`` in a shell: what is opened next would have the numbers of the standard files.
_CLOSE = """
import os, sys
for number in range(3):
    os.close(number)
os.execv(sys.executable, [sys.executable, "-m", "service.server", *sys.argv[1:]])
"""
CLOSED = ("-c", _CLOSE)


@pytest.mark.parametrize(
    ("place", "how"),
    [
        pytest.param(full_pipe, AS_MODULE, id="full pipe"),
        pytest.param(closed_pipe, AS_MODULE, id="closed pipe", marks=pytest.mark.long),
        pytest.param(full_disk, AS_MODULE, id="full disk", marks=pytest.mark.long),
        pytest.param(closed_pipe, CLOSED, id="closed files"),
    ],
)
def test_a_server_does_not_mind_where_its_log_goes(
    place: Callable[[], AbstractContextManager[int]], how: tuple[str, ...], few_models: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = (f"--models={few_models}", f"--port={address.partition(':')[2]}", "--metrics-port=off")
    with place() as end:
        process = launch(*flags, program=how, stdout=end, stderr=end)
        try:
            give_up = time.monotonic() + START_S
            while not is_serving(address):
                assert process.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.02)
            with cellar.connect(address) as client:
                assert client.session("letters").step("a").position == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


def test_even_a_complaint_that_nobody_reads_ends() -> None:
    with full_pipe() as end:
        process = launch("--colour=red", stdout=subprocess.DEVNULL, stderr=end)
        assert process.wait(50) == 2
