"""What the process has from whoever started it: its standard files, and signals.

Imports nothing that takes long: it has its say before everything else is imported.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_ENDING = (signal.SIGTERM, signal.SIGINT)
_MOST_DESCRIPTORS = 2**20  # beyond that, programs that go through all of them take long
_HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none


def prepare() -> None:
    """From here on SIGTERM and SIGINT end the process well, and SIGHUP does nothing."""
    _hold_standard_files()
    for number in _ENDING:
        signal.signal(number, _end)
    if _HANG_UP is not None:
        signal.signal(_HANG_UP, signal.SIG_IGN)


def raise_descriptors() -> int | None:
    """Take all descriptors that this process may have: each connection is one.

    Returns:
        How many there may be; ``None`` where nobody knows.
    """
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = _MOST_DESCRIPTORS if hard == unlimited else min(hard, _MOST_DESCRIPTORS)
    if soft != unlimited and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a limit below the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == unlimited else soft


@contextmanager
def signals(*, end: Callable[[], None], hang_up: Callable[[], None]) -> Iterator[None]:
    """While something runs that has to be ended with care; for the main thread.

    The first SIGTERM or SIGINT calls ``end``, another one ends the process at once, whatever it
    is doing. SIGHUP calls ``hang_up``. Both are called between any two instructions.
    """

    def on_end(number: int, frame: Any) -> None:  # noqa: ARG001 (as `signal` calls it)
        for each in _ENDING:
            signal.signal(each, signal.SIG_DFL)
        end()

    def on_hang_up(number: int, frame: Any) -> None:  # noqa: ARG001
        hang_up()

    before = {number: signal.signal(number, on_end) for number in _ENDING}
    if _HANG_UP is not None:
        before[_HANG_UP] = signal.signal(_HANG_UP, on_hang_up)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: Any) -> None:  # noqa: ARG001
    # Nothing is served yet. An exception would have to make its way through whatever is being
    # imported, which may catch it, or print it.
    os._exit(0)


def _hold_standard_files() -> None:
    """Put nothing where a standard file is closed: a connection there would get what is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
