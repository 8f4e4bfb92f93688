"""The sessions of one shard that generate: each draw becomes the next step, columns at a time.

Rows of all generations go back into the shard's queue together, as one request per tick, and share
its batches with everybody's steps. Knows nothing of gRPC.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.served.inputs import InputReader
from service.engine.shard.shard import Shard
from service.engine.work.request import Request
from service.engine.work.work import Caller, Delivery, Draws, Ints, Outputs, Sampling
from service.errors import CellarError, SessionClosedError
from service.metrics import Metrics

SAMPLE = Outputs(sample=True)
_PIECE_STEPS = 256  # the most in one piece
_DECODED_STEPS = 16  # the most in one run: others wait for its end
_UNREAD_STEPS = 4096  # a generation whose client does not read waits beyond this
# Pieces per second of all generations of a shard together. A message costs ten times what a step
# does: a few generations are sent step by step, many of them several steps at a time.
_PIECES_PER_S = 1500.0
_BURST = 64.0  # pieces
_FLIGHTS = 2
_WORTH_HALVING = 128  # rows
_NONE = np.empty(0, np.int64)
_LATEST_S = 0.1  # what was generated is sent by then if nothing follows


class FinishReason(Enum):
    """Why a generation ended."""

    LENGTH = "length"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Generated steps, which the session has read already."""

    tokens: tuple[int, ...]  # models with a vocabulary
    values: tuple[float, ...]  # series models
    text: str
    position: int  # after them
    finish_reason: FinishReason | None


@dataclass(slots=True, eq=False, kw_only=True)
class Generation:
    """One call: its pieces that nobody has taken yet, and how it ended."""

    row: int
    stop: tuple[str, ...]
    longest_stop: int
    tail: str = ""  # the end of the text, where a stop string may begin
    pieces: list[Piece] = field(default_factory=list)
    error: CellarError | None = None
    cancelled: bool = False
    ended: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False, kw_only=True)
class _Rows:
    """What is known of each generation, a column each."""

    slot: Ints
    tenancy: NDArray[np.int32]  # the slot's generation: whose it is
    at: Ints  # the session's position
    left: Ints  # steps to generate
    filled: Ints  # steps that are not in a piece
    unread: Ints  # steps in pieces that nobody has taken
    special: NDArray[np.bool_]  # has stop strings, or was cancelled: to be looked at one by one
    held: NDArray[np.bool_]  # waits for its client to read
    next: NDArray[Any]  # the step to read next
    done: NDArray[Any]  # (rows, _PIECE_STEPS) steps that are not in a piece
    draws: Draws

    @classmethod
    def empty(cls, rows: int, dtype: type[np.generic]) -> "_Rows":
        """So many rows of no generation."""
        return cls(
            slot=np.zeros(rows, np.int64),
            tenancy=np.zeros(rows, np.int32),
            at=np.zeros(rows, np.int64),
            left=np.zeros(rows, np.int64),
            filled=np.zeros(rows, np.int64),
            unread=np.zeros(rows, np.int64),
            special=np.zeros(rows, np.bool_),
            held=np.zeros(rows, np.bool_),
            next=np.zeros(rows, dtype),
            done=np.zeros((rows, _PIECE_STEPS), dtype),
            draws=Draws.repeated(Sampling(), rows),
        )

    def doubled(self) -> "_Rows":
        """The same, and as many empty rows behind them."""
        more = self.empty(len(self.slot), self.next.dtype.type)
        joined = {
            column.name: np.concatenate([getattr(self, column.name), getattr(more, column.name)])
            for column in fields(self)
            if column.name != "draws"
        }
        return _Rows(**joined, draws=Draws.joined((self.draws, more.draws)))


