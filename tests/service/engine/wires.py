"""Clients of a fake house who file every answer under what they asked."""

import asyncio
from dataclasses import dataclass, field

import numpy as np

from service import errors
from service.auth.principal import NOBODY, Principal, calling
from service.engine.stepping import StepCall, StepResult
from service.engine.streams.frame import Reply
from service.engine.streams.stream import SessionStream
from service.engine.work import flow
from service.engine.work.columns import Outputs
from tests.service.engine.fakes import VOCABULARY
from tests.service.engine.houses import Fakes

RAW = Outputs(raw=True)


@dataclass(kw_only=True)
class Row:
    """What was asked of a session, and everything that was answered."""

    tokens: list[int]
    position: int | None
    replies: list[tuple[int, int, bool]] = field(default_factory=list)  # position, state, replayed
    refusals: list[errors.CellarError] = field(default_factory=list)

    def answered(self, position: int, raw: float, replayed: bool) -> None:
        self.replies.append((position, int(raw), replayed))

    @property
    def answers(self) -> int:
        return len(self.replies) + len(self.refusals)

    @property
    def reply(self) -> tuple[int, int, bool]:
        (only,) = self.replies
        return only

    @property
    def refusal(self) -> errors.CellarError:
        (only,) = self.refusals
        return only


class Wire:
    """A stream as a client sees it: it sends frames and files the answers under their rows."""

    def __init__(
        self,
        house: Fakes,
        outputs: Outputs = RAW,
        caller: str = "",
        principal: Principal = NOBODY,
    ) -> None:
        self.rows: dict[tuple[int, int], Row] = {}  # by frame number and channel
        self.order: dict[int, list[int]] = {}  # by channel: numbers of frames that were applied
        self.is_broken = False  # it lost a reply, and ends
        self._house = house
        self._principal = principal
        self._numbers = 0
        token, whose = flow.caller.set(lambda: caller), calling.set(principal)
        self.stream = SessionStream(
            house.engine,
            house.served,
            outputs=outputs,
            sampling=None,
            send=self._receive,
            break_off=self._broken_off,
        )
        flow.caller.reset(token)
        calling.reset(whose)

    async def attach(self, *names: str, first: int = 0) -> "Wire":
        channels = np.arange(first, first + len(names))
        whose = calling.set(self._principal)
        attached = await self.stream.attachments.attach(names, channels, open_sessions=False)
        calling.reset(whose)
        assert not attached.refusals
        return self

    async def attach_again(self, *names: str, first: int = 0) -> "Wire":
        """Let go of the channels, and attach these sessions in their place."""
        channels = np.arange(first, first + len(names))
        await self.stream.attachments.detach(channels, close=False)
        return await self.attach(*names, first=first)

    def single(self, channel: int, token: int, position: int | None = None) -> Row:
        """A frame of one step, by the way that the servicer takes."""
        row = self._row(channel, [token], position)
        reader = self._house.served.reader
        if not self.stream.submit_one(channel, position, token, self._numbers):
            self.stream.submit(
                np.array([channel]),
                None,
                None if position is None else np.array([position]),
                reader.tokens(np.array([token])),
                number=self._numbers,
            )
        return row

    def frame(self, asked: dict[int, tuple[list[int], int]]) -> list[Row]:
        """A frame of several channels: tokens, and a position or -1 for none of the frame's."""
        self._numbers += 1
        found = []
        for channel, (tokens, position) in asked.items():
            row = self.rows[self._numbers, channel] = Row(
                tokens=tokens, position=None if position < 0 else position
            )
            found.append(row)
        sizes = [len(tokens) for tokens, _ in asked.values()]
        positions = [position for _, position in asked.values()]
        self.stream.submit(
            np.array(list(asked)),
            None if max(sizes) == 1 else np.array(sizes),
            None if min(positions) < 0 else np.array(positions),
            self._house.served.reader.tokens(
                np.array([token for tokens, _ in asked.values() for token in tokens])
            ),
            number=self._numbers,
        )
        return found

    def _row(self, channel: int, tokens: list[int], position: int | None) -> Row:
        self._numbers += 1
        row = self.rows[self._numbers, channel] = Row(tokens=tokens, position=position)
        return row

    def _broken_off(self, error: errors.CellarError) -> None:
        self.is_broken = True

    def _receive(self, reply: Reply) -> None:
        for refusal in reply.refusals:
            self.rows[reply.frame, refusal.channel].refusals.append(refusal.error)
        if not len(reply.channels):
            return
        assert reply.answers is not None
        assert reply.answers.raw is not None
        argmax = reply.answers.argmax
        for index, channel in enumerate(reply.channels.tolist()):
            raw = float(reply.answers.raw[index, 0])
            assert argmax is None or argmax[index] == raw % VOCABULARY
            row = self.rows[reply.frame, channel]
            row.answered(int(reply.positions[index]), raw, reply.replayed)
            if not reply.replayed:
                self.order.setdefault(channel, []).append(reply.frame)


def ask(
    house: Fakes, name: str, tokens: list[int], position: int | None, *, branch: int = 0
) -> tuple[Row, StepCall | None]:
    """A unary step, without the wait; whoever cancels it still hears what became of it."""
    row = Row(tokens=tokens, position=position)

    def answered(done: "asyncio.Future[StepResult]") -> None:
        error = done.exception()
        if isinstance(error, errors.CellarError):
            row.refusals.append(error)
            return
        result = done.result()
        assert result.answers.raw is not None
        row.answered(result.position, result.answers.raw[0, 0], result.replayed)

    steps = house.served.reader.tokens(np.array(tokens))
    try:
        call = house.engine.step(name, steps, outputs=RAW, position=position, branch=branch)
    except (errors.StateLostError, errors.StaleBranchError) as error:  # which is said at once
        row.refusals.append(error)
        return row, None
    call.done.add_done_callback(answered)
    return row, call
