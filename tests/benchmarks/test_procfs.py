"""What the kernel says a process has cost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from benchmarks import procfs

BUSY = """
import threading
import time
while time.process_time() < 0.2: pass
print(time.process_time(), flush=True)
input()
"""


def test_own_time_is_what_the_process_itself_counts() -> None:
    before = time.process_time()
    found = procfs.cpu_s(os.getpid())
    assert before <= found <= time.process_time()


def test_the_time_of_another_process_and_of_its_tree() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        counted = float(child.stdout.readline())
        assert counted <= procfs.cpu_s(child.pid) < counted + 0.05
        assert procfs.cpu_s(child.pid) <= procfs.tree_cpu_s(child.pid) < counted + 0.05
        child.communicate("\n")
    with pytest.raises(OSError, match=r"."):
        procfs.cpu_s(child.pid)


def test_handles_and_threads() -> None:
    fds, threads = procfs.fds(os.getpid()), procfs.threads(os.getpid())
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    with open(os.devnull) as _, open(os.devnull) as _:
        assert procfs.fds(os.getpid()) == fds + 2
    assert procfs.threads(os.getpid()) == threads + 1
    waiting.set()
    thread.join()
