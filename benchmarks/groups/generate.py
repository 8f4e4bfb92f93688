"""Generation on the server, against ONNX Runtime stepping as many rows (and drawing nothing)."""

from benchmarks.bench import Bench, Findings, Group
from benchmarks.networks import model_name
from benchmarks.rounds import Series, alternate, ratio, speed

STEPS = {"2x128": 2000, "2x512": 300}
"""Tokens of one generation: seconds of work for 256 of them."""
SESSIONS = (1, 64, 256)


def measure(bench: Bench, findings: Findings) -> None:
    for size, steps in STEPS.items():
        server, load, runtime = bench.cellar(size), bench.load(), bench.bare_runtime(size)
        cellar = {
            sessions: bench.case(
                "generations",
                Series(case=f"generate {sessions} at once", contestant="Cellar", model=size),
                server,
                load,
                model=model_name(size),
                sessions=sessions,
                steps=steps // 8 if bench.pace.quick else steps,
            )
            for sessions in SESSIONS
        }
        bare = {sessions: bench.bare(runtime, size, batch=sessions) for sessions in SESSIONS}
        pairs = [case for sessions in SESSIONS for case in (cellar[sessions], bare[sessions])]
        findings.series += alternate(pairs, bench.pace)
        found = ratio(cellar[256].series, bare[256].series, speed)
        findings.figures["generate_ratio" if size == "2x128" else f"generate_ratio_{size}"] = found
        bench.end_processes()


GROUP = Group(
    name="generate",
    keys=("generate_ratio", "generate_ratio_2x512"),
    measure=measure,
    beside_cpu=("generate_ratio", "generate_ratio_2x512"),
)
