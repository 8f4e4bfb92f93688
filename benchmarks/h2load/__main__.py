"""``make load``: steps at a fixed rate, up to several times what the server can, by h2load.

h2load is nobody's here: it sends what is due whether or not the server keeps up, and says what came
back. Exits with 1 where a call ended as no call should: every step is answered, or refused with a
status that says what to do.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import grpc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import machine
from benchmarks.errors import UnmeasuredError
from benchmarks.h2load.tool import Heard, Tool, drive, find, framed
from benchmarks.networks import model_name, publish
from benchmarks.processes import CellarServer
from benchmarks.report import rounded
from benchmarks.vitals import Vitals, look_at
from cellar.v1 import session_pb2, session_pb2_grpc, values_pb2

SIZE = "2x128"
SHARES = (0.5, 0.8, 1.5, 3.0)
SESSIONS = 16
_FEW = 4  # calls under way per connection, in the closed loop that finds what the server can
_GOOD = frozenset({"OK", "RESOURCE_EXHAUSTED"})
"""How a step may end that is sent to a server with too much to do."""


class Load:
    """A server and what is sent to it.

    Args:
        server: with a model to step.
        tool: h2load.
        sessions: that step, each on a connection of its own.
        seconds: of each rate.
        folder: for files on the way.
    """

    def __init__(
        self, server: CellarServer, tool: Tool, sessions: int, seconds: float, folder: Path
    ) -> None:
        self._server, self._tool, self._seconds, self._folder = server, tool, seconds, folder
        self._url = f"http://{server.address}/cellar.v1.SessionService/Step"
        with grpc.insecure_channel(server.address) as channel:
            stub = session_pb2_grpc.SessionServiceStub(channel)
            opening = session_pb2.OpenSessionRequest(model=model_name(SIZE))
            ids = [stub.OpenSession(opening).session.id for _ in range(sessions)]
        inputs = values_pb2.Inputs(tokens=values_pb2.Tokens(ids=[3]))
        outputs = values_pb2.Outputs(argmax=True)
        self._bodies = [
            framed(session_pb2.StepRequest(session_id=each, inputs=inputs, outputs=outputs))
            for each in ids
        ]

    def capacity(self) -> Heard:
        """What comes of as many steps as are answered."""
        return self._drive(rate=None, streams=_FEW)

    def at(self, rate: float) -> tuple[Heard, int]:
        """What comes of so many steps a second, and how many more ends the metrics know."""
        before = self._look()
        heard = self._drive(rate=rate)
        after = self._look()
        counted = sum(
            count - before.requests.get(key, 0)
            for key, count in after.requests.items()
            if key[0] == "Step"
        )
        return heard, counted

    def _drive(self, *, rate: float | None, streams: int = 1000) -> Heard:
        return drive(
            self._tool,
            self._url,
            self._bodies,
            seconds=self._seconds,
            folder=self._folder,
            rate=rate,
            streams=streams,
        )

    def _look(self) -> Vitals:
        return look_at(self._server.pid, self._server.metrics)


def main() -> None:
    given = _arguments()
    console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 140)
    with tempfile.TemporaryDirectory(prefix="cellar-load-") as name:
        folder = Path(name)
        publish(folder / "models", SIZE)
        try:
            tool = find()
            server = CellarServer(folder / "models", *given.serve_flag)
            try:
                failures = _measure(server, tool, given, folder, console)
            finally:
                server.close()
        except UnmeasuredError as error:
            console.print(f"not measured: {error}", markup=False)
            sys.exit(1)
    for failure in failures:
        console.print(failure, style="bold", markup=False)
    sys.exit(1 if failures else 0)


def _measure(
    server: CellarServer, tool: Tool, given: argparse.Namespace, folder: Path, console: Console
) -> list[str]:
    load = Load(server, tool, given.sessions, given.seconds, folder)
    most = load.capacity().ends["OK"] / given.seconds
    table = Table(title=f"steps on {SIZE}; a closed loop gets {most:,.0f}/s", title_justify="left")
    columns = ("rate/s", "sent", "OK/s", "refused", "no answer", "not counted", "p50 ms", "p99 ms")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("otherwise", overflow="fold")
    failures, cases = [], []
    for rate in given.rate or [share * most for share in SHARES]:
        heard, counted = load.at(rate)
        uncounted = max(0, heard.answered - counted)
        bad = {end: count for end, count in heard.ends.items() if end not in _GOOD and count}
        failures += [f"at {rate:,.0f}/s {count:,} steps ended with {end}"
                     for end, count in bad.items()]  # fmt: skip
        silent = heard.ends["RESOURCE_EXHAUSTED"] - heard.retryable
        if silent > 0:
            failures.append(f"at {rate:,.0f}/s {silent:,} refusals do not say when to try again")
        if uncounted:
            failures.append(f"at {rate:,.0f}/s {uncounted:,} ends are not in the metrics")
        table.add_row(*_row(rate, heard, uncounted, given.seconds), escape(_otherwise(heard, bad)))
        cases.append(_case(rate, heard, uncounted, given.seconds))
    console.print(table)
    outcome = {
        "benchmark": "cellar-load",
        "sessions": given.sessions,
        "seconds": given.seconds,
        "closed_loop_steps_per_s": rounded(most),
        "cases": cases,
        "failures": failures,
        "machine": machine.describe(),
    }
    print(json.dumps(outcome))
    return failures


def _row(rate: float, heard: Heard, uncounted: int, seconds: float) -> Sequence[str]:
    return (
        f"{rate:,.0f}",
        f"{heard.started:,}",
        f"{heard.ends['OK'] / seconds:,.0f}",
        f"{heard.ends['RESOURCE_EXHAUSTED']:,}",
        f"{heard.started - heard.answered:,}",
        f"{uncounted:,}",
        f"{heard.percentile(50):,.1f}",
        f"{heard.percentile(99):,.1f}",
    )


def _otherwise(heard: Heard, bad: dict[str, int]) -> str:
    ends = [f"{count:,} × {end}" for end, count in bad.items()]
    said = [f"“{message}”" for message, _ in heard.messages.most_common(2)]
    return ", ".join(ends + said)


def _case(rate: float, heard: Heard, uncounted: int, seconds: float) -> dict[str, object]:
    return {
        "rate_per_s": rounded(rate),
        "sent": heard.started,
        "ends": dict(heard.ends),
        "no_answer": heard.started - heard.answered,
        "not_counted": uncounted,
        "ok_per_s": rounded(heard.ends["OK"] / seconds),
        "p50_ms": rounded(heard.percentile(50)),
        "p99_ms": rounded(heard.percentile(99)),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.h2load", description=__doc__)
    parser.add_argument(
        "--rate", type=float, action="append", help="steps a second; may be repeated"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each rate")
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="a connection each")
    parser.add_argument(
        "--serve-flag", action="append", default=[], help="for the server; may be repeated"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
