"""The digest of what bits depend on: the same again, in any process, and another if they change."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.compile.arena import compile_model
from models.compile.serving import ServingGraph
from models.repository import Model
from service.engine.execution import arithmetic as room
from service.engine.execution.arithmetic import arithmetic, cpu_features, joined
from service.engine.execution.cpu.runner import CpuRunner
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.execution.probe import SHARED, Findings
from service.engine.execution.runtime import CPU, Place
from service.engine.work.columns import Floats
from tests.foreign import chunked_case, lookup_case
from tests.recurrent import char_case, label_case, series_case

MAX_BATCH = 8
SLOTS = 12
GRAPHS = ("char", "series", "labels", "chunks", "lookup")


def model_of(name: str) -> Model:
    match name:
        case "char":
            return char_case("lstm", layers=2).model
        case "series":
            return series_case("gru").model
        case "labels":
            return label_case("rnn", features=3).model
        case "chunks":
            return chunked_case().model
    return lookup_case().model


def digest(
    model: Model, runner: Any = None, graph: ServingGraph | None = None, **changes: Any
) -> str:
    graph = graph or compile_model(model, precision=changes.get("precision", "fp32"))
    asked: dict[str, Any] = {
        "graph": graph,
        "findings": SHARED,
        "fingerprint": model.fingerprint,
        "precision": "fp32",
        "place": CPU,
        "max_batch": MAX_BATCH,
        **changes,
    }
    runner = runner or CpuRunner(graph, slots=SLOTS, max_batch=MAX_BATCH)
    return arithmetic(runner, np.arange(2, 2 + MAX_BATCH), **asked)


def all_digests() -> list[str]:
    return [digest(model_of(name)) for name in GRAPHS]


def test_it_is_the_same_again_and_in_another_process() -> None:
    """Whatever order sets have there."""
    mine = all_digests()
    assert len(set(mine)) == len(mine)
    assert all_digests() == mine
    script = f"from {__name__} import all_digests; print(*all_digests())"
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.split() == mine


class Nudged(CpuRunner):
    """Finds a prediction or a state whose last bit is another, at one number of steps."""

    where = ""

    def step(self, **columns: Any) -> Floats:
        found = super().step(**columns)
        if self.where == "prediction" and columns["inputs"].shape[1] > 1:
            found = found.copy()
            found[0, -1, 0] = np.nextafter(found[0, -1, 0], np.float32(9))
        return found

    def read(self, slots: Any) -> list[Floats]:
        found = super().read(slots)
        if self.where == "state":
            found[0][-1, -1] = np.nextafter(found[0][-1, -1], np.float32(9))
        return found

    def recall(self, slots: Any) -> Floats:
        found = super().recall(slots)
        return np.nextafter(found, np.float32(9)) if self.where == "recall" else found


def test_a_bit_that_is_another_shows() -> None:
    model = model_of("char")
    graph = compile_model(model)
    runner = Nudged(graph, slots=SLOTS, max_batch=MAX_BATCH)
    found = set()
    for where in ("", "prediction", "state", "recall"):
        runner.where = where
        found.add(digest(model, runner, graph))
    assert len(found) == 4


def test_each_thing_that_bits_depend_on_makes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("char")
    graph = compile_model(model)
    compiled = compile_model(model, device="cuda")
    played, single = (
        CudaRunner(
            compiled,
            slots=SLOTS,
            max_batch=8,
            place=CPU,
            deterministic=only_one_size,
            several=False,
        )
        for only_one_size in (False, True)
    )
    monkeypatch.setattr(room, "gpu_name", lambda number: [f"card {number}", "13020"])
    gpu = {"place": Place("cuda"), "runner": played, "graph": graph}
    changes: list[dict[str, Any]] = [
        {},
        {"fingerprint": "another"},
        {"precision": "int8"},
        {"findings": Findings(steps_run_alone=True)},
        {"findings": Findings(rows_run_alone=True)},
        {"graph": replace(graph, chunk=graph.chunk + b"\0")},
        {"graph": replace(graph, heads={**graph.heads, "argmax": b""})},
        gpu,
        {**gpu, "tf32": True},
        {**gpu, "deterministic": True},
        {**gpu, "deterministic": True, "runner": single, "max_batch": 8},
        {**gpu, "deterministic": True, "runner": single, "max_batch": 7},
        {**gpu, "place": Place("cuda", 1)},
    ]
    runner = CpuRunner(graph, slots=SLOTS, max_batch=MAX_BATCH)
    found = [digest(model, **{"runner": runner, "graph": graph, **one}) for one in changes]
    for name, told in (("build", lambda: "1.0"), ("cpu_features", lambda: ["avx2"])):
        room._device.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(room, name, told)
            found.append(digest(model, runner, graph))
    room._device.cache_clear()
    assert len(set(found)) == len(changes) + 2


def test_what_bits_do_not_depend_on_makes_none() -> None:
    model = model_of("char")
    graph = compile_model(model)
    expected = digest(model, graph=graph)
    for slots, max_batch in ((30, 8), (60, 50)):
        runner = CpuRunner(graph, slots=slots, max_batch=max_batch)
        runner.write(np.arange(slots), [rows + 1 for rows in runner.read(np.arange(slots))])
        assert digest(model, runner, graph, max_batch=max_batch, tf32=True) == expected


def test_it_runs_in_each_bucket_that_bits_may_depend_on() -> None:
    class Skewed(CudaRunner):
        skewed = 0

        def step(self, **columns: Any) -> Floats:
            found = np.array(super().step(**columns))
            return found + np.float32(self.bucket(len(found)) == self.skewed)

    model = model_of("char")
    graph = compile_model(model, device="cuda")
    runner = Skewed(graph, slots=SLOTS, max_batch=MAX_BATCH, place=CPU)
    found = set()
    for skewed in (0, 1, 2, 4, 8):
        runner.skewed = skewed
        found.add(digest(model, runner, graph))
    assert len(found) == 5


def test_it_touches_no_other_slots() -> None:
    model = model_of("series")
    runner = CpuRunner(compile_model(model), slots=SLOTS, max_batch=MAX_BATCH)
    others = np.array([0, 1, 10])
    before = runner.read(others)
    digest(model, runner)
    for mine, theirs in zip(runner.read(others), before, strict=True):
        assert np.array_equal(mine, theirs)


def test_devices_that_are_alike_count_as_one() -> None:
    assert joined(["a", "a"]) == joined(["a"]) == "a"
    assert joined(["a", "b"]) == joined(["b", "a", "b"])
    assert len({joined(["a"]), joined(["b"]), joined(["a", "b"])}) == 3


def test_the_vectors_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(room, "_CPU_INFO", told)
    assert cpu_features() == []
    told.write_text(
        "model\t: x\nflags\t\t: fpu sse4_2 avx512_vnni avx2 fma hypervisor\nflags : no\n"
    )
    assert cpu_features() == ["avx2", "avx512_vnni", "fma", "sse4_2"]
    told.write_text("Features\t: fp asimd evtstrm sve2 i8mm\n")
    assert cpu_features() == ["asimd", "i8mm", "sve2"]


@pytest.mark.long
def test_it_is_cheap() -> None:
    model = char_case("lstm", layers=2, hidden=256).model
    graph = compile_model(model)
    runner = CpuRunner(graph, slots=300, max_batch=256)
    digest(model, runner, graph, max_batch=256)
    took_s = []
    for _ in range(3):
        began_s = time.process_time()
        digest(model, runner, graph, max_batch=256)
        took_s.append(time.process_time() - began_s)
    assert min(took_s) < 0.05  # of CPU: some 0.02
