"""Attackers that call, at a rate that does not depend on how soon they are answered."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from benchmarks.attack.attack import Attack, Run, Tally, Victim, add
from benchmarks.attack.kinds.wire import MOST_AT_ONCE, Wire, block_of, message
from benchmarks.fuzz.messages.names import LETTERS
from cellar.v1 import session_pb2 as pb
from cellar.v1 import values_pb2

SERVICE = "/cellar.v1.SessionService/"
RATE = 1000  # calls a second
FEW, MANY = 4, 500  # connections
_SESSIONS = 8
_GREEDY = 100  # times its quota
_TICK_S = 0.004
_SETTLE_S = 0.5
_AT_ONCE = 50  # connections that are being made
_LONG = 2000  # steps of a large request
_STRANGERS_PER_S = 100

Body = Callable[[int], bytes]
"""The message of the n-th call."""


async def connected(victim: Victim, tally: Tally, connections: int) -> list[Wire]:
    """So many connections, or fewer where they are not taken."""
    places = asyncio.Semaphore(_AT_ONCE)
    found: list[Wire] = []

    async def one() -> None:
        async with places:
            try:
                found.append(await Wire.open(victim, tally))
            except OSError:
                tally.refused += 1

    await asyncio.gather(*(one() for _ in range(connections)))
    return found


def calls(
    method: str,
    body: Body,
    *,
    rate: int = RATE,
    connections: int = FEW,
    at_once: int = MOST_AT_ONCE,
    wrong: bool = False,
) -> Run:
    """So many calls a second, one connection after the other; what is cut off comes again.

    Calls of which a connection has too many in progress are left out.
    """

    async def run(victim: Victim, tally: Tally, ending: asyncio.Event) -> None:
        block = block_of(SERVICE + method, victim.wrong if wrong else victim.token)
        wires = await connected(victim, tally, connections)
        if not wrong:
            await _opened(victim, wires[0], tally)
        now = asyncio.get_running_loop().time
        began_s, number = now(), 0
        while not ending.is_set():
            due = int((now() - began_s) * rate)
            for number in range(number, due):  # noqa: B020 (it goes on from there)
                wires[number % len(wires)].call(block, body(number), at_once)
            number = due
            await asyncio.sleep(_TICK_S)
            for index, wire in enumerate(wires):
                if not wire.is_open:
                    with suppress(OSError):
                        wires[index] = await Wire.open(victim, tally)
        for wire in wires:
            wire.close()

    return run


async def _opened(victim: Victim, wire: Wire, tally: Tally) -> None:
    """Have the sessions that calls are for; what is sent for it is not counted."""
    block = block_of(SERVICE + "OpenSession", victim.token)
    for number in range(_SESSIONS):
        request = pb.OpenSessionRequest(model=LETTERS, session_id=f"m-{number}")
        wire.call(block, message(request.SerializeToString()))
    await asyncio.sleep(_SETTLE_S)
    tally.sent = tally.answered = tally.refused = 0


def _step(number: int, text: str = "a") -> bytes:
    request = pb.StepRequest(
        session_id=f"m-{number % _SESSIONS}", inputs=values_pb2.Inputs(text=text)
    )
    return message(request.SerializeToString())


def _large(number: int) -> bytes:
    return _step(number, "a" * _LONG)


def _open(number: int) -> bytes:  # noqa: ARG001
    return message(pb.OpenSessionRequest(model=LETTERS).SerializeToString())


def _generate(number: int) -> bytes:
    request = pb.GenerateRequest(
        session_id=f"m-{number % _SESSIONS}",
        prompt=values_pb2.Inputs(text="a"),
        max_steps=1000,
    )
    return message(request.SerializeToString())


async def _strangers(victim: Victim, tally: Tally, ending: asyncio.Event) -> None:
    """Wrong tokens, each on a connection that is made for it."""
    block, places = block_of(SERVICE + "Step", victim.wrong), asyncio.Semaphore(_AT_ONCE)
    now = asyncio.get_running_loop().time
    began_s, running = now(), set[asyncio.Task[None]]()

    async def one(number: int) -> None:
        async with places:
            try:
                wire = await Wire.open(victim, tally)
            except OSError:
                tally.refused += 1
                return
            before = tally.refused
            wire.call(block, _step(number))
            for _ in range(100):
                await asyncio.sleep(_TICK_S)
                if tally.refused > before:
                    break
            wire.close()

    for number in count():
        if ending.is_set():
            break
        if len(running) < 2 * _AT_ONCE:
            task = asyncio.create_task(one(number))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.sleep(max(0.0, began_s + number / _STRANGERS_PER_S - now()))
    await asyncio.gather(*running, return_exceptions=True)


add(
    {
        "wrong tokens": Attack(
            says=f"{RATE:,} wrong tokens a second on {FEW} connections",
            run=calls("Step", _step, wrong=True),
        ),
        "wrong tokens, many": Attack(
            says=f"{RATE:,} wrong tokens a second on {MANY} connections",
            run=calls("Step", _step, connections=MANY, wrong=True),
        ),
        "wrong tokens, new": Attack(
            says=f"{_STRANGERS_PER_S} wrong tokens a second, a new connection for each",
            run=_strangers,
        ),
        "quota: steps": Attack(
            says=f"{_GREEDY} × its {RATE // _GREEDY} steps a second, one a call",
            run=calls("Step", _step),
            quota={"max_steps_per_s": RATE / _GREEDY},
        ),
        "quota: opens": Attack(
            says=f"{RATE:,} sessions opened a second, of {RATE // _GREEDY} that may be",
            run=calls("OpenSession", _open),
            quota={"max_sessions": RATE // _GREEDY},
        ),
        "quota: generations": Attack(
            says=f"{RATE:,} generations a second, of {RATE // _GREEDY} that may be at once",
            run=calls("Generate", _generate),
            quota={"max_generations": RATE // _GREEDY},
        ),
        "quota: large steps": Attack(
            says=f"{_GREEDY} requests of {_LONG:,} steps a second, of {_LONG:,} steps that may be",
            run=calls("Step", _large, rate=_GREEDY),
            quota={"max_steps_per_s": _LONG},
        ),
        "no quota: callers": Attack(
            says="64 callers that step again as soon as they are answered, on 16 connections",
            run=calls("Step", _step, rate=20 * RATE, connections=16, at_once=4),
        ),
        "no quota: calls": Attack(
            says="5,000 steps a second, one a call, which is more than the server can",
            run=calls("Step", _step, rate=5 * RATE, connections=16),
        ),
        "no quota: generations": Attack(
            says="400 generations of 1,000 steps begun a second",
            run=calls("Generate", _generate, rate=400, connections=16),
        ),
    }
)
