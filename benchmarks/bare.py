"""The ceiling of arithmetic: ONNX Runtime in a loop over an exported model, and no server.

The graph is the exported one, with its LSTM op; only the state's inputs and outputs are replaced
by reads and in-place writes of an arena, so that rows of any sessions can be stepped without
copying states through Python. A step fills the index and token buffers and runs; the next token
is not even chosen.

Usage: ``python -m benchmarks.bare MODEL.onnx``, then commands in JSON lines.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import uvloop
from numpy.typing import NDArray
from onnx import helper

from benchmarks.pipe import Reply, answer
from benchmarks.tally import Tally
from models.graph.builder import FLOAT, INT64, GraphBuilder
from models.manifest import Manifest, TokensInput

ROWS, TARGETS = "bare.rows", "bare.targets"


def with_arena(proto: onnx.ModelProto, manifest: Manifest) -> bytes:
    """The exported graph with its states in an arena that is written in place."""
    before, after = GraphBuilder("bare.read."), GraphBuilder("bare.write.")
    before.input(ROWS, INT64, ["batch"])
    before.input(TARGETS, INT64, ["batch", 1])
    for state in manifest.states:
        arena, written = _arena_of(state.input)
        before.input(arena, FLOAT, ["slots", *state.shape])
        before.node("Gather", arena, ROWS, output=state.input, axis=0)  # (batch, *shape)
        after.node("ScatterND", arena, TARGETS, state.output, output=written)
        after.output(written, FLOAT, ["slots", *state.shape])
    states = {state.input for state in manifest.states}
    inputs = [value for value in proto.graph.input if value.name not in states]
    prediction = [v for v in proto.graph.output if v.name == manifest.prediction.output]
    graph = helper.make_graph(
        [*before.nodes, *proto.graph.node, *after.nodes],
        "bare",
        [*inputs, *before.inputs],
        [*prediction, *after.outputs],
        initializer=[*before.initializers, *proto.graph.initializer, *after.initializers],
    )
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    return model.SerializeToString()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """The groups of rows that step in turn, and what they read."""

    groups: NDArray[np.int64]  # (groups, batch)
    sent: NDArray[np.int64]  # (groups, batch, 1)

    @classmethod
    def of(cls, *, batch: int, sessions: int, drawn: bool, vocabulary: int) -> "Turns":
        """All sessions, in batches, drawn or one by one."""
        noise = np.random.default_rng(0)
        order = noise.permutation(sessions) if drawn else np.arange(sessions)
        groups = order[: sessions // batch * batch].reshape(-1, batch)
        return cls(groups=groups, sent=noise.integers(vocabulary, size=(*groups.shape, 1)))

    def take(self, step: Callable[[int], None]) -> None:
        """Take each turn once: the memory is in use from here on."""
        for turn in range(len(self.groups)):
            step(turn)

    def run(self, step: Callable[[int], None], seconds: float) -> Reply:
        """Take one turn after the other."""
        tally = Tally()
        deadline = time.perf_counter() + seconds
        turn = 0
        while (start := time.perf_counter()) < deadline:
            step(turn)
            tally.add(time.perf_counter() - start, steps=self.groups.shape[1])
            turn = (turn + 1) % len(self.groups)
        return tally.summary()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One batch size, bound once: its buffers and its turns."""

    binding: ort.IOBinding
    rows: NDArray[np.int64]  # (batch,)
    targets: NDArray[np.int64]  # (batch, 1)
    tokens: NDArray[np.int64]  # (batch, 1)
    turns: Turns


class Bare:
    """Commands on one model."""

    def __init__(self, path: Path) -> None:
        proto = onnx.load_model(str(path))
        manifest = Manifest.extract(proto)
        if manifest is None or not isinstance(manifest.input, TokensInput):
            raise SystemExit(f"{path}: not a character model of this project")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            with_arena(proto, manifest), options, providers=["CPUExecutionProvider"]
        )
        self._manifest = manifest
        self._vocabulary = len(manifest.input.vocabulary)
        self._batches: dict[str, Batch] = {}

    async def prepare(self, case: str, batch: int, sessions: int, drawn: bool) -> Reply:
        """Bind a batch of rows out of so many sessions, which take turns, drawn or one by one."""
        rows, targets = np.zeros(batch, np.int64), np.zeros((batch, 1), np.int64)
        tokens, lengths = np.zeros((batch, 1), np.int64), np.ones(batch, np.int32)
        width = self._manifest.prediction.width
        prediction = np.zeros((batch, 1, width), np.float32)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(ROWS, _shared(rows))
        binding.bind_ortvalue_input(TARGETS, _shared(targets))
        binding.bind_ortvalue_input(self._manifest.input.name, _shared(tokens))
        if self._manifest.lengths is not None:
            binding.bind_ortvalue_input(self._manifest.lengths, _shared(lengths))
        for state in self._manifest.states:
            arena, written = _arena_of(state.input)
            value = _shared(np.zeros((sessions, *state.shape), np.float32))
            binding.bind_ortvalue_input(arena, value)
            binding.bind_ortvalue_output(written, value)
        binding.bind_ortvalue_output(self._manifest.prediction.output, _shared(prediction))
        used = self._batches[case] = Batch(
            binding=binding,
            rows=rows,
            targets=targets,
            tokens=tokens,
            turns=Turns.of(
                batch=batch, sessions=sessions, drawn=drawn, vocabulary=self._vocabulary
            ),
        )
        used.turns.take(partial(self._step, used))
        return {}

    async def run(self, case: str, seconds: float) -> Reply:
        """Step one batch after the other."""
        used = self._batches[case]
        return used.turns.run(partial(self._step, used), seconds)

    def _step(self, used: Batch, turn: int) -> None:
        group = used.turns.groups[turn]
        used.rows[:] = group
        used.targets[:, 0] = group
        used.tokens[:] = used.turns.sent[turn]
        self._session.run_with_iobinding(used.binding)


def _arena_of(state: str) -> tuple[str, str]:
    """The names of a state's arena before and after a step."""
    return f"bare.{state}", f"bare.{state}.written"


def _shared(array: NDArray[Any]) -> ort.OrtValue:
    """Wrap an array without a copy; ONNX Runtime holds on to it."""
    value = ort.OrtValue.ortvalue_from_numpy(array)
    if value.data_ptr() != array.ctypes.data:
        raise RuntimeError("ONNX Runtime copied a buffer that must be shared")
    return value


if __name__ == "__main__":
    _bare = Bare(Path(sys.argv[1]))
    uvloop.run(answer({"prepare": _bare.prepare, "run": _bare.run}))
