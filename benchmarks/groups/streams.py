"""One stream per session, against an echo of messages of the same size."""

from benchmarks.bench import Bench, Findings, Group
from benchmarks.rounds import Series, alternate, ratio, speed

SIZE = "2x128"
STREAMS = (1, 64, 256)


def measure(bench: Bench, findings: Findings) -> None:
    server, load = bench.cellar(SIZE), bench.load()
    cellar = {
        streams: bench.frames(server, load, SIZE, streams=streams, rows=1) for streams in STREAMS
    }
    sizes = cellar[1]
    echo_server = bench.echo(reply_bytes=sizes.reply_bytes)
    echo = {
        streams: bench.case(
            "echo_streams",
            Series(case=cellar[streams].series.case, contestant="echo", model="", unit="messages"),
            echo_server,
            load,
            streams=streams,
            request_bytes=sizes.request_bytes,
        )
        for streams in STREAMS
    }
    pairs = [case for streams in STREAMS for case in (cellar[streams], echo[streams])]
    findings.series = alternate(pairs, bench.pace)
    findings.figures["streams_echo_ratio"] = ratio(cellar[256].series, echo[256].series, speed)


GROUP = Group(name="streams", keys=("streams_echo_ratio",), measure=measure)
