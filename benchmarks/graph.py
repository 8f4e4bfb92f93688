"""What is left of Cellar without its server: the graph it compiles, run in a loop.

Between this and bare ONNX Runtime lies what compiling gains, between this and Cellar what serving
costs. Rows are placed and inputs copied as the server does it.

Usage: ``python -m benchmarks.graph MODEL.onnx``, then commands in JSON lines.
"""

import sys
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.bare import Turns
from benchmarks.pipe import Reply, answer
from models.compile.arena import compile_model
from models.manifest import TokensInput
from models.repository import load_model
from service.engine.execution.cpu.runner import CpuRunner


class Graph:
    """Commands on one model, as those of `benchmarks.bare.Bare`."""

    def __init__(self, path: Path) -> None:
        model = load_model(path, name=path.parent.parent.name, version=1)
        if not isinstance(model.manifest.input, TokensInput):
            raise SystemExit(f"{path}: not a character model of this project")
        self._vocabulary = len(model.manifest.input.vocabulary)
        self._graph = compile_model(model)
        self._cases: dict[str, tuple[CpuRunner, Turns]] = {}

    async def prepare(self, case: str, batch: int, sessions: int, drawn: bool) -> Reply:
        """Make an arena of so many sessions, which take turns, drawn or one by one."""
        runner = CpuRunner(self._graph, slots=sessions + 1, max_batch=batch)
        turns = Turns.of(batch=batch, sessions=sessions, drawn=drawn, vocabulary=self._vocabulary)
        self._cases[case] = runner, turns
        turns.take(lambda turn: self._step(case, turn))
        return {}

    async def run(self, case: str, seconds: float) -> Reply:
        """Step one batch after the other."""
        _, turns = self._cases[case]
        return turns.run(lambda turn: self._step(case, turn), seconds)

    def _step(self, case: str, turn: int) -> None:
        runner, turns = self._cases[case]
        rows = turns.groups[turn]
        runner.step(
            read=rows,
            write=rows,
            fresh=np.zeros(len(rows), np.bool_),
            inputs=turns.sent[turn],
            lengths=np.ones(len(rows), np.int64),
            every_step=False,
        )


if __name__ == "__main__":
    _graph = Graph(Path(sys.argv[1]))
    uvloop.run(answer({"prepare": _graph.prepare, "run": _graph.run}))
