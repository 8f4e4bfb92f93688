"""What the stand-in has traced, in the process that runs over it.

`count` is the way in. It works only where the stand-in is loaded in CUDA's stead: see `process`.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import cache
from typing import Any

from tests.standin.build import RUNTIME


class Kind(IntEnum):
    """What was called. In step with ``cuda/standin.h``."""

    TO_DEVICE = 0
    TO_HOST = 1
    ON_DEVICE = 2
    ON_HOST = 3
    SET = 4
    LAUNCH = 5
    GRAPH_LAUNCH = 6
    WAIT = 7
    QUERY = 8
    ALLOCATE = 9
    FREE = 10
    BEGIN_CAPTURE = 11
    END_CAPTURE = 12
    INSTANTIATE = 13
    RACE = 14
    HANDLE = 15


class Flag(IntFlag):
    """How. In step with ``cuda/standin.h``."""

    ASYNC = 1
    PAGEABLE = 2
    CAPTURED = 4
    REPLAYED = 8
    ILLEGAL = 16
    ESCAPED = 32


COPIES = (Kind.TO_DEVICE, Kind.TO_HOST, Kind.ON_DEVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One call: see ``Event`` in ``cuda/standin.h``."""

    kind: Kind
    flags: Flag
    bytes: int
    stream: int
    thread: int
    name: str

    def __str__(self) -> str:
        flags = "|".join(str(flag.name) for flag in self.flags)
        return f"{self.kind.name} {self.name} of {self.bytes} on {self.stream:#x} {flags}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What some work has called.

    Attributes:
        h2d: copies to the device, those inside of replayed graphs included.
        d2h: copies to the host, likewise.
        d2d: copies from device to device, likewise.
        pageable: asynchronous copies from or to memory that is not pinned: they wait.
        waits: for a stream, an event or the device, and copies that are not asynchronous.
        launches: of kernels and products, those inside of graphs not included.
        graph_launches: of recordings.
        graph_nodes: in all graphs that were launched.
        recorded: graphs that were made.
        allocations: of memory, device's or pinned.
        streams: on which something ran.
        handles: of cuBLAS that were made.
        copies: the sizes of all copies, in bytes, each once.
        illegal: calls that CUDA would refuse, above all while it records; and work that a thread
            which records does on another stream, so that no replay does it.
        races: copies whose source was written to before they were done.
    """

    h2d: int = 0
    h2d_bytes: int = 0
    d2h: int = 0
    d2h_bytes: int = 0
    d2d: int = 0
    d2d_bytes: int = 0
    pageable: int = 0
    waits: int = 0
    launches: int = 0
    graph_launches: int = 0
    graph_nodes: int = 0
    recorded: int = 0
    allocations: int = 0
    streams: int = 0
    handles: int = 0
    copies: tuple[int, ...] = ()
    illegal: tuple[str, ...] = ()
    races: int = 0


def count(work: Callable[[], object]) -> Counts:
    """Do something, and say what it called."""
    clear()
    work()
    return counted(take())


def counted(events: list[Event]) -> Counts:
    """The same of calls that were taken."""
    bad = [event for event in events if event.flags & (Flag.ILLEGAL | Flag.ESCAPED)]
    done = [event for event in events if not event.flags & (Flag.CAPTURED | Flag.ILLEGAL)]
    by_kind = {kind: [event for event in done if event.kind is kind] for kind in Kind}
    copies = [event for kind in COPIES for event in by_kind[kind]]
    synchronous = [event for event in copies if not event.flags & Flag.ASYNC]
    ran = [*copies, *by_kind[Kind.LAUNCH], *by_kind[Kind.GRAPH_LAUNCH]]
    numbers: dict[str, Any] = {}
    for name, kind in zip(("h2d", "d2h", "d2d"), COPIES, strict=True):
        numbers[name] = len(by_kind[kind])
        numbers[f"{name}_bytes"] = sum(event.bytes for event in by_kind[kind])
    return Counts(
        **numbers,
        pageable=sum(bool(e.flags & Flag.ASYNC and e.flags & Flag.PAGEABLE) for e in copies),
        waits=len(by_kind[Kind.WAIT]) + len(synchronous),
        launches=len(by_kind[Kind.LAUNCH]),
        graph_launches=len(by_kind[Kind.GRAPH_LAUNCH]),
        graph_nodes=sum(event.bytes for event in by_kind[Kind.GRAPH_LAUNCH]),
        recorded=len(by_kind[Kind.INSTANTIATE]),
        allocations=len(by_kind[Kind.ALLOCATE]),
        streams=len({event.stream for event in ran}),
        handles=len(by_kind[Kind.HANDLE]),
        copies=tuple(sorted({event.bytes for event in copies})),
        illegal=tuple(map(str, bad)),
        races=len(by_kind[Kind.RACE]),
    )


def clear() -> None:
    """Forget what was traced."""
    _library().standin_clear()


def take() -> list[Event]:
    """All calls since `clear`."""
    size = _library().standin_take(None, 0)
    found = (_Event * size)()
    size = min(_library().standin_take(found, size), size)
    return [
        Event(
            kind=Kind(event.kind),
            flags=Flag(event.flags),
            bytes=event.bytes,
            stream=event.stream,
            thread=event.thread,
            name=event.name.decode(errors="replace"),
        )
        for event in found[:size]
    ]


def fail(code: int, *, after: int = 0) -> None:
    """Have the device fail for good, after some further launches; code 0 mends it."""
    _library().standin_fail(after, code)


class _Event(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("flags", ctypes.c_int32),
        ("bytes", ctypes.c_int64),
        ("stream", ctypes.c_uint64),
        ("thread", ctypes.c_int64),
        ("name", ctypes.c_char_p),
    )


@cache
def _library() -> Any:
    library = ctypes.CDLL(RUNTIME)
    library.standin_clear.restype = library.standin_take.restype = ctypes.c_long
    library.standin_take.argtypes = [ctypes.c_void_p, ctypes.c_long]
    library.standin_fail.argtypes = [ctypes.c_long, ctypes.c_int]
    return library
