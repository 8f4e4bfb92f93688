"""A caller with one session and unary calls, who does all himself: no client library."""

import asyncio
import time

import grpc
import numpy as np

from benchmarks.chaos.callers.calls import (
    DEADLINE_S,
    Connection,
    Subject,
    World,
    branch_of,
    is_gone,
    on,
    told,
)
from benchmarks.chaos.callers.lives import (
    EVERY,
    RAW,
    Ghost,
    begin_again,
    haunt,
    inputs_of,
    lost,
    open_session,
    some_steps,
)
from benchmarks.chaos.oracle.history import (
    DIGEST,
    DRAWN,
    DUPLICATE,
    INFERRED,
    REPLAYED,
    UNKNOWN,
    Floats,
    digest,
)
from benchmarks.chaos.oracle.judge import FORECAST_HORIZON, FORECAST_PATHS
from cellar.errors import CellarError
from cellar.v1 import session_pb2, values_pb2

_PAUSE_S = 0.02
_NEVER = -1000.0


class SingleCaller:
    """Steps one session at a time, in every way that there is."""

    def __init__(self, world: World, subject: Subject) -> None:
        self._world, self._history, self._subject = world, world.history, subject
        self._connection = Connection(world)
        self._era = -1
        self._position = 0
        self._last: Ghost | None = None  # the latest request
        self._last_every = False
        self._ghost: Ghost | None = None
        self._trouble_s = _NEVER

    async def run(self) -> None:
        """Go on until it is time to stop."""
        chance = self._world.chance
        while not self._world.stopping.is_set():
            if self._era < 0:
                session = self._world.new_id("single")
                self._enter(
                    await open_session(self._world, self._connection, self._subject, session)
                )
                continue
            dice, retries = chance.random(), self._history.faults["retry"]
            try:
                if dice < 0.5:
                    await self._step(1, every_step=False)
                elif dice < 0.7:
                    await self._step(chance.randint(2, 40), every_step=chance.random() < 0.7)
                elif dice < 0.8:
                    await self._read()
                elif dice < 0.88:
                    await (self._generate() if self._subject.tokens else self._forecast())
                elif dice < 0.94:
                    await self._send_again()
                elif dice < 0.97 and self._ghost is not None:
                    await haunt(self._world, self._connection, self._subject, self._ghost)
                elif dice > 0.985:
                    await self._begin_again()
            except CellarError as error:
                await self._recover(error)
            if self._history.faults["retry"] > retries:  # of anybody: it is a sign of trouble
                self._trouble_s = time.monotonic()
            await asyncio.sleep(_PAUSE_S * chance.random())
        await self._connection.close()

    # -- what it does ---------------------------------------------------------------------

    async def _step(self, count: int, *, every_step: bool) -> None:
        inputs = some_steps(self._world, self._subject, count)
        step = Ghost(era=self._era, position=self._position, inputs=inputs)
        self._last, self._last_every = step, every_step
        sent = self._history.send(self._era, self._position + count)
        self._position += count
        await self._ask_step(step, sent, every_step=every_step, flags=0)

    async def _send_again(self) -> None:
        """Send the latest request again, which was answered."""
        if self._last is None or self._last.era != self._era:
            return
        self._history.faults["duplicate"] += 1
        sent = self._history.tick()
        await self._ask_step(self._last, sent, every_step=self._last_every, flags=DUPLICATE)

    async def _ask_step(self, step: Ghost, sent: int, *, every_step: bool, flags: int) -> None:
        era = self._history.eras[step.era]
        request = session_pb2.StepRequest(
            session_id=era.session,
            inputs=inputs_of(self._subject, step.inputs),
            position=step.position,
            outputs=EVERY if every_step else RAW,
            **on(era.branch),
        )
        reply = await self._connection.call("Step", request)
        if reply.position != step.position + len(step.inputs):
            self._history.note("different", f"{era.session}: a reply is at {reply.position}")
        has_digest = np.zeros(len(step.inputs), np.bool_)
        has_digest[0 if every_step else -1 :] = True
        digests = np.zeros(len(step.inputs), np.uint64)
        raw = np.array(reply.predictions.raw, np.float32)
        digests[has_digest] = digest(raw.reshape(int(has_digest.sum()), -1))
        flags |= REPLAYED if reply.replayed else 0
        self._history.tell_steps(
            step.era,
            step.position + np.arange(len(step.inputs)),
            step.inputs,
            flags=np.where(has_digest, flags | DIGEST, flags).astype(np.uint8),
            digests=digests,
            sent=sent,
        )
        durable = getattr(reply, "durable_position", 0)
        self._history.durable[step.era] = max(int(self._history.durable[step.era]), durable)

    async def _read(self) -> None:
        ask = self._history.ask(self._era)
        session = self._history.eras[self._era].session
        request = session_pb2.GetSessionRequest(session_id=session)
        found = (await self._connection.call("GetSession", request)).session
        self._go_on(told(self._world, ask, found.position, branch_of(found)), found.position)

    async def _forecast(self) -> None:
        if not self._position:
            return
        seed, session = self._world.chance.randrange(3), self._history.eras[self._era].session
        request = session_pb2.ForecastRequest(
            session_id=session,
            horizon=FORECAST_HORIZON,
            paths=FORECAST_PATHS,
            seed=seed,
            include_paths=True,
            **(on(self._history.eras[self._era].branch) if _FORECAST_HAS_BRANCH else {}),
        )
        ask = self._history.ask(self._era, "Forecast")
        reply = await self._connection.call("Forecast", request)
        if self._history.tell(ask, reply.position):
            paths = np.array([reply.paths], np.float32)
            told_paths = int(digest(paths)[0])
            self._history.tell_forecast(self._era, reply.position, seed, told_paths)

    async def _generate(self) -> None:
        """Generate, and leave it in the middle now and then."""
        chance, start, era = self._world.chance, self._position, self._era
        prompt = some_steps(self._world, self._subject, chance.randint(1, 5))
        seed, most = chance.getrandbits(32), chance.randint(1, 60)
        sent = self._history.send(era, start + len(prompt) + most)
        request = session_pb2.GenerateRequest(
            session_id=self._history.eras[era].session,
            prompt=inputs_of(self._subject, prompt),
            max_steps=most,
            sampling=values_pb2.Sampling(seed=seed),
            position=start,
            **(on(self._history.eras[era].branch) if _GENERATE_HAS_BRANCH else {}),
        )
        at, left = start, chance.randint(1, 10) if chance.random() < 0.3 else most + 1
        call = self._connection.stub.Generate(request, timeout=4 * DEADLINE_S)
        is_whole = False
        try:
            while left:
                piece = await asyncio.wait_for(call.read(), DEADLINE_S)
                if piece is grpc.aio.EOF:
                    break
                if at == start:
                    self._tell_prompt(prompt, start, sent, known=True)
                    at = start + len(prompt)
                tokens = np.array(piece.tokens, np.float32)
                self._history.tell_steps(
                    era, at + np.arange(len(tokens)), tokens, flags=DRAWN, sent=sent, seed=seed
                )
                at, left = at + len(tokens), left - 1
                if piece.position != at:
                    words = f"{self._history.eras[era].session}: a piece is at {piece.position}"
                    self._history.note("different", words)
                is_whole = piece.finish_reason != 0
        except (grpc.aio.AioRpcError, TimeoutError):
            self._history.faults["broken generation"] += 1
        finally:
            call.cancel()
        self._last = None
        self._position = at
        if not is_whole:
            await self._settle(prompt, start, at, sent, seed)

    def _tell_prompt(self, prompt: Floats, start: int, sent: int, *, known: bool) -> None:
        flags = 0 if known else INFERRED
        self._history.tell_steps(
            self._era, start + np.arange(len(prompt)), prompt, flags=flags, sent=sent
        )

    async def _settle(self, prompt: Floats, start: int, at: int, sent: int, seed: int) -> None:
        """Find out how far a generation went that began at ``start`` and was told up to ``at``."""
        ask = self._history.ask(self._era)
        session = self._history.eras[self._era].session
        request = session_pb2.GetSessionRequest(session_id=session, settle=True)
        found = (await self._connection.call("GetSession", request)).session
        if found.position >= at:
            # What it had read beyond what was written is taken back, on another branch; all that
            # was told is there still.
            self._history.eras[self._era].branch = branch_of(found)
        era = told(self._world, ask, found.position, branch_of(found))
        if era is not None and found.position > at:  # on another branch after that, maybe
            if at == start:
                self._tell_prompt(prompt, start, sent, known=False)
                at += len(prompt)
                if found.position < at:
                    self._history.note("different", f"{session} stopped within its prompt")
            unknown = np.arange(at, found.position)
            self._history.tell_steps(
                self._era,
                unknown,
                np.zeros(len(unknown), np.float32),
                flags=DRAWN | UNKNOWN | INFERRED,
                sent=sent,
                seed=seed,
            )
            self._position = found.position
        elif era == self._era and at == start:
            # The request may still be on its way, and would be taken if it came now.
            self._trouble_s = time.monotonic()
            await self._begin_again()
            return
        self._go_on(era, found.position)

    # -- where it is ----------------------------------------------------------------------

    async def _begin_again(self) -> None:
        if self._last is not None and self._last.era == self._era:
            self._ghost = self._last
        self._enter(
            await begin_again(
                self._world,
                self._connection,
                self._subject,
                self._era,
                trouble_s=self._trouble_s,
            )
        )

    def _enter(self, era: int | None) -> None:
        self._era, self._position, self._last = -1 if era is None else era, 0, None

    def _go_on(self, era: int | None, position: int) -> None:
        """Go on from where the session is; leave it where it cannot be there."""
        if era is None:
            self._history.end(self._era)
            self._history.current.pop(self._history.eras[self._era].session, None)
            self._enter(None)
        elif era != self._era:
            self._enter(era)
            self._position = position

    async def _recover(self, error: CellarError) -> None:
        """A request was refused: find out where the session is."""
        if is_gone(error):
            self._enter(await lost(self._world, self._connection, self._subject, self._era, error))
            return
        step, ask = self._last, self._history.ask(self._era)
        session = self._history.eras[self._era].session
        request = session_pb2.GetSessionRequest(session_id=session, settle=True)
        try:
            found = (await self._connection.call("GetSession", request)).session
        except CellarError as other:
            if not is_gone(other):
                raise
            self._enter(await lost(self._world, self._connection, self._subject, self._era, other))
            return
        era = told(self._world, ask, found.position, branch_of(found))
        if era == self._era and found.position != self._position:
            # Within what was sent, and nobody knows why: begin another session.
            words = f"{session} is at {found.position}, not at {self._position}: {error}"
            self._history.note("different", words)
            era = None
        elif (
            era is not None
            and step is not None
            and step.era == self._era
            and step.position + len(step.inputs) <= found.position
        ):  # it was applied, and its reply is gone
            self._history.tell_steps(
                self._era,
                step.position + np.arange(len(step.inputs)),
                step.inputs,
                flags=INFERRED,
                sent=ask.tick,
            )
        self._go_on(era, found.position)


_GENERATE_HAS_BRANCH = "branch" in session_pb2.GenerateRequest.DESCRIPTOR.fields_by_name
_FORECAST_HAS_BRANCH = "branch" in session_pb2.ForecastRequest.DESCRIPTOR.fields_by_name

__all__ = ["SingleCaller"]
