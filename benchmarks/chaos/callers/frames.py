"""A caller with frames of many sessions on a stream, who does all himself: no client library."""

import asyncio
import time
from collections import Counter, deque
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.chaos.callers.calls import (
    Connection,
    Subject,
    World,
    is_gone,
    is_stale,
    passes,
    told,
)
from benchmarks.chaos.callers.frame import Frame, TroubleError, read, write
from benchmarks.chaos.callers.lives import (
    EVERY,
    RAW,
    Ghost,
    begin_again,
    haunt,
    lost,
    open_session,
    some_steps,
)
from benchmarks.chaos.oracle.history import (
    DIGEST,
    DUPLICATE,
    INFERRED,
    REPLAYED,
    Ask,
    Ints,
    digest,
)
from cellar.calls import status
from cellar.errors import CellarError
from cellar.v1 import session_pb2

_NEVER = -1000.0
_STRIKES = 3
_WINDOW = 3  # frames in flight at most
_GHOSTS = 6


class FrameCaller:
    """Steps many sessions of one model.

    Args:
        rows: how many sessions.
        every_step: ask for the prediction after every step.
        pause_s: between two frames, in the mean.
    """

    def __init__(
        self, world: World, subject: Subject, *, rows: int, every_step: bool, pause_s: float
    ) -> None:
        self._world, self._history, self._subject = world, world.history, subject
        self._every_step = every_step
        self._pause_s = pause_s
        self._connection = Connection(world)
        self._ids = [world.new_id("frames") for _ in range(rows)]
        self._era: Ints = np.full(rows, -1, np.int64)
        self._next: Ints = np.zeros(rows, np.int64)  # once all that is pending is applied
        self._useless: set[int] = set()
        self._pending: list[Frame] = []
        self._duplicates: dict[int, Frame] = {}
        self._answered: deque[Frame] = deque(maxlen=12)
        self._undurable: deque[tuple[int, Ints, Ints]] = deque()  # group, eras, positions
        self._strikes: Counter[int] = Counter()  # refusals of a row, in a row
        self._trouble_s = _NEVER
        self._number = 0

    async def run(self) -> None:
        """Go on until it is time to stop and all is answered."""
        while self._pending or not self._world.stopping.is_set():
            try:
                await self._stream()
                if not self._world.stopping.is_set():
                    await self._renew_some()
            except (TroubleError, TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                self._trouble_s = time.monotonic()
                self._history.faults["retry"] += len(self._pending)
                self._duplicates.clear()
                await asyncio.sleep(0.05 + 0.2 * self._world.chance.random())
                await self._connection.renew()
        await self._renew_some()
        await self._connection.close()

    # -- one stream -----------------------------------------------------------------------

    async def _stream(self) -> None:
        chance = self._world.chance
        call = self._connection.stub.Stream()
        try:
            outputs = EVERY if self._every_step else RAW
            start = session_pb2.StreamStart(model=self._subject.name, outputs=outputs)
            await write(call, session_pb2.StreamRequest(start=start))
            await read(call)
            await self._attach(call)
            for frame in self._pending:
                await write(call, frame.message(self._subject))
            for _ in range(chance.randint(5, 60)):
                while len(self._pending) < chance.randint(1, _WINDOW):
                    if self._world.stopping.is_set() or len(self._useless) == len(self._ids):
                        break
                    await write(call, self._new_frame().message(self._subject))
                if not self._pending:
                    break
                await self._hear(call)
                if chance.random() < 0.03 and self._answered:
                    await self._send_again(call)
                if self._pause_s:
                    await asyncio.sleep(self._pause_s * 2 * chance.random())
            while self._pending or self._duplicates:
                await self._hear(call)
            await call.done_writing()
        finally:
            call.cancel()

    async def _attach(self, call: Any) -> None:
        """Attach all sessions; those that are new are opened."""
        new = np.flatnonzero((self._era < 0) & ~self._is_useless())
        if len(new):
            exist = await self._attach_rows(call, new, open_first=True)
            if exist:
                await self._attach_rows(call, np.array(exist), open_first=False)
        known = np.flatnonzero((self._era >= 0) & ~np.isin(np.arange(len(self._ids)), new))
        if len(known):
            await self._attach_rows(call, known, open_first=False)

    async def _attach_rows(self, call: Any, rows: Ints, *, open_first: bool) -> list[int]:
        """Returns those that are open already, though they were to be opened."""
        known = rows[self._era[rows] >= 0].tolist()
        asked = self._history.tick()
        asks = {row: self._history.ask(int(self._era[row]), "attach") for row in known}
        attach = session_pb2.StreamAttach(
            session_ids=[self._ids[row] for row in rows], channels=rows.tolist(), open=open_first
        )
        await write(call, session_pb2.StreamRequest(attach=attach))
        left, exist = set(rows.tolist()), []
        gone: dict[int, CellarError] = {}
        while left:
            attached = (await read(call)).attached
            branches = getattr(attached, "branches", ()) or [0] * len(attached.channels)
            for row, position, branch in zip(
                attached.channels, attached.positions, branches, strict=True
            ):
                left.discard(row)
                self._place(row, asks.get(row) or asked, position, branch)
            for refused in attached.errors:
                left.discard(refused.channel)
                error = status.from_row(refused)
                self._history.refusals[error.reason] += 1
                if open_first and error.reason == "SESSION_EXISTS":
                    exist.append(refused.channel)
                elif is_gone(error) and refused.channel in asks:
                    gone[refused.channel] = error
                else:
                    raise TroubleError(str(error))
        for row, error in gone.items():
            await self._replace(row, error)
        if gone:
            raise TroubleError("sessions were replaced")
        return exist

    def _place(self, row: int, ask: Ask | int, position: int, branch: int) -> None:
        """A session was attached: it is there. Of one that is new, ``ask`` is when, in ticks."""
        if isinstance(ask, int):
            self._era[row] = self._history.begin(
                self._ids[row], self._subject.name, branch=branch, asked=ask
            )
            if position:
                words = f"{self._ids[row]} was opened, and stands at {position}"
                self._history.note("doubled", words)
                self._useless.add(row)
            self._next[row] = position
            return
        era = told(self._world, ask, position, branch)
        if era is None:
            self._useless.add(row)
            self._forget(row)
        elif era != self._era[row]:  # what was on its way is of a past that is gone
            self._settle(row, position, is_last_too=True)
            self._era[row], self._next[row] = era, position
            self._forget(row)
        else:
            self._settle(row, position)

    def _settle(self, row: int, position: int, *, is_last_too: bool = False) -> None:
        """Of what is pending on a row, steps below its position are applied, the others are not.

        The last one that was applied is still pending, as its reply can be had, or ``is_last_too``.
        """
        for frame in self._pending:
            (found,) = np.flatnonzero(frame.rows == row)[:1].tolist() or (None,)
            if found is None or not frame.waiting[found]:
                continue
            before, after = frame.before[found], frame.before[found] + frame.counts[found]
            if before < position < after:
                self._history.note("different", f"{self._ids[row]} stopped within a request")
                self._useless.add(row)
                self._forget(row)
                return
            if after < position + is_last_too:  # nobody can tell the reply any more
                step = frame.row(found)
                self._history.tell_steps(
                    step.era,
                    step.position + np.arange(len(step.inputs)),
                    step.inputs,
                    flags=INFERRED,
                    sent=frame.sent,
                )
                frame.waiting[found] = False
        self._tidy()

    def _forget(self, row: int) -> None:
        for frame in self._pending:
            frame.waiting[frame.rows == row] = False
        self._tidy()

    def _tidy(self) -> None:
        self._pending = [frame for frame in self._pending if frame.waiting.any()]

    # -- frames ---------------------------------------------------------------------------

    def _is_useless(self) -> NDArray[np.bool_]:
        return np.isin(np.arange(len(self._ids)), list(self._useless))

    def _new_frame(self) -> Frame:
        chance = self._world.chance
        dice = np.random.default_rng(chance.getrandbits(64))
        share = 1.0 if chance.random() < 0.6 else chance.random()
        usable = np.flatnonzero(~self._is_useless())
        rows = usable[dice.random(len(usable)) < share]
        rows = rows if len(rows) else usable[:1]
        single = chance.random() < 0.8
        counts = np.ones_like(rows) if single else dice.integers(1, 5, len(rows))
        before = self._next[rows].copy()
        self._next[rows] = before + counts
        self._number += 1
        frame = Frame(
            number=self._number,
            rows=rows,
            eras=self._era[rows].copy(),
            before=before,
            counts=counts,
            inputs=some_steps(self._world, self._subject, int(counts.sum())),
            waiting=np.ones(len(rows), np.bool_),
            sent=self._history.send(self._era[rows], before + counts),
        )
        self._pending.append(frame)
        return frame

    async def _send_again(self, call: Any) -> None:
        """Send a frame that was answered."""
        old = self._world.chance.choice(self._answered)
        self._number += 1
        again = old.again(
            self._number, waiting=self._era[old.rows] == old.eras, sent=self._history.tick()
        )
        if not again.waiting.any():
            return
        self._duplicates[again.number] = again
        self._history.faults["duplicate"] += 1
        await write(call, again.message(self._subject))

    async def _hear(self, call: Any) -> None:
        """Take in one message."""
        reply = (await read(call)).reply
        frame = self._duplicates.get(reply.frame) or next(
            (each for each in self._pending if each.number == reply.frame), None
        )
        if frame is None:
            raise TroubleError(f"a reply to frame {reply.frame}, which is not on its way")
        if reply.channels:
            self._take(frame, reply)
        for refused in reply.errors:
            self._refused(frame, refused)
        if not frame.waiting.any():
            if frame.is_duplicate:
                del self._duplicates[frame.number]
            else:
                self._pending.remove(frame)
                self._answered.append(frame)

    def _take(self, frame: Frame, reply: session_pb2.StreamReply) -> None:
        channels = np.array(reply.channels, np.int64)
        at = np.searchsorted(frame.rows, channels)
        owner, within = frame.steps_of(at)
        positions = frame.before[at][owner] + within
        if (np.array(reply.positions, np.int64) != frame.before[at] + frame.counts[at]).any():
            self._history.note("different", f"{self._ids[channels[0]]}…: a reply is elsewhere")
            raise TroubleError("a reply is elsewhere")
        replayed = np.isin(channels, np.array(reply.replayed, np.int64))
        flags = np.where(replayed, REPLAYED, 0)[owner]
        flags |= DUPLICATE if frame.is_duplicate else 0
        last = within == frame.counts[at][owner] - 1
        has_digest = np.ones_like(last) if self._every_step else last
        digests = np.zeros(len(owner), np.uint64)
        raw = np.array(reply.predictions.raw, np.float32)
        digests[has_digest] = digest(raw.reshape(int(has_digest.sum()), -1))
        self._history.tell_steps(
            frame.eras[at][owner],
            positions,
            frame.inputs[frame.starts[at][owner] + within],
            flags=(flags | np.where(has_digest, DIGEST, 0)).astype(np.uint8),
            digests=digests,
            sent=frame.sent,
        )
        frame.waiting[at] = False
        self._strikes.clear()
        group, durable = (int(getattr(reply, name, 0)) for name in ("group", "durable_group"))
        if group and not frame.is_duplicate:
            self._undurable.append((group, frame.eras[at], frame.before[at] + frame.counts[at]))
        while self._undurable and self._undurable[0][0] <= durable:
            _, eras, afters = self._undurable.popleft()
            np.maximum.at(self._history.durable, eras, afters)

    def _refused(self, frame: Frame, refused: session_pb2.RowError) -> None:
        error = status.from_row(refused)
        self._history.refusals[error.reason] += 1
        if not frame.is_duplicate:
            if not (passes(error) or is_stale(error)):
                self._strikes[refused.channel] += 1
                if self._strikes[refused.channel] > _STRIKES:
                    self._give_up(refused.channel, error)
            raise TroubleError(str(error))
        (at,) = np.flatnonzero(frame.rows == refused.channel)
        frame.waiting[at] = False

    def _give_up(self, row: int, error: CellarError) -> None:
        """A step is refused wherever the session is: nobody can tell what it has read."""
        if error.reason == "REPLY_LOST" and error.position is not None:
            self._settle(row, error.position, is_last_too=True)
        else:
            self._history.note("different", f"{self._ids[row]}: a step is refused: {error}")
            self._useless.add(row)
            self._forget(row)

    # -- between streams ------------------------------------------------------------------

    async def _renew_some(self) -> None:
        """Let some sessions begin again, and send what comes too late for them."""
        chance = self._world.chance
        rows = [row for row in range(len(self._ids)) if self._era[row] >= 0]
        chosen = {row for row in rows if chance.random() < 0.06} - self._useless
        ghosts = self._ghosts(chosen)  # useless ones are left, and do not end on the server
        for row in sorted(chosen | self._useless):
            await self._begin_again(row)
        for ghost in ghosts:
            await haunt(self._world, self._connection, self._subject, ghost)
        self._answered.clear()

    def _ghosts(self, chosen: set[int]) -> list[Ghost]:
        found = [
            frame.row(at)
            for frame in self._answered
            for at in np.flatnonzero(np.isin(frame.rows, list(chosen))).tolist()
        ]
        return self._world.chance.sample(found, min(_GHOSTS, len(found)))

    async def _begin_again(self, row: int) -> None:
        if row in self._useless:
            self._history.end(int(self._era[row]))
            self._history.current.pop(self._ids[row], None)
            session = self._world.new_id("frames")
            era = await open_session(self._world, self._connection, self._subject, session)
        else:
            era = await begin_again(
                self._world,
                self._connection,
                self._subject,
                int(self._era[row]),
                trouble_s=self._trouble_s,
            )
        self._take_era(row, era)

    async def _replace(self, row: int, error: CellarError) -> None:
        """A session is gone: what was pending on it is, too."""
        self._forget(row)
        era = await lost(self._world, self._connection, self._subject, int(self._era[row]), error)
        self._take_era(row, era)

    def _take_era(self, row: int, era: int | None) -> None:
        if era is None:
            self._useless.add(row)
            return
        self._useless.discard(row)
        self._era[row], self._next[row] = era, 0
        self._ids[row] = self._history.eras[era].session


__all__ = ["FrameCaller"]
