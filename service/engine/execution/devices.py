"""Which devices to serve on: what was asked for, if ONNX Runtime can really use it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.graph.builder import FLOAT, INT64, GraphBuilder
from service.engine.execution.runtime import (
    CPU,
    Block,
    Bound,
    DeviceError,
    Place,
    built_for,
    cuda_is_built_in,
    gpus,
    load_cuda,
    open_session,
    quiet,
    why_not_loaded,
)

_ROWS, _WIDTH = 4, 3
_SIGNS = (("/dev", "nvidia*"), ("/proc/driver", "nvidia"))  # that a GPU's driver leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The devices to serve on, and why they are not what ``auto`` would rather have.

    Attributes:
        reason: why ``auto`` has taken the CPU.
        sign: what says that the machine has a GPU nevertheless, so that this is hardly meant.
    """

    places: tuple[Place, ...]
    reason: str | None = None
    sign: str | None = None


def choose(asked: str) -> Choice:
    """Find the devices for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or several of these.

    Raises:
        DeviceError: one that was asked for cannot be used.
    """
    if asked == "cpu":
        return Choice(places=(CPU,))
    names = ["cuda:0"] if asked == "auto" else asked.split(",")
    places = tuple(Place("cuda", int(name.partition(":")[2] or 0)) for name in names)
    for place in places:
        try:
            _check(place)
        except DeviceError as error:
            if asked == "auto":
                return Choice(places=(CPU,), reason=str(error), sign=sign_of_a_gpu())
            raise DeviceError(
                f"--device {asked}: {error}: serve with --device cpu, or make {place} usable: it "
                f"takes an NVIDIA driver, the onnxruntime-gpu wheel (not onnxruntime) and "
                f"{built_for()} (pip install 'cellar[serve,cuda]')"
            ) from error
    return Choice(places=places)


def _check(place: Place) -> None:
    count = gpus()
    if place.number >= count:
        raise DeviceError(
            f"there is no {place}, the driver shows {count} GPU{'s' if count > 1 else ''} "
            "to this process"
        )
    if not cuda_is_built_in():
        raise DeviceError("the ONNX Runtime that is installed was built without CUDA")
    load_cuda()
    with quiet():
        try:
            probe(place)
        except DeviceError:
            missing = why_not_loaded() or "it does not say why"
            raise DeviceError(
                f"ONNX Runtime cannot load its CUDA provider, which needs {built_for()}: {missing}"
            ) from None
        except Exception as error:  # whatever the runtime throws
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DeviceError(f"ONNX Runtime does not run on {place} ({reason})") from error


def sign_of_a_gpu() -> str | None:
    """What on this machine is there for an NVIDIA GPU alone, whether that works or not.

    ``None`` too where it is hidden from this process on purpose.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return None
    for folder, pattern in _SIGNS:
        found = next(Path(folder).glob(pattern), None)
        if found is not None:
            return str(found)
    return shutil.which("nvidia-smi")


def probe(place: Place) -> None:
    """Run a tiny graph there that adds to some rows of a tensor in place, twice.

    Raises:
        DeviceError: it does not run there.
        RuntimeError: what is bound to an input and an output is not the same memory.
    """
    graph = GraphBuilder()
    graph.input("rows", FLOAT, ["n", _WIDTH])
    graph.input("index", INT64, ["k"])
    more = graph.node("Add", graph.node("Gather", "rows", "index"), graph.constant(1.0))
    aside = graph.node("Unsqueeze", "index", graph.constant([1]))
    where = graph.node("Add", aside, graph.constant(np.zeros(_WIDTH, np.int64)))
    graph.node("ScatterElements", "rows", where, more, output="next", axis=0)
    graph.output("next", FLOAT, ["n", _WIDTH])
    session = open_session(graph.model("probe").SerializeToString(), place)

    rows = Block(place, (_ROWS, _WIDTH), np.float32)
    index = Block(place, (2,), np.int64)
    expected = np.zeros((_ROWS, _WIDTH), np.float32)
    rows.write(expected)
    bound = Bound(session, {"rows": rows.view(), "index": index.view()}, {"next": rows.view()})
    for chosen in ([1, 2], [2, 3]):
        index.write(np.array(chosen))
        bound.run()
        expected[chosen] += 1
    if not np.array_equal(rows.read(), expected):
        raise RuntimeError("a tensor that is bound to an input and an output was copied")
