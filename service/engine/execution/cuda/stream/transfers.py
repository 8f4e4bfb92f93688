"""Copies between the host and a device, queued on one stream, and one wait for all of them.

ONNX Runtime copies too, but waits for each: a run that is given several things and finds several
would wait for each of them. The wait lets go of the GIL, and what only queues does not: it returns
within microseconds, and who has let go may have to ask others for it much longer. Knows nothing of
what is copied.
"""

import ctypes
import os
import sys
import weakref
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.execution.runtime import DeviceError, Place

Bytes = NDArray[np.uint8]

ALIGNED = 256
"""Bytes that whatever is copied begins at a multiple of, as CUDA's own allocations do."""

_NON_BLOCKING = 1  # cudaStreamNonBlocking: it does not wait for work on the default stream
_NO_TIMING = 2  # cudaEventDisableTiming
_NOT_READY = 600  # cudaErrorNotReady
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")


class CudaError(RuntimeError):
    """A call of CUDA's runtime has failed; the message has its number and its words."""


class Transfers(Protocol):
    """Copies to and from one place, in the order in which they are asked for."""

    @property
    def stream(self) -> int | None:
        """What to open sessions with, so that their runs keep that order, too."""

    def enter(self) -> None:
        """The calling thread works there from now on."""

    def pinned(self, size: int) -> Bytes:
        """Memory of the host that copies need not be staged from; begins at `ALIGNED`."""

    def to_device(self, target: int, source: int, size: int) -> None:
        """Queue a copy of so many bytes, from one address to the other."""

    def to_host(self, target: int, source: int, size: int) -> None:
        """Queue a copy of so many bytes, from one address to the other."""

    def event(self) -> int:
        """Something to `mark` the end of what is queued with."""

    def mark(self, event: int) -> None:
        """It is reached once all that is queued now is done."""

    def is_reached(self, event: int) -> bool:
        """Whether it is, or what was queued before it has failed."""

    def wait(self, event: int) -> None:
        """Return once it is reached.

        Raises:
            CudaError: something that was queued has failed.
        """


def open_transfers(place: Place) -> Transfers:
    """Those of a place.

    Raises:
        DeviceError: CUDA's runtime cannot be found.
        CudaError: it does not work.
    """
    return _Host() if place.kind == "cpu" else _Cuda(place.number)


class _Host:
    """The CPU in place of a device: what is queued is done at once."""

    stream = None

    def enter(self) -> None:
        pass

    def pinned(self, size: int) -> Bytes:
        memory = np.zeros(size + ALIGNED, np.uint8)
        start = -memory.ctypes.data % ALIGNED
        return memory[start : start + size]

    def to_device(self, target: int, source: int, size: int) -> None:
        ctypes.memmove(target, source, size)

    def to_host(self, target: int, source: int, size: int) -> None:
        ctypes.memmove(target, source, size)

    def event(self) -> int:
        return 0

    def mark(self, event: int) -> None:
        pass

    def is_reached(self, event: int) -> bool:  # noqa: ARG002
        return True

    def wait(self, event: int) -> None:
        pass