@dataclass(slots=True, eq=False, kw_only=True)
class _Flight:
    """A request that is queued or running."""

    left: int  # rows that are not delivered
    counts: bool = True  # among those that wait for each other
    caller: Caller = field(default_factory=Caller)

    def answered_by(self, deliver: "Callable[[_Flight, Delivery], None]") -> Caller:
        """The caller whose deliveries go there."""
        self.caller.deliver = partial(deliver, self)
        return self.caller


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        tokens=tuple(chain.from_iterable(piece.tokens for piece in pieces)),
        values=tuple(chain.from_iterable(piece.values for piece in pieces)),
        text="".join(piece.text for piece in pieces),
        position=pieces[-1].position,
        finish_reason=pieces[-1].finish_reason,
    )


class Generations:
    """Those of one shard.

    Args:
        shard: where the sessions live.
        reader: says which draws can be the next step, and what text they are.
        metrics: where to count.
    """

    def __init__(self, shard: Shard, reader: InputReader, metrics: Metrics) -> None:
        self._shard = shard
        self._reader = reader
        self._metrics = metrics
        self._rows = _Rows.empty(16, np.int64 if reader.has_tokens else np.float32)
        self._calls: list[Generation | None] = [None] * 16  # by row
        self._free = list(range(15, -1, -1))
        self._ready: list[Ints] = []  # rows whose next step is known
        self._submits = False  # soon
        self._flights = 0  # requests that are queued or running
        self._unsent: deque[int] = deque()  # rows with steps that are not in a piece, oldest first
        self._allowance = _BURST  # pieces that may be sent now
        self._allowed_s = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    def start(
        self,
        slot: int,
        position: int,
        first: NDArray[Any],
        *,
        steps: int,
        sampling: Sampling,
        stop: Sequence[str],
    ) -> Generation:
        """Generate from a session that stands at ``position``.

        ``first`` (1,) is the draw that it reads first.

        Raises:
            BadInputError: the draw cannot be a step.
        """
        if not self._reader.has_tokens:
            first = self._reader.within(first)
            self._reader.values(first).require()
        if not self._free:
            self._grow()
        row = self._free.pop()
        call = self._calls[row] = Generation(
            row=row, stop=tuple(stop), longest_stop=max(map(len, stop), default=0)
        )
        rows = self._rows
        rows.slot[row] = slot
        rows.tenancy[row] = self._shard.slots.generation[slot]
        rows.at[row] = position
        rows.left[row] = steps
        rows.filled[row] = rows.unread[row] = 0
        rows.special[row] = bool(stop)
        rows.held[row] = False
        rows.next[row] = first[0]
        one = Draws.of((sampling,))
        rows.draws.temperature[row] = one.temperature[0]
        rows.draws.top_k[row] = one.top_k[0]
        rows.draws.top_p[row] = one.top_p[0]
        rows.draws.seed[row] = one.seed[0]
        self._go_on(np.array([row]))
        return call

    def take(self, call: Generation) -> Piece | None:
        """What has come since the last time, as one piece."""
        pieces, call.pieces = call.pieces, []
        call.news.clear()
        if not call.ended:
            self._rows.unread[call.row] = 0
            if self._rows.held[call.row]:
                self._rows.held[call.row] = False
                self._go_on(np.array([call.row]))
        return _joined(pieces) if pieces else None

    def cancel(self, call: Generation) -> None:
        """Nobody waits for a generation any more; a step that is queued already may still run."""
        call.cancelled = True
        if not call.ended:
            self._rows.special[call.row] = True
            if self._rows.held[call.row]:
                self._end(call)

    def _go_on(self, rows: Ints) -> None:
        """Let rows read their next step, together with what else goes on in this turn."""
        if len(rows):
            self._ready.append(rows)
        # Two requests are enough to keep the device busy while draws are looked at. With more of
        # them, each would stay as small as it began.
        if self._ready and not self._submits and self._flights < _FLIGHTS:
            self._submits = True
            asyncio.get_running_loop().call_soon(self._submit)

    def _submit(self) -> None:
        self._submits = False
        ready, self._ready = np.concatenate(self._ready), []
        rows = self._rows
        moved = rows.tenancy[ready] != self._shard.slots.generation[rows.slot[ready]]
        over = moved | rows.special[ready]
        if over.any():
            for index in np.flatnonzero(over).tolist():
                call = self._call(ready[index])
                if moved[index]:
                    call.error = SessionClosedError("the session was closed while it generated")
                over[index] = moved[index] or call.cancelled
                if over[index]:
                    self._end(call)
            ready = ready[~over]
        if not len(ready):
            return
        _, first = np.unique(rows.slot[ready], return_index=True)
        if len(first) < len(ready):  # of several on one session, the first is the one that goes on
            self._ready.append(np.delete(ready, first))
            ready = ready[np.sort(first)]
        # A row whose session waits behind somebody's long work must not hold the others up.
        free = self._shard.are_idle(rows.slot[ready])
        if not free.all():
            self._step(ready[~free], _Flight(left=int((~free).sum()), counts=False))
            ready = ready[free]
        special = rows.special[ready]
        halve = not self._flights and len(ready) >= _WORTH_HALVING and not special.any()
        parts = np.array_split(ready, _FLIGHTS) if halve else [ready[~special]]
        for part in parts:
            if len(part):
                flight = self._take_off(part)
                if not self._decode(part, flight):
                    self._step(part, flight)
        if special.any():
            self._step(ready[special], self._take_off(ready[special]))
        self._go_on(_NONE)

    def _take_off(self, rows: Ints) -> _Flight:
        self._flights += 1
        return _Flight(left=len(rows))

    def _decode(self, ready: Ints, flight: _Flight) -> bool:
        rows = self._rows
        return self._shard.submit_decode(
            flight.answered_by(self._deliver),
            slots=rows.slot[ready],
            inputs=rows.next[ready],
            positions=rows.at[ready],
            draws=rows.draws.take(ready),
            origin=ready,
            at_most=min(_DECODED_STEPS, int(rows.left[ready].min())),
        )

    def _step(self, ready: Ints, flight: _Flight) -> None:
        rows = self._rows
        inputs = rows.next[ready]
        self._shard.submit(
            Request(
                slots=rows.slot[ready],
                steps=None,
                inputs=inputs if self._reader.has_tokens else inputs[:, None],
                positions=rows.at[ready],
                outputs=SAMPLE,
                draws=rows.draws.take(ready),
                callers=(flight.answered_by(self._deliver),),
                origin=ready,
            ),
            limited=False,  # they were let in when they began
        )

    def _deliver(self, flight: _Flight, delivery: Delivery) -> None:
        """Rows have read their step, and the next one is drawn; or they were refused."""
        flight.left -= len(delivery.rows)
        if not flight.left:
            flight.caller.let_go()
            self._flights -= flight.counts
        if delivery.error is not None:
            for row in delivery.rows.tolist():
                call = self._call(row)
                call.error = delivery.error
                self._end(call)
            self._go_on(_NONE)
            return
        answers = delivery.answers
        assert answers is not None, "a delivery has answers or an error"
        drawn: NDArray[Any] | None = answers.sampled_tokens
        if drawn is None:
            assert answers.sampled_values is not None, "draws were asked for"
            drawn = self._reader.within(answers.sampled_values)
        if drawn.ndim == 1:
            drawn = drawn[:, None]  # (rows, steps)
        rows, done, steps = self._rows, delivery.rows, drawn.shape[1]
        self._metrics.generated_tokens.inc(drawn.size)
        filled = rows.filled[done]
        read = np.concatenate([rows.next[done, None], drawn[:, :-1]], axis=1)
        rows.done[done[:, None], filled[:, None] + np.arange(steps)] = read
        rows.filled[done] = filled + steps
        rows.at[done] += steps
        rows.left[done] -= steps
        self._unsent.extend(done[filled == 0].tolist())
        over = self._finished(done)
        going_on = done[~over]
        rows.next[going_on] = drawn[~over, -1]
        if not self._reader.has_tokens:
            going_on = self._usable(going_on)
        full = rows.filled[going_on] > _PIECE_STEPS - _DECODED_STEPS
        for row in going_on[full].tolist():
            self._put_piece(self._call(row), None)
        self._send_pieces()
        held = rows.unread[going_on] > _UNREAD_STEPS
        rows.held[going_on] = held
        self._go_on(going_on[~held])

    def _finished(self, done: Ints) -> NDArray[np.bool_]:
        """Which rows end with the step they have just read; these are ended."""
        rows = self._rows
        over: NDArray[np.bool_] = (rows.left[done] == 0) | rows.special[done]
        for index in np.flatnonzero(over).tolist():
            row = int(done[index])
            call = self._call(row)
            if call.cancelled:
                self._end(call)
            elif call.stop and self._meets_stop(call):
                self._put_piece(call, FinishReason.STOP)
                self._end(call)
            elif rows.left[row] == 0:
                self._put_piece(call, FinishReason.LENGTH)
                self._end(call)
            else:
                over[index] = False
        return over

    def _meets_stop(self, call: Generation) -> bool:
        """Whether the last step completes a stop string."""
        row = call.row
        piece = self._reader.symbol(int(self._rows.done[row, self._rows.filled[row] - 1]))
        call.tail += piece
        met = any(word in call.tail for word in call.stop)
        call.tail = call.tail[-call.longest_stop :]
        return met

    def _usable(self, rows: Ints) -> Ints:
        """Those rows whose draw can be the next step; the others fail."""
        steps = self._reader.values(self._rows.next[rows].astype(np.float32))
        for index in np.flatnonzero(steps.bad).tolist():
            call = self._call(rows[index])
            self._put_piece(call, None)
            call.error = steps.explain(index)
            self._end(call)
        return rows[~steps.bad]

    def _send_pieces(self) -> None:
        """Make pieces of what was generated, oldest first, as many as may be sent now."""
        now_s = time.monotonic()
        earned = (now_s - self._allowed_s) * _PIECES_PER_S
        self._allowance = max(self._allowance, min(_BURST, self._allowance + earned))
        self._allowed_s = now_s
        while self._unsent and self._allowance >= 1.0:
            call = self._calls[self._unsent.popleft()]
            if call is not None and self._rows.filled[call.row]:
                self._put_piece(call, None)
                self._allowance -= 1.0
        if self._unsent and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_LATEST_S, self._send_late)

    def _send_late(self) -> None:
        """No step has come for a while that would have sent them."""
        self._timer = None
        if time.monotonic() - self._allowed_s > _LATEST_S / 2:
            self._allowance = float(len(self._unsent))
        self._send_pieces()

    def _put_piece(self, call: Generation, reason: FinishReason | None) -> None:
        rows, row = self._rows, call.row
        count = int(rows.filled[row])
        steps = rows.done[row, :count].tolist()
        rows.filled[row] = 0
        rows.unread[row] += count
        tokens = tuple(steps) if self._reader.has_tokens else ()
        call.pieces.append(
            Piece(
                tokens=tokens,
                values=() if self._reader.has_tokens else tuple(steps),
                text=self._reader.text_of(tokens),
                position=int(rows.at[row]),
                finish_reason=reason,
            )
        )
        call.news.set()

    def _call(self, row: int) -> Generation:
        call = self._calls[row]
        assert call is not None, "a row belongs to its call until the call ends"
        return call

    def _end(self, call: Generation) -> None:
        if self._rows.filled[call.row]:  # it has read them, even if it now fails
            self._put_piece(call, None)
        call.ended = True
        call.news.set()
        self._calls[call.row] = None
        self._free.append(call.row)

    def _grow(self) -> None:
        size = len(self._calls)
        self._rows = self._rows.doubled()
        self._calls += [None] * size
        self._free = list(range(2 * size - 1, size - 1, -1))
