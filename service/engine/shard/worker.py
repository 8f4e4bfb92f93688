"""The thread of a shard: runs what it is handed, in order, and says so on the event loop."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import structlog

T = TypeVar("T")

_AGAIN_S = 0.01
_log = structlog.get_logger(__name__)


class Worker:
    """A thread beside an event loop, which must be the running one.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
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
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # the thread serves whoever comes next
                _log.exception("work of a shard's thread failed")
