"""Calls that last, and whose caller may not make them any more in the middle: when they end.

With ``-s`` it says how long each took.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from cellar.v1 import session_pb2 as pb
from cellar.v1 import session_pb2_grpc
from cellar.v1.values_pb2 import Inputs
from service.auth.principal import Role
from tests.certificates import written
from tests.e2e.access.calls import ask
from tests.e2e.access.houses import CLIENTS, STRANGE, House, channel_to, house
from tests.service.auth.tokens import Tokens, bearer

REFUSED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
_SOON_S = 5.0  # files are looked at every second, and the machine may be busy


@dataclass
class Streaming:
    """A stream that steps its one session without an end.

    Attributes:
        answered: the numbers of the frames that were, in their order.
        seconds: what each took.
    """

    call: Any
    name: str
    answered: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @classmethod
    async def begin(cls, made: House, who: str) -> Streaming:
        """With a session of its own, on the channel 1."""
        stub: Any = session_pb2_grpc.SessionServiceStub(made.streams)
        self = cls(stub.Stream(metadata=bearer(made.named[who]), timeout=60), f"stream-{who}")
        await self._tell(start=pb.StreamStart(model="letters"))
        attach = pb.StreamAttach(session_ids=[self.name], channels=[1], open=True)
        assert not (await self._tell(attach=attach)).attached.errors
        return self

    async def _tell(self, **message: Any) -> pb.StreamResponse:
        await self.call.write(pb.StreamRequest(**message))
        answer = await self.call.read()
        assert answer is not grpc.aio.EOF
        found: pb.StreamResponse = answer
        return found

    async def step(self) -> None:
        """One frame, and its answer."""
        began, number = time.perf_counter(), len(self.answered)
        frame = pb.StreamFrame(
            channels=[1], positions=[number], inputs=Inputs(text="x"), number=number
        )
        reply = (await self._tell(frame=frame)).reply
        assert not reply.errors, reply
        self.answered.append(reply.frame)
        self.seconds.append(time.perf_counter() - began)


def flood(made: House, who: str, answered: list[int]) -> tuple[grpc.StatusCode, float]:
    """Sends frames and reads answers until the call ends; notes the numbers of those answered.

    Returns how and when it ended. It waits, on a thread of its own.
    """
    over = threading.Event()

    def requests() -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(start=pb.StreamStart(model="letters"))
        name = f"stream-{who}"
        yield pb.StreamRequest(attach=pb.StreamAttach(session_ids=[name], channels=[1], open=True))
        for number in itertools.count():
            while number - len(answered) > 50:
                if over.wait(0.001):
                    return
            frame = pb.StreamFrame(channels=[1], inputs=Inputs(text="x"), number=number)
            yield pb.StreamRequest(frame=frame)

    stub: Any = session_pb2_grpc.SessionServiceStub(made.channel)
    call = stub.Stream(requests(), metadata=bearer(made.named[who]), timeout=60)
    with suppress(grpc.RpcError):
        for answer in call:
            if answer.WhichOneof("message") == "reply":
                assert not answer.reply.errors, answer
                answered.append(answer.reply.frame)
    over.set()
    return call.code(), time.monotonic()


async def generate(made: House, who: str, told: list[int]) -> tuple[grpc.StatusCode, float]:
    """Generates without an end; notes the positions of pieces, returns how and when it ended."""
    name = f"generate-{who}"
    await made.open(who, name)
    stub: Any = session_pb2_grpc.SessionServiceStub(made.streams)
    request = pb.GenerateRequest(session_id=name, prompt=Inputs(text="x"), max_steps=100_000)
    call = stub.Generate(request, metadata=bearer(made.named[who]), timeout=60)
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        while (piece := await call.read()) is not grpc.aio.EOF:
            told.append(piece.position)
    return await call.code(), time.monotonic()


def revoke(tokens: Tokens) -> None:
    tokens.remove("who")


def take_role(tokens: Tokens) -> None:
    tokens.grant("who", Role.READ)


def take_model(tokens: Tokens) -> None:
    tokens.grant("who", Role.STEP, models=["prices"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "code"),
    [(revoke, REFUSED), (take_role, DENIED), (take_model, DENIED), (None, REFUSED)],
    ids=["revoked", "role", "model", "expired"],
)
async def test_calls_end_soon_and_what_was_read_is_answered(
    change: Callable[[Tokens], None] | None, code: grpc.StatusCode, models: Path, tmp_path: Path
) -> None:
    async with house("mutual", models, tmp_path, store=f"lmdb:{tmp_path / 'store'}") as made:
        expires_in_s = 3.0 if change is None else None
        over = time.monotonic() + 3.0
        made.join("who", Role.STEP, expires_in_s=expires_in_s)
        made.join("other", Role.STEP)
        made.join("root", Role.ADMIN)
        await made.look()
        polite = await Streaming.begin(made, "other")
        answered: list[int] = []
        pieces: list[int] = []
        streaming = asyncio.create_task(asyncio.to_thread(flood, made, "who", answered))
        generating = asyncio.create_task(generate(made, "who", pieces))
        while len(polite.answered) < 100:
            await polite.step()
        if change is not None:
            over = time.monotonic()
            change(made.tokens)
        while not (streaming.done() and generating.done()):
            await polite.step()
            assert time.monotonic() < over + _SOON_S
        (how, ended), (stream_how, stream_ended) = await generating, await streaming
        print(
            f"\nit ends after {stream_ended - over:.2f} s (stream, {len(answered):,} "
            f"frames), {ended - over:.2f} s (generation, {pieces[-1]:,} steps); another's frames "
            f"meanwhile: median {1e3 * sorted(polite.seconds)[len(polite.seconds) // 2]:.2f} ms, "
            f"longest {1e3 * max(polite.seconds):.1f} ms"
        )
        assert (how, stream_how) == (code, code)
        # All that was read is answered, and nothing else has happened to the sessions.
        assert answered == list(range(len(answered)))
        found = await made.listed("root")
        assert found["who", "stream-who"].position == len(answered)
        settle = pb.GetSessionRequest(session_id="generate-who", owner="who", settle=True)
        answer = await made.ask("root", "GetSession", settle)
        session = pb.GetSessionResponse.FromString(answer.messages[0]).session
        assert session.position == pieces[-1]
        for _ in range(50):
            await polite.step()
        assert polite.answered == list(range(len(polite.answered)))


@pytest.mark.long
async def test_certificates_change_in_the_middle_and_nobody_who_is_connected_notices(
    models: Path, tmp_path: Path
) -> None:
    async with house("mutual", models, tmp_path) as made:
        made.join("who", Role.STEP)
        await made.look()
        stream = await Streaming.begin(made, "who")
        await stream.step()
        metadata, path = bearer(made.named["who"]), "/cellar.v1.SessionService/ListSessions"

        async def served(trusts: trustme.CA, shows: trustme.CA) -> bool:
            with channel_to(made.server.port, "mutual", trusts=trusts, shows=shows) as channel:
                return (await ask(channel, path, [b""], metadata)).outcome == "OK"

        new = trustme.CA()
        began = time.monotonic()
        written(tmp_path, new)
        (tmp_path / "clients.pem").write_bytes(STRANGE.cert_pem.bytes())
        while not await served(new, STRANGE):
            await stream.step()
            await asyncio.sleep(0.1)
            assert time.monotonic() < began + _SOON_S
        print(f"\nnew certificates after {time.monotonic() - began:.2f} s")
        assert not await served(new, CLIENTS), "of the authority of before"
        for _ in range(100):
            await stream.step()
        assert stream.answered == list(range(len(stream.answered)))
