"""Unary steps, against an echo of messages of the same size and the model's own time."""

from benchmarks.bench import Bench, Findings, Group
from benchmarks.networks import model_name
from benchmarks.rounds import Figure, Series, alternate, cpu, difference, ratio, speed

SIZE = "2x128"
SESSIONS = (1, 64)


def measure(bench: Bench, findings: Findings) -> None:
    server, load, runtime = bench.cellar(SIZE), bench.load(), bench.bare_runtime(SIZE)
    cellar = {
        sessions: bench.case(
            "steps",
            Series(case=f"{sessions} at once", contestant="Cellar", model=SIZE),
            server,
            load,
            model=model_name(SIZE),
            sessions=sessions,
        )
        for sessions in SESSIONS
    }
    sizes = cellar[1]
    echo_server = bench.echo(reply_bytes=sizes.reply_bytes)
    echo = {
        calls: bench.case(
            "echo_calls",
            Series(case=f"{calls} at once", contestant="echo", model="", unit="messages"),
            echo_server,
            load,
            calls=calls,
            request_bytes=sizes.request_bytes,
        )
        for calls in SESSIONS
    }
    bare = bench.bare(runtime, SIZE, batch=1)
    pairs = [case for sessions in SESSIONS for case in (cellar[sessions], echo[sessions])]
    findings.series = alternate([*pairs, bare], bench.pace)
    rounds = zip(cellar[1].series.samples, echo[1].series.samples, bare.series.samples, strict=True)
    findings.figures["lone_step_added_ms"] = Figure.of(
        [ours.p50_ms - theirs.p50_ms - model.p50_ms for ours, theirs, model in rounds]
    )
    # A message is a step here, of the echo as well.
    findings.figures["unary_echo_ratio"] = ratio(cellar[64].series, echo[64].series, speed)
    findings.figures["lone_unary_added_cpu_us"] = difference(cellar[1].series, echo[1].series, cpu)


GROUP = Group(
    name="unary",
    keys=("lone_step_added_ms", "unary_echo_ratio", "lone_unary_added_cpu_us"),
    measure=measure,
    beside_cpu=("lone_step_added_ms",),
)
