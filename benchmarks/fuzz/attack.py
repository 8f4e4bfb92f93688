"""Batches of hostile messages, and what is looked at after each."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.fuzz.judge import Finding, findings, is_counted
from benchmarks.fuzz.messages.cases import MARK, Case, Key, doomed, make_case, pool
from benchmarks.fuzz.messages.names import LETTERS, PRICES
from benchmarks.fuzz.report import Tally
from benchmarks.fuzz.senders.calls import Connection, Outcome, send
from benchmarks.fuzz.senders.strangers import AT_GRPC, AT_METRICS, meet
from benchmarks.processes import CellarServer, Child, module
from benchmarks.vitals import Vitals, look_at
from cellar.v1 import session_pb2, session_pb2_grpc, values_pb2

PATHS = 64
IDLE_S = 6
SERVE_FLAGS = (
    # Sessions that callers leave behind go soon, and generations have an end.
    f"--idle-timeout-s={IDLE_S}",
    f"--max-idle-timeout-s={IDLE_S}",
    "--max-generate-steps=200",
    "--max-request-steps=2000",
    "--max-frame-steps=4000",
    "--max-horizon=100",
    "--max-sessions=5000",
    f"--max-paths={PATHS}",
    f"--default-paths={PATHS}",
    f"--spare-slots={PATHS}",  # one lost slot, and a forecast with all paths is refused
)
_CONNECTIONS = 4
_AT_ONCE = 48
_KEEP_S = 1.0
_MESSAGES_PER_STRANGER = 150
_STRANGERS_AT_ONCE = 4
_QUIET_S = 15.0
_SLACK = 4  # threads and file descriptors that come and go
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)


class Attack:
    """Sends batches to one server and keeps the tally.

    Args:
        server: the victim, started with ``SERVE_FLAGS``.
        seed: of all that is sent.
        say: is told how it goes.
    """

    def __init__(self, server: CellarServer, seed: int, say: Callable[[str], None]) -> None:
        self.tally = Tally()
        self._server = server
        self._seed = seed
        self._say = say
        self._sent: Counter[tuple[str, str]] = Counter()  # calls that the metrics must know
        self._named: set[str] = set()  # sessions that may be open
        self._errors_read = 0
        self._before: Vitals | None = None

    async def run(self, messages: int, batch_size: int) -> None:
        """Send so many messages, in batches."""
        start, number = time.monotonic(), 0
        async with self._witnesses() as witnesses:
            while self.tally.messages < messages and self._server.is_running():
                size = min(batch_size, messages - self.tally.messages)
                await self.run_batch(number, size, witnesses)
                number += 1
                rate = self.tally.messages / (time.monotonic() - start)
                self._say(
                    f"batch {number}: {self.tally.messages:,} messages, {rate:,.0f} a second, "
                    f"{len(self.tally.failures)} findings"
                )

    async def run_one_batch(self, number: int, size: int) -> None:
        """Send a batch again."""
        async with self._witnesses() as witnesses:
            await self.run_batch(number, size, witnesses)

    async def run_case(self, key: Key) -> tuple[Case, Outcome]:
        """Send one case again, alone."""
        case = make_case(key)
        async with self._witnesses() as witnesses:
            async with self._connections(1) as (connection,):
                await self._open_pool(key.batch, connection.unary)
                outcome = await send(case, connection)
                self._named |= outcome.sessions
                await self._close_sessions((connection,))
            self._note(case, outcome)
            await self._settle(f"--case {key}", witnesses)
        return case, outcome

    async def run_batch(self, number: int, size: int, witnesses: Child) -> None:
        """Send one batch, then look at what it has left."""
        how = f"--batch {self._seed}:{number} --batch-size {size}"
        witnesses.ask("start")
        async with self._connections(_CONNECTIONS) as connections:
            await self._open_pool(number, connections[0].unary)
            strangers = asyncio.create_task(self._let_strangers_in(number, size))
            keeper = asyncio.create_task(self._keep_pool(number, connections[0].unary))
            cases = self._cases(number, size)
            await asyncio.gather(
                *(self._work(cases, connections[each % _CONNECTIONS]) for each in range(_AT_ONCE))
            )
            await strangers
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await self._close_sessions(connections)
        await self._settle(how, witnesses)

    def _cases(self, batch: int, size: int) -> Iterator[Case]:
        """Cases until the batch is full; whoever asks next gets the next."""
        end, item = self.tally.messages + size, 0
        while self.tally.messages < end and self._server.is_running():
            case = make_case(Key(seed=self._seed, batch=batch, item=item))
            self.tally.messages += len(case.messages)
            self.tally.kinds[case.kind] += len(case.messages)
            item += 1
            yield case

    async def _work(self, cases: Iterator[Case], connection: Connection) -> None:
        for case in cases:
            self._note(case, await send(case, connection))

    def _note(self, case: Case, outcome: Outcome) -> None:
        ended = "no end" if outcome.code is None else outcome.code.name
        self.tally.ends[case.method.name][ended] += 1
        self.tally.add(findings(case, outcome))
        self._named |= outcome.sessions
        if is_counted(case, outcome):
            self._sent[case.method.name, ended] += 1

    async def _open_pool(self, batch: int, channel: grpc.aio.Channel) -> None:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        closed = dict.fromkeys(doomed(batch), LETTERS)
        for session, model in {**closed, **pool(batch)}.items():
            opening = session_pb2.OpenSessionRequest(model=model, session_id=session)
            await stub.OpenSession(opening, wait_for_ready=True)
            self._named.add(session)
            self._sent["OpenSession", "OK"] += 1

    async def _close_sessions(self, connections: Sequence[Connection]) -> None:
        """Close what callers have left; what nobody can name expires."""
        ids = iter(self._named)

        async def close(channel: grpc.aio.Channel) -> None:
            stub = session_pb2_grpc.SessionServiceStub(channel)
            for session in ids:
                closing = session_pb2.CloseSessionRequest(session_id=session)
                with suppress(grpc.aio.AioRpcError):
                    await stub.CloseSession(closing)
                    self._sent["CloseSession", "OK"] += 1

        await asyncio.gather(*(close(each.unary) for each in connections for _ in range(8)))
        self._named.clear()

    async def _keep_pool(self, batch: int, channel: grpc.aio.Channel) -> None:
        """Step the sessions that cases name, lest they expire; open them anew where they have."""
        stub = session_pb2_grpc.SessionServiceStub(channel)
        while True:
            await asyncio.sleep(_KEEP_S)
            for session, model in pool(batch).items():
                values = values_pb2.Inputs(values=values_pb2.Values(data=[100.0]))
                inputs = values if model == PRICES else values_pb2.Inputs(text="a")
                step = session_pb2.StepRequest(session_id=session, inputs=inputs)
                opening = session_pb2.OpenSessionRequest(model=model, session_id=session)
                with suppress(grpc.aio.AioRpcError):
                    await stub.OpenSession(opening)
                with suppress(grpc.aio.AioRpcError):
                    await stub.Step(step)

    async def _let_strangers_in(self, batch: int, size: int) -> None:
        at_once = asyncio.Semaphore(_STRANGERS_AT_ONCE)

        async def let_in(number: int) -> None:
            random = Random(f"{self._seed}:{batch}:stranger {number}")
            at_grpc = random.random() < 0.8
            name = random.choice(sorted(AT_GRPC if at_grpc else AT_METRICS))
            address = self._server.address if at_grpc else self._server.metrics
            async with at_once:
                sent = await meet(random, name, address)
            self.tally.messages += sent
            self.tally.kinds[f"stranger: {name.replace('_', ' ')}"] += sent

        await asyncio.gather(*(let_in(each) for each in range(1 + size // _MESSAGES_PER_STRANGER)))

    @asynccontextmanager
    async def _witnesses(self) -> AsyncIterator[Child]:
        witnesses = Child("witness", module("benchmarks.fuzz.witness", self._server.address))
        try:
            witnesses.ask("remember")
            self._before = await self._look()
            yield witnesses
        finally:
            witnesses.close()

    @asynccontextmanager
    async def _connections(self, count: int) -> AsyncIterator[list[Connection]]:
        address = self._server.address
        connections = [
            Connection(
                unary=grpc.aio.insecure_channel(address, options=_OPTIONS),
                streams=grpc.insecure_channel(address, options=_OPTIONS),
            )
            for _ in range(count)
        ]
        try:
            yield connections
        finally:
            for each in connections:
                await each.unary.close()
                each.streams.close()

    # ---- what is left afterwards ----

    async def _settle(self, how: str, witnesses: Child) -> None:
        """Let witnesses finish, then see whether the server is as it was."""
        seen = await asyncio.to_thread(witnesses.ask, "stop")
        found = [_general(fault) for fault in seen["faults"]]
        self.tally.witnessed += seen["rounds"]
        self.tally.slowest_s = max(self.tally.slowest_s, seen["slowest_s"])
        for method, count in seen["calls"].items():
            self._sent[method, "OK"] += count
        if not self._server.is_running():
            found.append("the server has ended")
        else:
            try:
                found += await self._probe()
                found += await self._leaks()
            except OSError as error:
                found.append(f"the metrics page does not answer: {type(error).__name__}")
        found += self._logged()
        self.tally.add([Finding(fault, "server", how) for fault in found])

    async def _probe(self) -> list[str]:
        """Whether a newcomer is served: health, and a forecast that takes all spare slots."""
        async with grpc.aio.insecure_channel(self._server.address, options=_OPTIONS) as channel:
            try:
                health = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=10
                )
                if health.status != health_pb2.HealthCheckResponse.SERVING:
                    return ["the server does not say that it serves"]
                await self._forecast(session_pb2_grpc.SessionServiceStub(channel))
            except grpc.aio.AioRpcError as error:
                return [f"a newcomer is refused: {error.code().name}: {error.details()}"]
        return []

    async def _forecast(self, stub: session_pb2_grpc.SessionServiceStub) -> None:
        opening = session_pb2.OpenSessionRequest(model=PRICES)
        session = (await stub.OpenSession(opening, timeout=10)).session.id
        inputs = values_pb2.Inputs(values=values_pb2.Values(data=[100.0, 101.0]))
        step = session_pb2.StepRequest(session_id=session, inputs=inputs)
        await stub.Step(step, timeout=10)
        forecast = session_pb2.ForecastRequest(session_id=session, horizon=2, paths=PATHS)
        await stub.Forecast(forecast, timeout=10)
        await stub.CloseSession(session_pb2.CloseSessionRequest(session_id=session), timeout=10)
        for method in ("OpenSession", "Step", "Forecast", "CloseSession"):
            self._sent[method, "OK"] += 1

    async def _leaks(self) -> list[str]:
        """What is still held once everybody is gone."""
        give_up = time.monotonic() + _QUIET_S
        while True:
            now = await self._look()
            found = self._held(now)
            if not found or time.monotonic() > give_up:
                break
            await asyncio.sleep(0.1)
        self.tally.rss_mb.append(now.rss_bytes / 2**20)
        for (method, code), count in self._sent.items():
            if now.requests.get((method, code), 0) < count:
                found.append(f"calls of {method} that ended with {code} are not in the metrics")
        return found

    def _held(self, now: Vitals) -> list[str]:
        assert self._before is not None
        found = []
        if now.sessions:
            found.append("sessions keep their slots")
        if now.pending_steps:
            found.append("steps stay pending")
        if now.fds > self._before.fds + _SLACK:
            found.append("file descriptors stay open")
        if now.threads > self._before.threads + _SLACK:
            found.append("threads stay")
        return found

    async def _look(self) -> Vitals:
        process, metrics = self._server.pid, self._server.metrics
        return await asyncio.to_thread(look_at, process, metrics)

    def _logged(self) -> list[str]:
        """What the server has written since it was last read, and should not have."""
        found = []
        for line in self._server.unread():
            if MARK in line:
                found.append("the log holds what a caller sent")
            try:
                entry = json.loads(line)
            except ValueError:
                found.append(f"stdout: {_general(line)}")
                continue
            if entry.get("level") not in ("debug", "info") or "exception" in entry:
                found.append(f"log: {entry.get('event')}: {_last_line(entry.get('exception', ''))}")
        errors = self._server.errors()
        fresh, self._errors_read = errors[self._errors_read :], len(errors)
        if MARK in fresh:
            found.append("stderr holds what a caller sent")
        if fresh.strip():
            found.append(f"stderr: {_last_line(fresh)}")
        return found


def grows(rss_mb: list[float]) -> float:
    """Megabytes by which memory has grown since it was warm, if that is more than comes and goes.

    Compares the medians of the second and the last quarter of the batches.
    """
    quarter = len(rss_mb) // 4
    if quarter < 2:
        return 0.0
    early, late = (sorted(rss_mb[at : at + quarter]) for at in (quarter, len(rss_mb) - quarter))
    grown = late[quarter // 2] - early[quarter // 2]
    return grown if grown > max(16.0, 0.05 * early[quarter // 2]) else 0.0


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return _general(lines[-1]) if lines else ""


def _general(text: str) -> str:
    plain = re.sub(r"0x[0-9a-f]+|'[^']*'|\d+", "…", text.strip())
    return re.sub(r"[^ -~…]+", "?", plain)[:160]


__all__ = ["SERVE_FLAGS", "Attack", "grows"]
