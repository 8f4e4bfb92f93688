"""Fill a store, kill its server, start another, stop that well, and start once more."""

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import UnmeasuredError
from benchmarks.load.wire import SERVICE, StepBytes, Wire
from benchmarks.networks import model_name, publish
from benchmarks.processes import CellarServer, LoadProcess
from cellar.v1 import session_pb2

SIZE = "2x128"
STREAMS, ROWS = 2, 256
CASE = "filled"
_ROUND_S = 5.0
_PAUSE_S = 0.01  # between two steps of the one who waits while sessions come back
_RESTORED_S = 600.0
_END_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        sessions: how many are open.
        tail_steps: how many each has read since its checkpoint when the server is killed.
        flags: more of the command line.
    """

    sessions: int
    tail_steps: int
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of a server, with sessions in its store.

    Attributes:
        serving_s: from exec until it says that it serves.
        first_step_s: from then until a step of a session is answered.
        restored_s: from then until all sessions are in memory.
        steps: of one caller, one after the other, in that time; each of another session.
        p50_ms, p99_ms, slowest_ms: what these took.
        rss_mb: what it holds once all are there.
    """

    serving_s: float
    first_step_s: float
    restored_s: float
    steps: int
    p50_ms: float
    p99_ms: float
    slowest_ms: float
    rss_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that was measured.

    Attributes:
        steps: that all sessions had read together.
        journal_mb, table_mb: of the store's files when the server was killed.
        after_kill: the start behind that.
        stop_s: from SIGTERM to the end of the process.
        after_stop: the start behind that.
    """

    steps: int
    journal_mb: float
    table_mb: float
    after_kill: Start
    stop_s: float
    after_stop: Start

    def as_json(self) -> dict[str, Any]:
        """The same as plain objects."""
        return asdict(self)


def measure(plan: Plan, tell: Callable[[str], None]) -> Outcome:
    """Do all of it.

    Raises:
        UnmeasuredError: something did not end as it should.
    """
    with tempfile.TemporaryDirectory(prefix="cellar-restart-") as folder, ExitStack() as running:
        models, store = Path(folder, "models"), Path(folder, "store")
        publish(models, SIZE)
        # Nothing but the kill decides how long the tails are.
        flags = (
            f"--store=lmdb:{store}",
            f"--max-sessions={plan.sessions}",
            "--recovery-s=1000000",
            "--checkpoint-steps=1000000",
            *plan.flags,
        )
        server = CellarServer(models, *flags)
        running.callback(lambda: server.close())
        steps = _fill(server, plan, tell)
        tell("killing it")
        server.close()
        sizes = {name: _disk_mb(store / name) for name in ("journal", "table")}
        server, after_kill = _start(models, flags, plan, tell)
        tell("stopping it")
        began_s = time.monotonic()
        status = server.terminate(_END_S)
        stop_s = time.monotonic() - began_s
        if status:
            raise UnmeasuredError(f"SIGTERM ended it with status {status}")
        server.close()
        server, after_stop = _start(models, flags, plan, tell)
        return Outcome(
            steps=steps,
            journal_mb=sizes["journal"],
            table_mb=sizes["table"],
            after_kill=after_kill,
            stop_s=stop_s,
            after_stop=after_stop,
        )


def _fill(server: CellarServer, plan: Plan, tell: Callable[[str], None]) -> int:
    """Let every session read; returns the steps of all together."""
    load = LoadProcess()
    try:
        own = plan.sessions // STREAMS
        load.ask(
            "frames",
            case=CASE,
            address=server.address,
            model=model_name(SIZE),
            streams=STREAMS,
            rows=min(ROWS, own),
            sessions=own,
        )
        steps, wanted = plan.sessions, plan.sessions * plan.tail_steps
        while steps < wanted:
            steps += int(load.ask("run", case=CASE, seconds=_ROUND_S)["steps"])
            tell(f"{steps:,} of {wanted:,} steps read")
        return steps
    finally:
        load.close()


def _start(
    models: Path, flags: tuple[str, ...], plan: Plan, tell: Callable[[str], None]
) -> tuple[CellarServer, Start]:
    tell("starting it")
    began_s = time.monotonic()
    server = CellarServer(models, *flags)
    try:
        serving_s = time.monotonic() - began_s
        return server, asyncio.run(_watch(server, plan, serving_s))
    except BaseException:
        server.close()
        raise


async def _watch(server: CellarServer, plan: Plan, serving_s: float) -> Start:
    """Step one session after another until all are there."""
    dice, began_s = random.Random(1), time.monotonic()
    took_s: list[float] = []
    channel = Wire(server.address)
    call: Any = channel.unary_unary(SERVICE + "Step")
    restored_s = None
    while restored_s is None:
        number = dice.randrange(plan.sessions)
        own = plan.sessions // STREAMS
        name = f"{CASE}-{number // own}-{number % own}"
        sent_s = time.monotonic()
        reply = session_pb2.StepResponse.FromString(await call(_step(name)))
        took_s.append(time.monotonic() - sent_s)
        if reply.position < 2:
            raise UnmeasuredError(f"{name} stands at {reply.position}: it has lost what it read")
        for line in server.unread():
            found = json.loads(line)
            if found.get("event") == "sessions restored":
                if found["failed"] or found["sessions"] > plan.sessions:
                    raise UnmeasuredError(f"not every session was restored: {line.strip()}")
                restored_s = time.monotonic() - began_s
        if time.monotonic() - began_s > _RESTORED_S:
            raise UnmeasuredError(f"not all sessions are there after {_RESTORED_S:g} s")
        await asyncio.sleep(_PAUSE_S)
    await channel.close()
    ordered = sorted(took_s)
    return Start(
        serving_s=serving_s,
        first_step_s=took_s[0],
        restored_s=restored_s,
        steps=len(ordered),
        p50_ms=ordered[len(ordered) // 2] * 1e3,
        p99_ms=ordered[int(len(ordered) * 0.99)] * 1e3,
        slowest_ms=ordered[-1] * 1e3,
        rss_mb=server.rss_bytes() / 1e6,
    )


def _step(session: str) -> bytes:
    """A step of a session, wherever it stands."""
    request = session_pb2.StepRequest.FromString(StepBytes(session, [1]).message(0))
    request.ClearField("position")
    return request.SerializeToString()


def _disk_mb(folder: Path) -> float:
    """What its files take of the disk."""
    files = (path.stat().st_blocks * 512 for path in folder.iterdir() if path.is_file())
    return sum(files) / 1e6


__all__ = ["Outcome", "Plan", "Start", "measure"]
