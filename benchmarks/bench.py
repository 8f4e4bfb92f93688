"""What a group of measurements is given, and what it hands back."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks.networks import model_name, publish
from benchmarks.processes import (
    ROOT,
    BareRuntime,
    CellarServer,
    Child,
    EchoServer,
    GraphRuntime,
    LoadProcess,
)
from benchmarks.rounds import Figure, Loaded, Pace, Series

AnyChild = TypeVar("AnyChild", bound=Child)


@dataclass(slots=True, kw_only=True)
class Findings:
    """The outcome of a group: cases, the figures that become keys, and why some are missing."""

    series: list[Series] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)

    def skip(self, keys: Iterable[str], reason: str) -> None:
        """Say why figures are missing, unless they are there or that has been said."""
        for key in keys:
            if key not in self.figures:
                self.skipped.setdefault(key, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Some measurements that share servers.

    Attributes:
        name: what to call it.
        keys: of the figures it yields; those it cannot are null in the result.
        measure: adds what it finds as it goes; raises UnmeasuredError where it can go no further.
        beside_cpu: those of its keys that hold the server against the CPU, so that they say
            nothing of a server on a GPU.
    """

    name: str
    keys: Sequence[str]
    measure: "Callable[[Bench, Findings], None]"
    beside_cpu: Sequence[str] = ()


class Bench:
    """Starts processes and ends them all.

    Args:
        pace: how long to measure.
        folder: for the models, one repository for each.
        serve_flags: for every ``cellar-serve``.
    """

    def __init__(self, pace: Pace, folder: Path, serve_flags: Sequence[str] = ()) -> None:
        self.pace = pace
        self._folder = folder
        self._serve_flags = tuple(serve_flags)
        self._files: dict[str, Path] = {}
        self._running = ExitStack()
        self._cases = 0

    @property
    def device(self) -> str:
        """What servers run on that no group puts elsewhere."""
        asked = [flag for flag in self._serve_flags if flag.startswith("--device=")]
        return asked[-1].removeprefix("--device=") if asked else "cpu"

    def run(self, child: AnyChild) -> AnyChild:
        """End this one with the others."""
        self._running.callback(child.close)
        return child

    def end_processes(self) -> None:
        """End all that has been started."""
        self._running.close()

    def model(self, size: str) -> Path:
        """The ONNX file of a model, alone in its repository."""
        if size not in self._files:
            self._files[size] = publish(self._folder / size, size)
        return self._files[size]

    def place(self, name: str) -> Path:
        """A new folder on the disk where all is measured; ``TMPDIR`` says which that is."""
        path = self._folder / "places" / name
        path.mkdir(parents=True)
        return path

    def cellar(self, size: str, *flags: str) -> CellarServer:
        """A server of one model."""
        self.model(size)
        return self.cellar_of(self._folder / size, *flags)

    def cellar_of(self, models: Path, *flags: str, tree: Path = ROOT) -> CellarServer:
        """A server of a repository, with the code of this source tree or another."""
        always = self._serve_flags
        if any(flag.startswith("--device=") for flag in flags):
            always = tuple(flag for flag in always if not flag.startswith("--device="))
        return self.run(CellarServer(models, *always, *flags, tree=tree))

    def echo(self, *, reply_bytes: int, tuned: bool = False) -> EchoServer:
        """An echo."""
        return self.run(EchoServer(reply_bytes=reply_bytes, tuned=tuned))

    def load(self) -> LoadProcess:
        """A load."""
        return self.run(LoadProcess())

    def bare_runtime(self, size: str) -> BareRuntime:
        """ONNX Runtime with one model."""
        return self.run(BareRuntime(self.model(size)))

    def graph_runtime(self, size: str) -> GraphRuntime:
        """Cellar's graph of one model, without a server."""
        return self.run(GraphRuntime(self.model(size)))

    def bare(
        self,
        runtime: BareRuntime | GraphRuntime,
        size: str,
        *,
        batch: int,
        sessions: int = 0,
        drawn: bool = False,
    ) -> Loaded:
        """A runtime without a server as a contestant.

        0 sessions are as many as the batch; of more, batches take turns, drawn or one by one.
        """
        name = self._name()
        more = {"sessions": sessions or batch, "drawn": drawn}
        runtime.ask("prepare", case=name, batch=batch, **more)
        series = Series(case=f"batch {batch}", contestant=runtime.name, model=size)
        return Loaded(series=series, server=runtime, load=runtime, name=name)

    def case(
        self,
        do: str,
        series: Series,
        server: CellarServer | EchoServer,
        load: Child,
        **more: object,
    ) -> Loaded:
        """A command of the load as a contestant, see `benchmarks.load`."""
        name = self._name()
        sizes = load.ask(do, case=name, address=server.address, **more)
        return Loaded(
            series=series,
            server=server,
            load=load,
            name=name,
            request_bytes=sizes.get("request_bytes", 0),
            reply_bytes=sizes.get("reply_bytes", 0),
        )

    def frames(
        self,
        server: CellarServer,
        load: Child,
        size: str,
        *,
        streams: int,
        rows: int,
        **papers: str,
    ) -> Loaded:
        """Frames as a contestant; with a row each, one stream per session."""
        case = f"frames {streams} × {rows}" if rows > 1 else _counted(streams, "stream")
        series = Series(case=case, contestant="Cellar", model=size)
        more = {"model": model_name(size), "streams": streams, "rows": rows}
        return self.case("frames", series, server, load, **more, **papers)

    def _name(self) -> str:
        self._cases += 1
        return f"case{self._cases}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


__all__ = ["Bench", "Findings", "Group"]
