"""The attackers' process: ``python -m benchmarks.attack.attacker`` with a victim in JSON.

Commands are ``begin``, with the name of an attack, ``look`` and ``end``. It is nicer than those
beside it: two cores are few, and what is asked is what the server does to others, not what a second
busy process does to them. Its own CPU is told, so that it is seen where it was the limit.
"""

import asyncio
import json
import os
import resource
import sys

import uvloop

import benchmarks.attack.kinds.calls
import benchmarks.attack.kinds.connections
import benchmarks.attack.kinds.streams  # noqa: F401 (these add their attacks)
from benchmarks.attack.attack import ATTACKS, Tally, Victim
from benchmarks.pipe import Reply, answer

_NICE = 5
_END_S = 15.0


class Attacker:
    """Runs one attack after the other."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self._tally = Tally()
        self._ending = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def begin(self, attack: str) -> Reply:
        """Attack, from now on."""
        self._tally, self._ending = Tally(), asyncio.Event()
        self._running = asyncio.create_task(
            ATTACKS[attack].run(self._victim, self._tally, self._ending)
        )
        return {}

    async def look(self) -> Reply:
        """What was done up to now; an attack that failed by its own fault says so."""
        assert self._running is not None, "begin comes first"
        if self._running.done():
            await self._running
        return self._tally.found()

    async def end(self) -> Reply:
        """Let it be over."""
        assert self._running is not None, "begin comes first"
        self._ending.set()
        await asyncio.wait_for(self._running, _END_S)
        return self._tally.found()


if __name__ == "__main__":
    _, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))
    os.nice(_NICE)
    _attacker = Attacker(Victim(**json.loads(sys.argv[1])))
    _commands = (_attacker.begin, _attacker.look, _attacker.end)
    uvloop.run(answer({command.__name__: command for command in _commands}))
