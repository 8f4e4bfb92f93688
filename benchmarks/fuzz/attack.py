"""Batches of hostile messages, and what is looked at after each."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random

import grpc

from benchmarks.fuzz.aftermath import OPTIONS, Aftermath, general
from benchmarks.fuzz.judge import Finding, findings, is_counted
from benchmarks.fuzz.messages.cases import Case, Key, doomed, make_case, pool
from benchmarks.fuzz.messages.names import LETTERS, PRICES
from benchmarks.fuzz.report import Tally
from benchmarks.fuzz.senders.calls import Connection, Outcome, send
from benchmarks.fuzz.senders.strangers import AT_GRPC, AT_METRICS, meet
from benchmarks.processes import CellarServer, Child, module
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
        self._aftermath = Aftermath(server, paths=PATHS)
        self._named: set[str] = set()  # sessions that may be open

    async def run(self, messages: int, batch_size: int) -> None:
        """Send so many messages, in batches."""
        start, number, said = time.monotonic(), 0, 0
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
                for what, where in self.tally.failures[said:]:
                    self._say(f"  {where}: {what} ({self.tally.found[what, where][0]})")
                said = len(self.tally.failures)

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
        try:
            await self._send_batch(number, size)
        except grpc.aio.AioRpcError as error:
            fault = f"a good caller is refused: {error.code().name}: {general(error.details())}"
            self.tally.add([Finding(fault, "server", how)])
        await self._settle(how, witnesses)

    async def _send_batch(self, number: int, size: int) -> None:
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
            self._aftermath.sent[case.method.name, ended] += 1

    async def _open_pool(self, batch: int, channel: grpc.aio.Channel) -> None:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        closed = dict.fromkeys(doomed(batch), LETTERS)
        for session, model in {**closed, **pool(batch)}.items():
            opening = session_pb2.OpenSessionRequest(model=model, session_id=session)
            await stub.OpenSession(opening, wait_for_ready=True)
            self._named.add(session)
            self._aftermath.sent["OpenSession", "OK"] += 1

    async def _close_sessions(self, connections: Sequence[Connection]) -> None:
        """Close what callers have left; what nobody can name expires."""
        ids = iter(self._named)

        async def close(channel: grpc.aio.Channel) -> None:
            stub = session_pb2_grpc.SessionServiceStub(channel)
            for session in ids:
                closing = session_pb2.CloseSessionRequest(session_id=session)
                with suppress(grpc.aio.AioRpcError):
                    await stub.CloseSession(closing)
                    self._aftermath.sent["CloseSession", "OK"] += 1

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
            await self._aftermath.begin()
            yield witnesses
        finally:
            witnesses.close()

    @asynccontextmanager
    async def _connections(self, count: int) -> AsyncIterator[list[Connection]]:
        address = self._server.address
        connections = [
            Connection(
                unary=grpc.aio.insecure_channel(address, options=OPTIONS),
                streams=grpc.insecure_channel(address, options=OPTIONS),
            )
            for _ in range(count)
        ]
        try:
            yield connections
        finally:
            for each in connections:
                await each.unary.close()
                each.streams.close()

    async def _settle(self, how: str, witnesses: Child) -> None:
        """Let witnesses finish, then see whether the server is as it was."""
        seen = await asyncio.to_thread(witnesses.ask, "stop")
        self.tally.witnessed += seen["rounds"]
        self.tally.slowest_s = max(self.tally.slowest_s, seen["slowest_s"])
        for method, count in seen["calls"].items():
            self._aftermath.sent[method, "OK"] += count
        faults = [general(fault) for fault in seen["faults"]] + await self._aftermath.faults()
        self.tally.rss_mb.append(self._aftermath.rss_mb)
        self.tally.add([Finding(fault, "server", how) for fault in faults])


__all__ = ["SERVE_FLAGS", "Attack"]
