"""What an attack is, and where it finds its victim; all of them are listed in `ATTACKS`."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

AIM = 3.0
"""The p50 of steps of who is polite, over that alone, is at most this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A server that is attacked.

    Attributes:
        host, port: of gRPC, with TLS.
        authority: PEM of the server's authority.
        token: of a principal that means harm.
        wrong: looks like a token of somebody, with a secret that is none.
    """

    host: str
    port: int
    authority: str
    token: str = field(repr=False)
    wrong: str

    @property
    def address(self) -> str:
        """Where gRPC's clients connect to."""
        return f"{self.host}:{self.port}"

    def context(self) -> ssl.SSLContext:
        """For TLS and HTTP/2 to it."""
        context = ssl.create_default_context(cafile=self.authority)
        context.set_alpn_protocols(["h2"])
        return context

    def pem(self) -> bytes:
        """Its authority, for gRPC's clients."""
        return Path(self.authority).read_bytes()


@dataclass(slots=True, kw_only=True)
class Tally:
    """What an attacker did, and what became of it.

    Attributes:
        sent: connections, calls, frames or rows, as the attack counts them.
        answered: calls or rows that were served.
        refused: those that were not, and connections that were not taken.
        cut: connections that the server has ended.
        open: connections that are open now.
        held_s: of those that were cut, how long they lasted.
        refused_s: how long refusals took.
    """

    sent: int = 0
    answered: int = 0
    refused: int = 0
    cut: int = 0
    open: int = 0
    held_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)

    def found(self) -> dict[str, Any]:
        """For JSON; medians of what is a list."""
        times = {"held_s": self.held_s, "refused_s": self.refused_s}
        middles = {name: median(some) if some else None for name, some in times.items()}
        return {**asdict(self), **middles}


Run = Callable[[Victim, Tally, asyncio.Event], Coroutine[Any, Any, None]]
"""Attacks until the event is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One kind of attack.

    Attributes:
        says: what is done, for people.
        run: does it.
        quota: of the principal that means harm, see `Quota`.
        aim: see `AIM`; ``None`` where what is felt is printed and held against nothing.
        most_failed: the share of calls of who is polite that may fail.
    """

    says: str
    run: Run
    quota: Mapping[str, float] = field(default_factory=dict)
    aim: float | None = AIM
    most_failed: float = 0.0


ATTACKS: dict[str, Attack] = {}
"""All of them, by name: whoever has another kind adds it here, and imports it in `attacker`."""


def add(attacks: Mapping[str, Attack]) -> None:
    """Let there be more attacks.

    Raises:
        ValueError: one has the name of another.
    """
    for name, attack in attacks.items():
        if name in ATTACKS:
            raise ValueError(f"there is an attack {name} already")
        ATTACKS[name] = attack
