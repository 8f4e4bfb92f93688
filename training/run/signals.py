"""A wish to stop, by Ctrl-C or SIGTERM, and what becomes of it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def terminating_interrupts() -> Iterator[None]:
    """In here SIGTERM is what Ctrl-C is: a `KeyboardInterrupt`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_wish() -> Iterator[Callable[[], bool]]:
    """Turn the first signal into a wish to stop after the step; the second one interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    wished = False
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def wish(_number: int, _frame: object) -> None:
        nonlocal wished
        wished = True
        restore()

    for number in STOPPING:
        before[number] = signal.signal(number, wish)
    try:
        yield lambda: wished
    finally:
        restore()
