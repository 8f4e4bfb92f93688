"""Rows that feed back: each draw becomes the session's next step, columns at a time.

Generations and the sampled paths of forecasts are rows of one table. A batch takes those that are
ready, and when it is committed their draws are what they read next: nothing of this leaves the
shard. What was read is handed to the calls in pieces. Knows nothing of devices or gRPC.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.scheduler.feedback.call import FeedbackCall, FinishReason
from service.engine.scheduler.feedback.rows import (
    BURST,
    PARTIES,
    PIECE_STEPS,
    REASONS,
    Fate,
    FeedbackRows,
)
from service.engine.scheduler.feedback.turns import in_turn
from service.engine.work.columns import SAMPLE, Answers, Inputs, Ints
from service.engine.work.replies import Delivery
from service.engine.work.request import Request
from service.engine.work.sampling import Draws
from service.engine.work.work import Decode, Work
from service.errors import CellarError, InternalError

_UNREAD_STEPS = 4096  # a generation whose client does not read waits beyond this
# Pieces per second of all generations of a shard together. A message costs ten times what a step
# does: a few generations are sent step by step, many of them several steps at a time.
_PIECES_PER_S = 1500.0
_DRAWS = ("temperature", "top_k", "top_p", "seed")
_LATEST_S = 0.1  # what was generated is sent by then if nothing follows
_log = structlog.get_logger(__name__)


class Feedback(FeedbackRows):
    """The rows of one shard that feed back: its autoregressive decoding.

    Args:
        tenancy: how often each slot was released, see `SlotManager`.
        bounds: what drawn values are kept within; ``None`` for tokens.
        most_steps: the most steps that a row reads in one batch.
        wake: tells that rows are ready.
        call_later: calls something after so many seconds.
        count: counts steps that generations have drawn.
        hold: calls something once what sessions in these slots have read may be told.
    """

    cancelled = False
    is_inside = True

    # -- calls ----------------------------------------------------------------------------

    def start(
        self,
        call: FeedbackCall,
        *,
        slots: Ints,
        position: int,
        branch: int = 0,
        first: NDArray[Any],
        draws: Draws,
        steps: int,
    ) -> Ints:
        """Let sessions that stand at ``position`` read what they draw, so many steps.

        Args:
            call: whose rows they are.
            slots: of the sessions, (rows,).
            position: where they stand.
            branch: on which branch; 0 for spare slots, which have none.
            first: the draws that they read first, (rows,).
            draws: how they draw on.
            steps: how many each reads.

        Returns:
            The rows, for `cancel` and `taken`.

        Raises:
            InternalError: a draw cannot be a step.
        """
        if self._bounds is not None and not np.isfinite(first).all():
            raise InternalError("the model drew what cannot be its next step")
        while len(self._free) < len(slots):
            self._grow()
        numbers = [self._free.pop() for _ in range(len(slots))]
        for row in numbers:
            self._calls[row] = call
        new, rows = np.array(numbers), np.zeros(len(slots), self._rows.dtype)
        rows["slot"] = slots
        rows["tenancy"] = self._tenancy[slots]
        rows["branch"] = branch
        rows["number"] = np.arange(len(slots))
        rows["at"] = position
        rows["left"] = steps
        rows["is_paced"] = call.is_paced
        rows["special"] = call.watches
        rows["next"] = self.within(first)
        if call.allowance is not None:
            rows["party"] = call.allowance.number % PARTIES
            self._has_parties = True
        for name in _DRAWS:
            rows[name] = getattr(draws, name)
        self._rows[new] = rows
        self._go_on(new)
        self._wake()
        return new

    def within(self, drawn: NDArray[Any]) -> NDArray[Any]:
        """Draws, with values that run away kept within what the model reads."""
        return drawn if self._bounds is None else np.clip(drawn, *self._bounds)

    def taken(self, call: FeedbackCall, row: int) -> None:
        """All pieces of a call's row were taken."""
        if self._calls[row] is not call:
            return  # it has ended, which the call will be told
        self._rows["unread"][row] = 0
        if self._rows["held"][row]:
            self._rows["held"][row] = False
            self._go_on_if_free(row)

    def cancel(self, call: FeedbackCall, rows: Ints) -> None:
        """Nobody waits for a call any more; a batch that holds its rows may still run."""
        call.cancelled = True
        for row in rows.tolist():
            if self._calls[row] is call:
                self._rows["special"][row] = True
                if self._rows["held"][row] or self._rows["paused"][row]:
                    self._rows["fate"][row] = Fate.CANCELLED
                    self._end(np.array([row]))
        self._wake()

    # -- batches --------------------------------------------------------------------------

    def settle(self) -> Request | None:
        """End the ready rows that must not go on, and leave only those that can run now.

        Returns:
            Rows whose session waits behind other work, or does not stand where it did, as a request
            to be judged and queued like any other: they must not hold the others up.
        """
        ready, rows = np.concatenate(self._ready), self._rows
        moved = rows["tenancy"][ready] != self._tenancy[rows["slot"][ready]]
        strays = self._table.strays(rows["slot"][ready], rows["branch"][ready])
        over = moved | strays | rows["special"][ready]
        if over.any():
            for index in np.flatnonzero(over).tolist():
                row = int(ready[index])
                call = self._call(row)
                over[index] = moved[index] or strays[index] or call.cancelled
                if moved[index]:
                    why = "the session was closed while it generated"
                    call.error = self._table.why_closed(int(rows["branch"][row]), why)
                elif strays[index]:
                    call.error = call.error or self._stale(row)
            rows["fate"][ready[over]] = Fate.CANCELLED
            self._end(ready[over])
            ready = ready[~over]
        slots = rows["slot"][ready]
        _, first = np.unique(slots, return_index=True)
        later = ready[:0]
        if len(first) < len(ready):  # of several on one session, the first is the one that goes on
            later = np.delete(ready, first)
            ready = ready[np.sort(first)]
            slots = rows["slot"][ready]
        runs = self._table.idle(slots) & ~self._table.halted(slots)
        runs &= self._table.position[slots] == rows["at"][ready]
        stray = ready[~runs]
        self._ready = [ready[runs], later] if len(later) else [ready[runs]]
        self.ready_rows = len(self._ready[0]) + len(later)
        if not len(stray):
            return None
        # Those are not refused: their step is counted.
        rows["queued"][stray] = self._table.accepted[rows["slot"][stray]] == rows["at"][stray]
        request = self._request(stray)
        request.positions = rows["at"][stray]
        request.branches = rows["branch"][stray]
        return request

    def work(self, *, steps: int, room: int) -> Work | None:
        """Ready rows as work that runs now; `settle` was called in this turn.

        Several steps at once are not for rows that are looked at step by step: whichever kind has
        waited longest runs.
        """
        ready, rows = self._ready[0], self._rows
        if not len(ready):
            return None
        indices = np.arange(len(ready))
        if steps > 1:
            special = rows["special"][ready]
            indices = np.flatnonzero(special == special[0])
            steps = 1 if special[0] else steps
        if len(indices) > room:
            if self._has_parties:
                indices = indices[in_turn(rows["party"][ready[indices]])]
            indices = indices[:room]
        taken = ready[indices]
        steps = min(steps, int(rows["left"][taken].min()))
        self._ready[0] = np.delete(ready, indices)
        self.ready_rows -= len(taken)
        assert steps == 1 or self._call(int(taken[0])).beside is None, "a draw is a whole step"
        at = self._table.begin(rows["slot"][taken], None)
        assert at is not None, "`settle` has seen that they can run"
        if steps == 1:
            request = self._request(taken)
            request.expected = at
            # What is read beside draws does not count: a spare slot's step is not asked for again.
            bits = rows["next"][taken].view(np.int64 if self._bounds is None else np.int32)
            request.contents = bits.astype(np.int64)
            work: Work = request
        else:
            self._table.accept(rows["slot"][taken], steps - 1)
            work = Decode(
                slots=rows["slot"][taken],
                expected=at,
                draws=self._draws(taken),
                reply_to=self,
                rows=taken,
                commit=True,
                feeds_back=True,
                row_steps=steps,
                inputs=rows["next"][taken],
            )
        rows["flying"][taken] = steps
        self.in_flight += steps * len(taken)
        return work

    def feed(self, done: Ints, answers: Answers, run: tuple[int, int] = (0, 0)) -> None:
        """A batch was committed: its rows read on with what they have drawn.

        ``run``: the bucket and the time steps of it, where bits depend on them.
        """
        rows = self._rows
        self.land(done)
        drawn = self.within(answers.columns[self.drawn])
        if drawn.ndim == 1:
            drawn = drawn[:, None]  # (rows, steps)
        steps = drawn.shape[1]
        filled = rows["filled"][done]
        self._done[done[:, None], filled[:, None] + np.arange(steps)] = np.concatenate(
            [rows["next"][done, None], drawn[:, :-1]], axis=1
        )
        if self._ran is None and any(run):
            self._ran = np.zeros((*self._done.shape, 2), np.int64)
        if self._ran is not None:
            self._ran[done[:, None], filled[:, None] + np.arange(steps)] = run
        rows["filled"][done] = filled + steps
        rows["at"][done] += steps
        rows["left"][done] -= steps
        rows["next"][done] = drawn[:, -1]
        paced = rows["is_paced"][done]
        self._count(steps * int(paced.sum()))
        self._unsent.extend(done[(filled == 0) & paced].tolist())
        self._decide(done)
        held = (rows["fate"][done] == Fate.GOES_ON) & (rows["unread"][done] > _UNREAD_STEPS)
        rows["held"][done] = held
        if self._has_parties:
            self._pay(done[paced & (rows["party"][done] > 0)], steps)
            held |= rows["paused"][done]
        self._go_on(done[(rows["fate"][done] == Fate.GOES_ON) & ~held])

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`: hand what was read to the calls."""
        rows = self._rows
        # Between commit and delivery the next run was chosen: a row that cannot go on ended there.
        done = np.array([r for r in delivery.rows.tolist() if self._calls[r] is not None], np.int64)
        if delivery.error is not None:
            self.land(done)
            for row in done.tolist():
                call = self._call(row)
                call.error = call.error or delivery.error
            rows["fate"][done] = Fate.CANCELLED
        fate = rows["fate"][done]
        self._end(done[fate != Fate.GOES_ON])
        full = rows["filled"][done] > PIECE_STEPS - self._most_steps
        full = done[(fate == Fate.GOES_ON) & full]
        for row in full.tolist():
            self._put(row, None)
        self._send_pieces()

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`: the rows end; those that are in the next batch, with that."""
        rows = delivery.rows
        flies = self._rows["flying"][rows] > 0
        for row in rows.tolist():  # what was read and not told is not told any more
            call = self._calls[row]
            if call is not None:
                call.error, call.is_torn = call.error or delivery.error, True
                call.cancelled = True
                self._rows["special"][row] = True
        landed = rows[~flies]
        self._ready = [ready[~np.isin(ready, landed)] for ready in self._ready]
        self.ready_rows = sum(map(len, self._ready))
        try:
            self.deliver(replace(delivery, rows=landed))
        finally:
            self._recount()

    def give_up(self, running: Ints, error: CellarError) -> None:
        """End all rows but those in batches that run: which of them are ready is in doubt."""
        going_on = set(running.tolist())
        rows = [r for r, call in enumerate(self._calls) if call and r not in going_on]
        ended = np.array(rows, np.int64)
        self._ready, self.ready_rows = [], 0
        self._rows["flying"][ended] = 0
        for row in rows:
            call = self._call(row)
            call.error = call.error or error
        self._rows["fate"][ended] = Fate.CANCELLED
        self._rows["queued"][ended] = False
        self._end(ended)
        self._recount()

    # -- inside ---------------------------------------------------------------------------

    def _request(self, rows: Ints) -> Request:
        columns = self._rows
        return Request(
            slots=columns["slot"][rows],
            inputs=self._inputs(rows),
            outputs=SAMPLE,
            draws=self._draws(rows),
            reply_to=self,
            rows=rows,
            feeds_back=True,
        )

    def _inputs(self, rows: Ints) -> Inputs:
        """What rows read next: what they have drawn, and what is given beside it."""
        drawn = self._rows["next"][rows]
        if self._bounds is None:
            return drawn
        beside = self._call(int(rows[0])).beside
        if beside is None:  # nor is there anything beside the draws of the others
            return drawn[:, None]
        inputs = np.empty((len(rows), 1 + beside.shape[1]), np.float32)
        inputs[:, 0] = drawn
        left, places = self._rows["left"][rows], dict[FeedbackCall, list[int]]()
        for place, row in enumerate(rows.tolist()):
            places.setdefault(self._call(row), []).append(place)
        for call, own in places.items():
            assert call.beside is not None, "a model reads something beside all draws, or none"
            inputs[own, 1:] = call.beside[len(call.beside) - left[own]]
        return inputs

    def _draws(self, rows: Ints) -> Draws:
        return Draws(**{name: self._rows[name][rows] for name in _DRAWS})

    def _go_on(self, rows: Ints) -> None:
        if len(rows):
            self._ready.append(rows)
            self.ready_rows += len(rows)

    def _go_on_if_free(self, row: int) -> None:
        """It waits for one thing less."""
        if not (self._rows["held"][row] or self._rows["paused"][row]):
            self._go_on(np.array([row]))
            self._wake()

    def _pay(self, done: Ints, steps: int) -> None:
        """Rows have read so many steps each: those that may not go on yet are paused.

        From then on such a row reads one step at a time, so that it is slow and not in leaps.
        """
        rows = self._rows
        for row in done.tolist():
            call = self._call(row)
            assert call.allowance is not None, "its party is known by that"
            wait_s = call.allowance.pay(steps)
            if wait_s > 0 and rows["fate"][row] == Fate.GOES_ON:
                rows["paused"][row] = rows["special"][row] = True
                self._call_later(wait_s, partial(self._resume, call, row))

    def _resume(self, call: FeedbackCall, row: int) -> None:
        """A paused row may go on."""
        if self._calls[row] is call and self._rows["paused"][row]:
            self._rows["paused"][row] = False
            self._go_on_if_free(row)

    def land(self, rows: Ints) -> None:
        """They are in no batch any more."""
        self.in_flight -= int(self._rows["flying"][rows].sum())
        self._rows["flying"][rows] = 0
        self._rows["queued"][rows] = False

    def _decide(self, done: Ints) -> None:
        """Say which rows end with the step they have just read."""
        rows = self._rows
        fate = np.where(rows["left"][done] == 0, Fate.LENGTH, Fate.GOES_ON)
        if self._bounds is not None:
            bad = (fate == Fate.GOES_ON) & ~np.isfinite(rows["next"][done])
            fate[bad] = Fate.BAD_DRAW
        for index in np.flatnonzero(rows["special"][done]).tolist():
            row = int(done[index])
            call = self._call(row)
            if call.cancelled:
                fate[index] = Fate.CANCELLED
            elif call.watches:
                last = self._done[row, rows["filled"][row] - 1]
                if call.is_over(last):
                    fate[index] = Fate.STOP
        rows["fate"][done] = fate

    def _send_pieces(self) -> None:
        """Make pieces of what was generated, oldest first, as many as may be sent now."""
        now_s = time.monotonic()
        earned = (now_s - self._allowed_s) * _PIECES_PER_S
        self._allowance = max(self._allowance, min(BURST, self._allowance + earned))
        self._allowed_s = now_s
        while self._unsent and self._allowance >= 1.0:
            row = self._unsent.popleft()
            if self._rows["fate"][row] != Fate.GOES_ON:
                continue  # its own delivery follows, and says why it ends
            if self._calls[row] is not None and self._rows["filled"][row]:
                self._put(row, None)
                self._allowance -= 1.0
        if self._unsent and self._timer is None:
            self._timer = self._call_later(_LATEST_S, self._send_late)

    def _send_late(self) -> None:
        """No step has come for a while that would have sent them."""
        self._timer = None
        if time.monotonic() - self._allowed_s > _LATEST_S / 2:
            self._allowance = float(len(self._unsent))
        try:
            self._send_pieces()
        except Exception:  # what is left is sent with what is generated next, or then
            _log.exception("pieces could not be sent")
            self._timer = self._call_later(_LATEST_S, self._send_late)

    def _put(self, row: int, reason: FinishReason | None) -> None:
        self._put_all(self._call(row), np.array([row]), int(self._rows["filled"][row]), reason)

    def _put_all(
        self, call: FeedbackCall, own: Ints, count: int, reason: FinishReason | None
    ) -> None:
        """Hand what some rows of a call have read to it.

        Raises:
            Exception: a fault of ours: it is lost, and the call ends when its rows run next.
        """
        try:
            rows = self._rows
            rows["filled"][own] = 0
            if call.is_paced:
                rows["unread"][own] += count
            if call.is_torn:
                return
            steps = self._done[own, :count]
            position = int(rows["at"][own[-1]])
            if self._ran is not None and call.is_paced:
                call.ran(position, self._ran[own[0], :count])
            self._tell(call, own, partial(call.put, rows["number"][own], steps, position, reason))
        except Exception:
            self._tear(call, own)
            raise

    def _tell(self, call: FeedbackCall, own: Ints, tell: Callable[[], None]) -> None:
        """Tell a call something of its rows, when it may be known outside."""
        told = partial(self._told, call, own, tell)
        if self._hold is None or not call.is_paced:  # paths stay inside
            told()
        else:
            self._hold(self._rows["slot"][own], told)

    def _told(self, call: FeedbackCall, own: Ints, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:  # one call's fault ends that call
            _log.exception("pieces could not be handed over")
            self._tear(call, own)
        if call.cancelled:  # by what it was handed, maybe
            self._look_at(call, own)

    def _tear(self, call: FeedbackCall, own: Ints) -> None:
        """Something of a call was lost: none of it follows."""
        call.error = InternalError("what was generated was lost; the server's log tells why")
        call.is_torn = call.cancelled = True
        self._look_at(call, own)

    def _look_at(self, call: FeedbackCall, own: Ints) -> None:
        """Rows of a call that is over must not go on."""
        for row in own.tolist():
            if self._calls[row] is call:
                self._rows["special"][row] = True

    def _call(self, row: int) -> FeedbackCall:
        call = self._calls[row]
        assert call is not None, "a row belongs to its call until the call ends"
        return call

    def _end(self, ended: Ints) -> None:
        """Rows end as their fates say; those of one call that stand alike, together."""
        rows = self._rows
        alike: dict[tuple[FeedbackCall, int, int], list[int]] = {}
        for row in ended.tolist():
            key = self._call(row), rows["filled"].item(row), rows["fate"].item(row)
            alike.setdefault(key, []).append(row)
        for (call, filled, fate), numbers in alike.items():
            own = np.array(numbers)
            if fate == Fate.BAD_DRAW:
                drawn = rows["next"][own[0]]
                call.error = InternalError(f"the model drew {drawn}: it cannot be its next step")
            if filled:  # they have read them, even if they now fail
                self._put_all(call, own, filled, REASONS.get(fate))
            call.stood_at = int(rows["at"][own[-1]])
            self._tell(call, own, partial(call.end, rows["number"][own], rows["next"][own]))
            for row in numbers:
                self._calls[row] = None
            self._free += numbers
