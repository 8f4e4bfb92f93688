"""The thread of a shard: runs what it is handed, in order, and says so on the event loop.

Work that can be begun and ended apart is begun while what was begun before it is under way, so that
a device has its next run when one ends. Knows nothing of what the work is.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import structlog

T = TypeVar("T")

_AGAIN_S = 0.01
_LOOK_S = 50e-6  # between looks at whether work is over, while more may come
_LONG_S = 4 * _LOOK_S  # work that usually takes less is waited for instead
_WEIGHT = 0.1  # of the newest work in what it usually takes
_log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Ahead:
    """Work in two halves: what is next may be begun in between.

    Attributes:
        begin: returns at once.
        is_over: whether ``finish`` would not wait.
        finish: waits for the end of it.
        then: is called on the event loop afterwards.
    """

    begin: Callable[[], None]
    is_over: Callable[[], bool]
    finish: Callable[[], None]
    then: Callable[[], None]
    began_s: float = 0.0


class Worker:
    """A thread beside an event loop, which must be the running one.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | Ahead | None] = queue.SimpleQueue()
        self._usual_s = 0.0  # that work in two halves takes
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def hand(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Do some work after what was handed over before, and then call on the event loop."""

        def job() -> None:
            try:
                work()
            finally:
                self._call(then)

        self._jobs.put(job)

    def hand_ahead(self, work: Ahead) -> None:
        """Do the same with work in two halves; at most two of them are under way at a time."""
        self._jobs.put(work)

    def do(self, work: Callable[[], T]) -> T:
        """Do some work there and wait for it, from another thread than the event loop's.

        Raises:
            BaseException: what the work raised.
        """
        done: Future[T] = Future()

        def job() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        self._jobs.put(job)
        return done.result()

    def stop(self) -> None:
        """End the thread, unless a job is stuck: it then ends with the process."""
        self._jobs.put(None)
        self._thread.join(timeout=5.0)

    def _call(self, then: Callable[[], None]) -> None:
        """Call on the event loop; somebody waits for it, so that it is tried until it is heard."""
        while True:
            try:
                self._loop.call_soon_threadsafe(then)
            except MemoryError:
                time.sleep(_AGAIN_S)
            else:
                return

    def _work(self) -> None:
        under_way: Ahead | None = None
        while True:
            job = self._jobs.get() if under_way is None else self._next_beside(under_way)
            if under_way is not None and not isinstance(job, Ahead):
                self._finish(under_way)
                under_way = None
            if isinstance(job, Ahead):
                job.began_s = time.monotonic()
                self._try(job.begin)
                if under_way is not None:
                    self._finish(under_way)
                under_way = job
            elif job is _NOTHING:
                continue
            elif job is None:
                return
            else:
                self._try(job)

    def _next_beside(self, under_way: Ahead) -> "Callable[[], None] | Ahead | None":
        """The next job, if one comes before the work that is under way is over."""
        looks = self._usual_s >= _LONG_S
        while True:
            try:
                return self._jobs.get_nowait()
            except queue.Empty:
                if not looks or under_way.is_over():
                    return _NOTHING
            # A queue that is waited at for so short a time may be waited at for ever:
            # CPython 3.11, where an item was taken before the waiter has woken up.
            time.sleep(_LOOK_S)

    def _finish(self, work: Ahead) -> None:
        self._try(work.finish)
        self._usual_s += _WEIGHT * (time.monotonic() - work.began_s - self._usual_s)
        self._call(work.then)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # the thread serves whoever comes next
            _log.exception("work of a shard's thread failed")


def _NOTHING() -> None:  # noqa: N802 - a job like any other, which does nothing
    """There is none."""
