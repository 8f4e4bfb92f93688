"""ONNX Runtime, as this server uses it. The only file that imports it."""

import ctypes
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Session: TypeAlias = ort.InferenceSession
Binding: TypeAlias = ort.IOBinding
Value: TypeAlias = ort.OrtValue

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_DRIVER = Path("/proc/driver/nvidia/version")
_LIBRARIES = (
    ("libcudnn.so.9", "cudnnGetVersion"),
    ("libcublasLt.so.13", "cublasLtGetVersion"),
    ("libcublasLt.so.12", "cublasLtGetVersion"),
)
_SILENT = 4  # fatal errors only
_NEVER_CAPTURED = -1
_OPERATOR_FAILED = re.compile(
    r"while running (?P<kind>\w+) node\. Name:'(?P<name>[^']*)' Status Message: (?=.)", re.DOTALL
)
_SOURCE = re.compile(r"^/\S+:\d+ .*?(was false\. |: [A-Z_]+ : |$)")  # a line of ONNX Runtime's own
# CUDA's words, those of ONNX Runtime's own arena, and C++'s.
_OUT_OF_MEMORY = ("out of memory", "failed to allocate", "bad_alloc", "bad allocation")


class DeviceError(Exception):
    """A device that was asked for cannot be used; the message says why, in one line."""


class DeviceLostError(DeviceError):
    """A device that was served on has failed for good, and its states with it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where tensors lie and graphs run: the CPU, or one of the machine's GPUs."""

    kind: Literal["cpu", "cuda"] = "cpu"
    number: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.number}"

    @property
    def provider(self) -> str:
        """What ONNX Runtime calls it."""
        return _CPU if self.kind == "cpu" else _CUDA


CPU = Place()


def open_session(
    graph: bytes,
    place: Place = CPU,
    *,
    captured: bool = False,
    gpu_only: bool = False,
    tf32: bool = False,
    stream: int | None = None,
    profile_prefix: str | None = None,
) -> Session:
    """Load a graph.

    Args:
        graph: a model.
        place: where it runs.
        captured: on a GPU, record each run that has a number (`Bound`) and replay it from then on.
        gpu_only: refuse a graph that the GPU cannot run by itself.
        tf32: on a GPU, let products of float32 round their factors to 10 bits.
        stream: of a GPU, which its runs are queued on; ``None`` for one of its own.
        profile_prefix: write to a file that begins like this which operators ran where.

    Raises:
        DeviceError: the session would not run there.
    """
    options = ort.SessionOptions()
    # One thread per shard: small matrices gain nothing from more, and the arithmetic of a row
    # then cannot depend on how a batch was split.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # What fails says so by an exception. It may have what a caller sent in it: it is not logged.
    options.log_severity_level = _SILENT
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    if place.kind == "cpu":
        return ort.InferenceSession(graph, options, providers=[_CPU])
    if captured:
        # Nothing may be allocated while a run is recorded, and a pattern is: at its second use.
        options.enable_mem_pattern = False
    if gpu_only:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    cuda = {
        "device_id": str(place.number),
        "use_tf32": str(int(tf32)),
        "enable_cuda_graph": str(int(captured)),
    }
    if stream is not None:
        cuda["user_compute_stream"] = str(stream)
    # The CPU's provider is added by itself, and must not be named by who does without it.
    session = ort.InferenceSession(graph, options, providers=[(_CUDA, cuda)], enable_fallback=0)
    # A provider that cannot be had is left out, and nothing but this tells.
    if session.get_providers()[0] != _CUDA:
        raise DeviceError(f"ONNX Runtime would run this on the CPU instead of {place}")
    return session


def complaint(fault: Exception) -> str | None:
    """Why an operator of a graph could not work on what it was given; ``None``: another fault."""
    text = str(fault)
    failed = [*_OPERATOR_FAILED.finditer(text)]
    if not failed or any(words in text.lower() for words in _OUT_OF_MEMORY):
        return None
    inmost = failed[-1]  # of operators in the bodies of others
    why = _SOURCE.sub("", text[inmost.end() :].strip().splitlines()[0])
    name = f" '{inmost['name']}'" if inmost["name"] else ""
    return f"{inmost['kind']}{name}: {why}"


