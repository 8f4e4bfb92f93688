"""Memory of the host for what many replays in a row are given: none of them is waited for."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from service.engine.execution.cuda.stream.exchange import Exchange
from service.engine.execution.cuda.stream.transfers import ALIGNED, Bytes, CudaError
from service.engine.execution.runtime import View


class Staging:
    """A ring of pinned memory; where it is full, it waits for all that was queued.

    Args:
        size: bytes in all; no piece is larger.
    """

    def __init__(self, exchange: Exchange, size: int) -> None:
        self._exchange = exchange
        self._memory = exchange.transfers.pinned(size)
        self._address = self._memory.ctypes.data
        self._event = exchange.transfers.event()
        self._start = self._stop = 0

    def take(self, size: int) -> Bytes:
        """The next piece of so many bytes, to be filled in and uploaded."""
        size = -(-size // ALIGNED) * ALIGNED
        if self._stop + size > len(self._memory):
            self.wait()
        self._start, self._stop = self._stop, self._stop + size
        return self._memory[self._start : self._stop]

    def upload(self, target: View, start: int, stop: int) -> None:
        """Queue the copy of some bytes of the last piece to where a block begins."""
        source = self._address + self._start
        self._exchange.transfers.to_device(target.address + start, source + start, stop - start)

    @contextmanager
    def waited(self) -> Iterator[None]:
        """Wait for all that is queued inside, whatever becomes of it.

        Raises:
            CudaError: some of it has failed.
        """
        try:
            yield
        except BaseException:
            with suppress(CudaError):  # of the same
                self.wait()
            raise
        self.wait()

    def wait(self) -> None:
        """Wait for all that was queued; its memory is free then.

        Raises:
            CudaError: some of it has failed.
        """
        self._start = self._stop = 0
        self._exchange.transfers.mark(self._event)
        self._exchange.transfers.wait(self._event)


class Returned:
    """Memory of the host for what many replays in a row find; it grows as it is needed."""

    def __init__(self, exchange: Exchange) -> None:
        self._transfers = exchange.transfers
        self._memory = self._transfers.pinned(0)
        self._stop = 0

    def begin(self, size: int) -> None:
        """Have room for so many bytes; what was there is over, and all that was queued done."""
        if size > len(self._memory):
            self._memory = self._transfers.pinned(size)
        self._stop = 0

    def download(self, source: int, size: int) -> Bytes:
        """Queue a copy from an address of the device; what it returns is valid after a wait."""
        piece = self._memory[self._stop : self._stop + size]
        assert len(piece) == size, "`begin` has made room"
        self._transfers.to_host(piece.ctypes.data, source, size)
        self._stop += size
        return piece
