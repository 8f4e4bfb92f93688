"""Forecasts of the zoo's series model, one call at a time."""

from benchmarks.bench import Bench, Findings, Group
from benchmarks.rounds import Series, alternate, speed
from service.settings import ZOO

MODEL = "synthetic-prices"
HORIZON, PATHS = 50, 200


def measure(bench: Bench, findings: Findings) -> None:
    server, load = bench.cellar_of(ZOO), bench.load()
    cellar = bench.case(
        "forecasts",
        Series(
            case=f"{HORIZON} steps × {PATHS} paths",
            contestant="Cellar",
            model=MODEL,
            unit="path-steps",
        ),
        server,
        load,
        model=MODEL,
        horizon=HORIZON,
        paths=PATHS,
    )
    findings.series = alternate([cellar], bench.pace)
    findings.figures["forecast_path_steps_per_s"] = cellar.series.figure(speed)


GROUP = Group(name="forecast", keys=("forecast_path_steps_per_s",), measure=measure)