def bindable(array: NDArray[Any]) -> Value:
    """Wrap an array without copying it: in-place writes hang on that."""
    value = ort.OrtValue.ortvalue_from_numpy(array)
    if value.data_ptr() != array.ctypes.data:
        raise RuntimeError("ONNX Runtime copied a buffer that must be shared")
    return value


def input_shapes(session: Session) -> dict[str, list[int | str | None]]:
    """A graph's inputs by name, with their shapes."""
    return {value.name: value.shape for value in session.get_inputs()}


class Block:
    """Memory in a place. What is in it at first is anything.

    Raises:
        MemoryError: there is not that much.
    """

    def __init__(self, place: Place, shape: Sequence[int], dtype: type[np.generic]) -> None:
        self.place = place
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        try:
            self._value = ort.OrtValue.ortvalue_from_shape_and_type(
                list(shape), dtype, place.kind, place.number
            )
        except Exception as error:  # of the runtime's own kind
            size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
            raise MemoryError(f"{place}: {size} bytes cannot be had") from error

    def write(self, array: NDArray[Any]) -> None:
        """Fill it; returns when that is done.

        Raises:
            ValueError: another shape or another type.
        """
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(f"{array.dtype} {array.shape} is not {self.dtype} {self.shape}")
        self._value.update_inplace(array)

    def read(self) -> NDArray[Any]:
        """A copy of what is in it."""
        found: NDArray[Any] = self._value.numpy()
        return found.copy() if self.place.kind == "cpu" else found

    def view(self, start: int = 0, shape: Sequence[int] | None = None) -> "View":
        """A part of it: an array of some shape, from the ``start``-th number on.

        Raises:
            ValueError: it ends beyond the block.
        """
        shape = self.shape if shape is None else tuple(shape)
        size = int(np.prod(shape, dtype=np.int64))
        if start < 0 or start + size > int(np.prod(self.shape, dtype=np.int64)):
            raise ValueError(f"{size} numbers from {start} on do not lie in {self.shape}")
        address = self._value.data_ptr() + start * self.dtype.itemsize
        return View(block=self, address=address, shape=shape, dtype=self.dtype)

    def part(self, start: int, shape: Sequence[int], dtype: np.dtype[Any]) -> "View":
        """A part of a block of bytes, from the ``start``-th on, as numbers of some type.

        Raises:
            ValueError: it ends beyond the block.
        """
        bytes_of_it = self.view(start, (int(np.prod(shape, dtype=np.int64)) * dtype.itemsize,))
        return View(block=self, address=bytes_of_it.address, shape=tuple(shape), dtype=dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A part of a block that graphs read and write in place; it keeps the block alive."""

    block: Block
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Bound:
    """A graph with the memory it works on: run after run reads and writes the same.

    Args:
        session: the graph; every input and every output that is wanted is bound.
        inputs: by name; an array stays on the CPU, for the few inputs that are read there.
        outputs: by name.
        number: of its own among those of a captured session; the first run records, see `run`.
        waits: a run returns once all outputs are written; else once it is queued on its stream.
    """

    def __init__(
        self,
        session: Session,
        inputs: "dict[str, View | NDArray[Any]]",
        outputs: dict[str, View],
        *,
        number: int = _NEVER_CAPTURED,
        waits: bool = True,
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._memory = (inputs, outputs)
        for name, value in inputs.items():
            if isinstance(value, View):
                self._binding.bind_input(name, *_described(value))
            else:
                self._binding.bind_cpu_input(name, value)
        for name, view in outputs.items():
            self._binding.bind_output(name, *_described(view))
        self._options = _run_options(number, waits=waits)
        self._eager = _run_options(_NEVER_CAPTURED)

    def run(self) -> None:
        """Run it; returns when all outputs are written, or when it is queued: see ``waits``.

        The first run of a captured graph runs it several times over: what it writes in place
        must not matter then.
        """
        self._session.run_with_iobinding(self._binding, self._options)

    def run_eagerly(self) -> None:
        """The same without recording or replaying, to compare with."""
        self._session.run_with_iobinding(self._binding, self._eager)


def run_to_host(
    session: Session,
    inputs: "dict[str, View | NDArray[Any]]",
    outputs: dict[str, View],
    *,
    fetched: Sequence[str] = (),
) -> dict[str, NDArray[Any]]:
    """Run a graph once, of any shapes, and copy some more of its outputs to the host."""
    binding = session.io_binding()
    for name, value in inputs.items():
        if isinstance(value, View):
            binding.bind_input(name, *_described(value))
        else:
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
    for name, view in outputs.items():
        binding.bind_output(name, *_described(view))
    for name in fetched:
        binding.bind_output(name, "cpu")
    binding.synchronize_inputs()
    session.run_with_iobinding(binding, _run_options(_NEVER_CAPTURED))
    # In the order they were bound in; those of the device would be copied too.
    found = binding.get_outputs()[len(outputs) :]
    return {name: value.numpy().copy() for name, value in zip(fetched, found, strict=True)}


def cuda_is_built_in() -> bool:
    """Whether this build of ONNX Runtime could use a GPU; it says so where there is none, too."""
    return _CUDA in ort.get_available_providers()


def built_for() -> str:
    """The CUDA that this build of ONNX Runtime was made for."""
    version = getattr(ort, "cuda_version", "")
    return f"CUDA {version.partition('.')[0] or 13} and cuDNN 9"


def why_not_loaded() -> str | None:
    """What the system's loader says of the CUDA provider, where that cannot be loaded.

    To be asked once ONNX Runtime has tried: it tells nobody but its own log.
    """
    folder = Path(ort.__file__).parent / "capi"
    pattern = "*onnxruntime_providers_{}." + ("dll" if sys.platform == "win32" else "so")
    for part in ("shared", "cuda"):
        for library in folder.glob(pattern.format(part)):
            try:
                ctypes.CDLL(str(library))
            except OSError as error:
                return str(error)
    return None


def load_cuda() -> None:
    """Load CUDA's and cuDNN's libraries, those that came as wheels first."""
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what is missing; a session says it better
            ort.preload_dlls()


def gpus() -> int:
    """GPUs that the driver shows to this process.

    Raises:
        DeviceError: there is no driver, or it does not work.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError as error:
        raise DeviceError(f"there is no NVIDIA driver ({error})") from None
    count = ctypes.c_int()
    for result in (driver.cuInit(0), driver.cuDeviceGetCount(ctypes.byref(count))):
        if result:
            raise DeviceError(f"the NVIDIA driver finds no GPU (its error {result})")
    return count.value


def build() -> str:
    """ONNX Runtime's version, and what it was built of."""
    return f"{ort.__version__} {ort.get_build_info()}"


def gpu_name(number: int) -> list[str]:
    """What a GPU is called, and the versions of its driver and of the libraries that it runs.

    Raises:
        DeviceError: as `gpus`.
    """
    gpus()
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    name, version = ctypes.create_string_buffer(256), ctypes.c_int()
    driver.cuDeviceGetName(name, len(name), number)
    driver.cuDriverGetVersion(ctypes.byref(version))
    found = [name.value.decode(errors="replace"), str(version.value)]
    with suppress(OSError):
        found.append(_DRIVER.read_text().partition("\n")[0])
    for library, function in _LIBRARIES:
        with suppress(OSError, AttributeError):
            tell = getattr(ctypes.CDLL(library), function)
            tell.restype = ctypes.c_size_t
            found.append(f"{library} {tell()}")
    return found


def is_lost(place: Place, fault: Exception, run: Callable[[], object]) -> bool:
    """Whether a place is gone for good, after something has failed there.

    CUDA's errors are of many kinds, and some of them stay: every later call fails as well. So a
    run that must succeed tells, whatever the fault is called. Too little memory passes.

    Args:
        place: where it failed.
        fault: what was raised.
        run: does something there that is known to work.
    """
    if place == CPU or _is_of_memory(fault):
        return False
    try:
        run()
    except Exception as error:  # whatever the runtime throws
        return not _is_of_memory(error)
    return False


def _is_of_memory(fault: Exception) -> bool:
    text = str(fault).lower()
    return isinstance(fault, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ONNX Runtime from writing to stderr what an exception or a log entry says anyway."""
    ort.set_default_logger_severity(_SILENT)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)


def _described(view: View) -> tuple[str, int, Any, list[int], int]:
    place = view.block.place
    return place.kind, place.number, view.dtype.type, list(view.shape), view.address


def _run_options(number: int, *, waits: bool = True) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    if not waits:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options
