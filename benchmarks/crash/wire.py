"""A stream whose replies go to the sessions' pasts."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.crash.past import Past, Steps
from service.engine.streams.frame import Reply
from service.engine.streams.stream import SessionStream
from service.errors import CellarError
from tests.service.engine.houses import Fakes
from tests.service.engine.wires import RAW


class Wire:
    """Sends frames for some sessions, one writer for each of them.

    Args:
        answered: is called with each row's answer: past, steps, position, predictions.
        refused: the same, where it was refused.
    """

    def __init__(
        self,
        house: Fakes,
        pasts: Sequence[Past],
        *,
        answered: Callable[[Past, Steps, int, list[int]], None],
        refused: Callable[[Past, Steps, CellarError], None],
    ) -> None:
        self._house = house
        self._pasts = pasts
        self._answered = answered
        self._refused = refused
        self._rows: dict[tuple[int, int], Steps] = {}
        self._numbers = 0
        self._news = asyncio.Event()
        self.is_broken = False
        self.stream = SessionStream(
            house.engine,
            house.served,
            outputs=RAW,
            sampling=None,
            send=self._receive,
            break_off=self._broken_off,
        )

    async def attach(self) -> list[tuple[int, int]]:
        """Attach the sessions; returns where each stands, and on which branch."""
        attached = await self.stream.attachments.attach(
            [past.name for past in self._pasts], np.arange(len(self._pasts)), open_sessions=False
        )
        if attached.refusals:
            raise attached.refusals[0].error
        return list(zip(attached.positions.tolist(), attached.branches.tolist(), strict=True))

    def frame(self, asked: dict[int, Steps], *, positions: bool) -> None:
        """Send steps for some channels, with the positions if wanted."""
        self._numbers += 1
        at = [self._pasts[channel].position for channel in asked]
        for channel, steps in asked.items():
            self._pasts[channel].send(steps)
            self._rows[self._numbers, channel] = steps
        tokens = self._house.served.reader.tokens(
            np.array([token for steps in asked.values() for token in steps.tokens])
        )
        if len(asked) == len(tokens) == 1:
            ((channel, steps),) = asked.items()
            position = at[0] if positions else None
            if self.stream.submit_one(channel, position, steps.tokens[0], self._numbers):
                return
        self.stream.submit(
            np.array(list(asked)),
            np.array([len(steps.tokens) for steps in asked.values()]),
            np.array(at) if positions else None,
            tokens,
            number=self._numbers,
        )

    async def all_answered(self) -> None:
        """Wait until each row is, or the stream is broken off."""
        while self._rows and not self.is_broken:
            self._news.clear()
            await self._news.wait()

    def _broken_off(self, error: CellarError) -> None:
        del error
        self.is_broken = True
        self._news.set()

    def _receive(self, reply: Reply) -> None:
        self._news.set()
        for refusal in reply.refusals:
            steps = self._rows.pop((reply.frame, refusal.channel))
            self._refused(self._pasts[refusal.channel], steps, refusal.error)
        if not len(reply.channels):
            return
        assert reply.answers is not None
        assert reply.answers.raw is not None
        values = reply.answers.raw[:, 0].astype(int).tolist()
        for channel, position, value in zip(
            reply.channels.tolist(), reply.positions.tolist(), values, strict=True
        ):
            steps = self._rows.pop((reply.frame, channel))
            self._answered(self._pasts[channel], steps, position, [value])
