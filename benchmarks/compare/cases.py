"""What is compared: cases of `benchmarks.groups`, all on servers of one repository."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.groups import chunk, forecast
from benchmarks.networks import model_name, publish
from benchmarks.processes import CellarServer, LoadProcess
from benchmarks.rounds import Loaded, Series
from service.settings import ZOO

SIZE = "2x128"
GENERATED = 250
"""Tokens of one generation: 256 at once take a part of a round, not several."""

Prepare = Callable[[Bench, CellarServer, LoadProcess], Loaded]


def make_repository(folder: Path) -> Path:
    """Every model that the cases step."""
    publish(folder, SIZE)
    shutil.copytree(ZOO / forecast.MODEL, folder / forecast.MODEL)
    return folder


def _frames(streams: int, rows: int) -> Prepare:
    def prepare(bench: Bench, server: CellarServer, load: LoadProcess) -> Loaded:
        return bench.frames(server, load, SIZE, streams=streams, rows=rows)

    return prepare


def _steps(case: str, *, sessions: int, steps: int = 1) -> Prepare:
    return _calls("steps", case, sessions=sessions, steps=steps)


def _generations(sessions: int) -> Prepare:
    return _calls("generations", f"{sessions} at once", sessions=sessions, steps=GENERATED)


def _calls(do: str, case: str, **more: int) -> Prepare:
    def prepare(bench: Bench, server: CellarServer, load: LoadProcess) -> Loaded:
        series = Series(case=case, contestant="Cellar", model=SIZE)
        return bench.case(do, series, server, load, model=model_name(SIZE), **more)

    return prepare


def _forecast(bench: Bench, server: CellarServer, load: LoadProcess) -> Loaded:
    ahead, paths = forecast.HORIZON, forecast.PATHS
    series = Series(
        case=f"{ahead} steps × {paths} paths",
        contestant="Cellar",
        model=forecast.MODEL,
        unit="path-steps",
    )
    return bench.case(
        "forecasts", series, server, load, model=forecast.MODEL, horizon=ahead, paths=paths
    )


GROUPS: Mapping[str, Sequence[Prepare]] = {
    "frames": (_frames(2, 256), _frames(1, 3)),
    "streams": (_frames(256, 1),),
    "unary": (_steps("64 at once", sessions=64), _steps("1 at once", sessions=1)),
    "generate": (_generations(256), _generations(1)),
    "forecast": (_forecast,),
    "chunk": (_steps(f"chunks of {chunk.CHUNK_STEPS:,}", sessions=1, steps=chunk.CHUNK_STEPS),),
}

__all__ = ["GROUPS", "Prepare", "make_repository"]
