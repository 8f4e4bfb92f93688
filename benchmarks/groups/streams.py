"""One stream per session, against an echo of messages of the same size."""

from benchmarks.bench import Bench, Findings, Group
from benchmarks.rounds import Loaded, Series, alternate, ratio, speed

SIZE = "2x128"
STREAMS = (1, 64, 256)


def measure(bench: Bench, findings: Findings) -> None:
    server, load = bench.cellar(SIZE), bench.load()
    cellar = {
        streams: bench.frames(server, load, SIZE, streams=streams, rows=1) for streams in STREAMS
    }
    sizes = cellar[1]

    def echo(streams: int, *, tuned: bool = False) -> Loaded:
        contestant = "echo, tuned" if tuned else "echo"
        case = cellar[streams].series.case
        return bench.case(
            "echo_streams",
            Series(case=case, contestant=contestant, model="", unit="messages"),
            servers[tuned],
            load,
            streams=streams,
            request_bytes=sizes.request_bytes,
        )

    servers = {
        tuned: bench.echo(reply_bytes=sizes.reply_bytes, tuned=tuned) for tuned in (False, True)
    }
    echoes = {streams: echo(streams) for streams in STREAMS}
    tuned = echo(256, tuned=True)
    pairs = [case for streams in STREAMS for case in (cellar[streams], echoes[streams])]
    findings.series = alternate([*pairs, tuned], bench.pace)
    for key, other in (
        ("streams_echo_ratio", echoes[256]),
        ("streams_tuned_echo_ratio", tuned),
    ):
        findings.figures[key] = ratio(cellar[256].series, other.series, speed)


GROUP = Group(
    name="streams", keys=("streams_echo_ratio", "streams_tuned_echo_ratio"), measure=measure
)
