"""What the kernel says of a process: CPU time, memory, handles, threads. Linux only."""

import os
import time
from pathlib import Path

_PROC = Path("/proc")
_OF_THE_SCHEDULER = 2
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, all its threads, user and system, as the scheduler counts them.

    Raises:
        OSError: there is no such process.
    """
    # The clock's number is what clock_getcpuclockid(3) makes of the process. Not /proc/PID/stat:
    # its ticks of 10 ms are percents of a short round.
    return time.clock_gettime(~pid << 3 | _OF_THE_SCHEDULER)


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and of everything it has started that still runs."""
    return sum(cpu_s(member) for member in tree(pid))


def busy_s() -> float:
    """CPU seconds that all processes of the machine have used, in ticks of 10 ms.

    In a container this counts those beside it too.
    """
    fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return _kib(_PROC / str(pid) / "status", "VmRSS") * 1024


def fds(pid: int) -> int:
    """File descriptors that a process has open."""
    return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())


def threads(pid: int) -> int:
    """Threads of a process."""
    return sum(1 for _ in (_PROC / str(pid) / "task").iterdir())


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    return _kib(_PROC / "meminfo", "MemAvailable") * 1024


def total_bytes() -> int:
    """The machine's memory."""
    return _kib(_PROC / "meminfo", "MemTotal") * 1024


def tree(root: int) -> list[int]:
    """A process and its descendants that still run."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:  # it has ended meanwhile
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is walked
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields after the command's name, which may hold anything: state, parent, ..."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _kib(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise OSError(f"{path} has no {field}")


__all__ = [
    "available_bytes",
    "busy_s",
    "cpu_s",
    "fds",
    "rss_bytes",
    "threads",
    "total_bytes",
    "tree",
    "tree_cpu_s",
]