class _Cuda:
    """A stream of a GPU.

    It is never destroyed: sessions that were opened with it may live longer.
    """

    def __init__(self, number: int) -> None:
        self._library, queues = _runtime()
        self._copy, self._record = queues.cudaMemcpyAsync, queues.cudaEventRecord
        self._query = queues.cudaEventQuery
        self._synchronize = self._library.cudaEventSynchronize
        self._number = number
        self.enter()
        made = ctypes.c_void_p()
        self._check(
            self._library.cudaStreamCreateWithFlags(ctypes.byref(made), _NON_BLOCKING),
            "cudaStreamCreateWithFlags",
        )
        assert made.value is not None, "it was made"
        self.stream = made.value

    def enter(self) -> None:
        self._check(self._library.cudaSetDevice(self._number), "cudaSetDevice")

    def pinned(self, size: int) -> Bytes:
        address = ctypes.c_void_p()
        self._check(
            self._library.cudaHostAlloc(ctypes.byref(address), size + 1, 0), "cudaHostAlloc"
        )
        assert address.value is not None, "it was allocated"
        buffer = (ctypes.c_uint8 * (size + 1)).from_address(address.value)
        weakref.finalize(buffer, self._library.cudaFreeHost, address.value).atexit = False
        memory: Bytes = np.ctypeslib.as_array(buffer)
        memory[:] = 0
        return memory[:size]

    def to_device(self, target: int, source: int, size: int) -> None:
        code = self._copy(target, source, size, _TO_DEVICE, self.stream)
        if code:
            self._fail(code, "cudaMemcpyAsync")

    def to_host(self, target: int, source: int, size: int) -> None:
        code = self._copy(target, source, size, _TO_HOST, self.stream)
        if code:
            self._fail(code, "cudaMemcpyAsync")

    def event(self) -> int:
        made = ctypes.c_void_p()
        code = self._library.cudaEventCreateWithFlags(ctypes.byref(made), _NO_TIMING)
        self._check(code, "cudaEventCreateWithFlags")
        assert made.value is not None, "it was made"
        weakref.finalize(self, self._library.cudaEventDestroy, made.value).atexit = False
        return made.value

    def mark(self, event: int) -> None:
        code = self._record(event, self.stream)
        if code:
            self._fail(code, "cudaEventRecord")

    def is_reached(self, event: int) -> bool:
        code: int = self._query(event)
        if code == _NOT_READY:
            self._library.cudaGetLastError()  # which would tell the next who asks
        return code != _NOT_READY

    def wait(self, event: int) -> None:
        code = self._synchronize(event)
        if code:
            self._fail(code, "cudaEventSynchronize")

    def _check(self, code: int, call: str) -> None:
        if code:
            self._fail(code, call)

    def _fail(self, code: int, call: str) -> None:
        """Raise, and clear the error: else the next call that looks for one would find it."""
        self._library.cudaGetLastError()
        words = self._library.cudaGetErrorString(code).decode(errors="replace")
        raise CudaError(f"CUDA failure {code}: {words} (in {call})")


def _runtime() -> tuple[Any, Any]:
    """CUDA's runtime: the one that ONNX Runtime has loaded, where it has.

    Returns:
        The library, whose calls let go of the GIL, and the same, whose calls do not.

    Raises:
        DeviceError: there is none.
    """
    names = ("cudart64_13.dll", "cudart64_12.dll") if sys.platform == "win32" else _RUNTIMES
    fault = ""
    # Two of them in one process would not know each other's streams and errors.
    for mode in (getattr(os, "RTLD_NOLOAD", 0), 0):
        for name in names:
            try:
                found = ctypes.CDLL(name, mode=mode), ctypes.PyDLL(name, mode=mode)
            except OSError as error:
                fault = str(error)
                continue
            for library in found:
                _declare(library)
            return found
    raise DeviceError(f"CUDA's runtime cannot be loaded ({fault})")


def _declare(library: Any) -> None:
    pointer, size, code = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    handle = ctypes.POINTER(ctypes.c_void_p)
    for function, arguments in (
        ("cudaSetDevice", [code]),
        ("cudaStreamCreateWithFlags", [handle, ctypes.c_uint]),
        ("cudaHostAlloc", [handle, size, ctypes.c_uint]),
        ("cudaFreeHost", [pointer]),
        ("cudaMemcpyAsync", [pointer, pointer, size, code, pointer]),
        ("cudaEventCreateWithFlags", [handle, ctypes.c_uint]),
        ("cudaEventDestroy", [pointer]),
        ("cudaEventRecord", [pointer, pointer]),
        ("cudaEventQuery", [pointer]),
        ("cudaEventSynchronize", [pointer]),
        ("cudaGetLastError", []),
        ("cudaGetErrorString", [code]),
    ):
        getattr(library, function).argtypes = arguments
    library.cudaGetErrorString.restype = ctypes.c_char_p
