"""What the bits of a session depend on beside its inputs, as one digest.

Where it is equal, steps that are run again give the bits that they gave.
"""

import hashlib
import platform
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from models.compile.serving import ServingGraph
from models.manifest import Manifest, TokensInput
from service.engine.execution.probe import Findings
from service.engine.execution.runner import Runner, UnwrittenError
from service.engine.execution.runtime import CPU, Place, build, gpu_name
from service.engine.work.columns import Floats, Inputs, Ints

_CPU_INFO = Path("/proc/cpuinfo")
# Of a CPU's features those by which libraries choose how to compute.
_VECTORS = re.compile(r"(avx|amx|s?sse|fma|f16c|asimd|sve|sme|i8mm|bf16|fphp|neon)\w*")
_FEATURES = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)
_STEPS = 4  # of each row of the probe
_FEW = 5  # its rows, where bits do not depend on how many there are


def arithmetic(
    runner: Runner,
    slots: Ints,
    *,
    graph: ServingGraph,
    findings: Findings,
    fingerprint: str,
    precision: str,
    place: Place,
    max_batch: int,
    tf32: bool = False,
    deterministic: bool = False,
) -> str:
    """A digest of the model, the device, the libraries, and what they come to on fixed inputs.

    That it is equal does not prove that all bits are. It does not see

    * what the fixed inputs do not show and nothing is called after: an operator that is computed
      otherwise for other numbers, or a library that was exchanged for one of the same version;
    * how the steps of a graph of somebody else's were cut into runs on a GPU, where its bits may
      hang on that, nor the bucket of a run (see ``Runner.bucket``): whoever runs steps again sees
      to that;
    * chance: a model whose bits hang on it has another one each time.

    Args:
        runner: of the model; nobody else uses it meanwhile.
        slots: ``max_batch`` rows of its arena that nobody reads; what is in them is lost.
        graph: what it runs.
        findings: how it may be run.
        fingerprint: of the model's file.
        precision: what it was compiled for.
        place: where the runner is.
        max_batch: the most rows of a run, and the most time steps in all.
        tf32: whether products round their factors on a GPU.
        deterministic: whether all runs have one size there.

    Returns:
        32 hexadecimal digits.
    """
    found = hashlib.blake2b(digest_size=16)
    facts: list[object] = [fingerprint, precision, place.kind, *_device(place)]
    facts += [findings.rows_run_alone, findings.steps_run_alone]
    if place != CPU:
        facts += [tf32, deterministic, max_batch]  # which decides what sizes runs have
    found.update("\n".join(map(str, facts)).encode())
    for part in _graphs(graph):
        found.update(hashlib.blake2b(part).digest())
    for numbers in _probed(runner, graph.manifest, findings, slots, max_batch):
        found.update(np.ascontiguousarray(numbers).tobytes())
    return found.hexdigest()


def joined(several: Sequence[str]) -> str:
    """Of sessions that may be on any of several devices; equal ones count as one."""
    first, *others = sorted(set(several))
    if not others:
        return first
    return hashlib.blake2b("".join([first, *others]).encode(), digest_size=16).hexdigest()


def _graphs(graph: ServingGraph) -> Iterator[bytes]:
    """All that the compiler made: its version, so to say, and none that could be forgotten."""
    for part in (graph.chunk, graph.step, graph.every, graph.recall):
        yield part or b""
    for named in (graph.decode, graph.heads):
        for name in sorted(named):
            yield name.encode()
            yield named[name]


@cache
def _device(place: Place) -> tuple[str, ...]:
    """What computes there: names and versions."""
    found = (build(), platform.machine(), *platform.libc_ver(), *cpu_features())
    return found if place == CPU else (*found, *gpu_name(place.number))


def cpu_features() -> list[str]:
    """The vector instructions of the CPU as the system tells them; none where it does not."""
    try:
        told = _FEATURES.search(_CPU_INFO.read_text())
    except OSError:
        return []
    if told is None:
        return []
    return sorted(feature for feature in set(told[1].split()) if _VECTORS.fullmatch(feature))


def _probed(
    runner: Runner, manifest: Manifest, findings: Findings, slots: Ints, max_batch: int
) -> Iterator[Floats]:
    """Predictions and states of fixed inputs, in runs of each size that bits may depend on."""
    powers = [2**power for power in range(max_batch.bit_length())]
    sizes = sorted({runner.bucket(rows) for rows in (*powers, max_batch)})
    takes_chunks = manifest.lengths is not None and not findings.steps_run_alone
    for size in sizes:
        rows = size or min(_FEW, max_batch)
        own = slots[:rows]
        inputs = _inputs(manifest, rows, _STEPS, findings.largest)
        times = [slice(now, now + 1) for now in range(_STEPS)]
        for now, time in enumerate(times):
            yield _run(runner, own, inputs[:, time], is_first=now == 0)
        at_once = max_batch // _STEPS if size else 1  # rows
        if takes_chunks and max_batch >= _STEPS:
            some = slice(at_once)
            yield _run(runner, own[some], inputs[some], is_first=True)
        yield np.array(runner.recall(own))
        yield from runner.read(own)


def _run(runner: Runner, slots: Ints, inputs: Inputs, *, is_first: bool) -> Floats:
    """All predictions of a run; nothing where it cannot be run."""
    rows, time = inputs.shape[:2]
    try:
        found = runner.step(
            read=slots,
            write=slots,
            fresh=np.full(rows, is_first),
            inputs=inputs,
            lengths=np.full(rows, time),
            every_step=True,
        )
    except UnwrittenError:
        return np.empty(0, np.float32)
    return np.array(found)


def _inputs(manifest: Manifest, rows: int, steps: int, largest: float | None) -> Inputs:
    """The fixed inputs: tokens (rows, steps), or values (rows, steps, width)."""
    count = 7 * np.arange(rows)[:, None] + 3 * np.arange(steps)  # (rows, steps)
    if isinstance(manifest.input, TokensInput):
        return count % len(manifest.input.vocabulary)
    count = count[..., None] + np.arange(manifest.input.width)  # (rows, steps, width)
    sizes = 0.5 + count % 8 / 8
    values = np.where((count % 2 == 1) & ~np.array(manifest.input.are_positive), -sizes, sizes)
    return (values if largest is None else np.clip(values, -largest, largest)).astype(np.float32)
