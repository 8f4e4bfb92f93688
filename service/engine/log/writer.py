"""The thread of the journal: what it is handed is done there, one after the other."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
Done = Callable[[Exception | None], None]
"""Is told on the event loop how something ended: the fault, if it has failed."""


class Writer:
    """The thread that all calls on the journal come from."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Callable[[], None], Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def hand(self, job: Callable[[], None], done: Done) -> None:
        """Do something there, and tell the event loop how it ended."""
        self._jobs.put((job, done))

    async def do(self, job: Callable[[], T]) -> T:
        """Do something there, and wait for it."""
        found: asyncio.Future[T] = self._loop.create_future()
        results: list[T] = []

        def done(fault: Exception | None) -> None:
            if found.done():
                return
            if fault is None:
                found.set_result(results[0])
            else:
                found.set_exception(fault)

        self.hand(lambda: results.append(job()), done)
        return await found

    def stop(self) -> None:
        """End once what was handed over is done."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (handed := self._jobs.get()) is not None:
            job, done = handed
            fault: Exception | None = None
            try:
                job()
            except Exception as error:  # whatever it is: it is not known to be done
                fault = error
            with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(done, fault)
