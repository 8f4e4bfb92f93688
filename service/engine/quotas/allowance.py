"""What each principal has under way, beside what it may have."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

from service.auth.principal import Principal
from service.engine.quotas.bucket import Bucket
from service.errors import BadInputError, CellarError, QuotaExceededError

LEAST_RETRY_S = 0.05
LONGEST_RETRY_S = 5.0
GENERATION_RETRY_S = 1.0
_REFUSED_FRAME_S = 2e-3  # to read a small frame, refuse it and say so takes a tenth of it
_REFUSED_STEP_S = 1e-5  # and for each further step
_LONGEST_PAUSE_S = 1.0
_MEASURED_S = 1.0  # over which it is seen how soon steps are answered
# A step takes some ten passes from the socket to its reply. Beside 200 connections of another
# principal its p50 was 170 ms with a frame of theirs in each, 4 to 9 ms with one in 5, 4 to 7 ms
# with one in 13 (1.1 to 2 ms alone), and they had as many steps as before.
_MOST_PASSES = 8  # without a turn, between two
_STEPS_PER_PASS = 4  # of the frame before: single steps take no longer than a pass
_ERRORS_AT_ONCE = 64  # that the rows of one frame are told


class Allowance:
    """What one principal has under way on all connections and models, held to its quotas.

    Its grant may change at any time: what is under way stays, and what comes is judged anew.

    Attributes:
        principal: whose it is.
        number: another one for each principal, from 1.
        pending_steps: that were taken and are not answered.
        active: flows of it that have steps pending.
        retry_s: the time up to which refused ones were told to come again, by a full queue.
        held_bytes: what it has the server hold.
        steps: that were taken, ever.
    """

    __slots__ = (
        "_answered",
        "_bucket",
        "_clock",
        "_last_turn",
        "_paused_s",
        "_per_s",
        "_room_s",
        "_since_s",
        "active",
        "generations",
        "held_bytes",
        "number",
        "pending_steps",
        "principal",
        "retry_s",
        "steps",
    )

    def __init__(
        self, principal: Principal, number: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.principal = principal
        self.number = number
        self.pending_steps = self.active = self.generations = self.held_bytes = self.steps = 0
        self.retry_s = 0.0
        self._clock = clock
        self._bucket: Bucket | None = None
        self._answered, self._since_s, self._per_s = 0, clock(), 0.0
        self._last_turn: asyncio.Future[None] | None = None
        self._paused_s = 0.0  # up to when its streams that were refused something are not read
        self._room_s = 0.0  # up to when refused ones were told that others are before them

    # -- steps ----------------------------------------------------------------------------

    def charge(self, steps: int, *, pending: int | None = None) -> None:
        """Take steps, of which ``pending`` will be pending at once: all, if nothing is said.

        Raises:
            QuotaExceededError: not now.
            BadInputError: they never may be pending at once.
        """
        quota = self.principal.grant.quota
        if quota.max_pending_steps is not None:
            self._check_pending(steps if pending is None else pending, quota.max_pending_steps)
        rate = quota.max_steps_per_s
        if rate is not None:
            bucket = self._bucket or self._new_bucket()
            if not bucket.take(steps, rate):
                raise self._too_fast(bucket.wait(steps, rate)[0], rate)
        self.steps += steps

    def take_one(self) -> bool:
        """Take a step, if it may be taken now."""
        quota = self.principal.grant.quota
        most, rate = quota.max_pending_steps, quota.max_steps_per_s
        if most is not None and self.pending_steps >= most:
            return False
        if rate is not None and not (self._bucket or self._new_bucket()).take(1, rate):
            return False
        self.steps += 1
        return True

    def take_rows(self, rows: Sequence[int]) -> tuple[int, list[tuple[int, CellarError]]]:
        """Take the steps of rows of a frame, in order, up to one that must come again.

        Args:
            rows: the steps of each.

        Returns:
            How many rows were taken; and for the others, in order, how many are told which error.
        """
        quota = self.principal.grant.quota
        most, rate = quota.max_pending_steps, quota.max_steps_per_s
        taken, refused = len(rows), list[tuple[int, CellarError]]()
        if most is not None:
            room = most - self.pending_steps
            for taken, steps in enumerate(rows):
                room -= steps
                if room < 0:
                    refused = list(self._for_pending(rows[taken:], most))
                    break
            else:
                taken = len(rows)
        if rate is not None:
            bucket = self._bucket or self._new_bucket()
            in_time = bucket.take_rows(rows[:taken], rate)
            if in_time < taken:
                late = rows[in_time:taken]
                taken, refused = in_time, [*self._for_rate(bucket, late, rate), *refused]
        self.steps += sum(rows[:taken])
        return taken, refused

    def pay(self, steps: int) -> float:
        """Take steps that were read already; returns for how many seconds to read no more."""
        self.steps += steps
        rate = self.principal.grant.quota.max_steps_per_s
        if rate is None:
            return 0.0
        return (self._bucket or self._new_bucket()).pay(steps, rate)

    def answered(self, steps: int) -> None:
        """So many steps are pending no longer."""
        self.pending_steps -= steps
        self._answered += steps

    def pause(self, refused_steps: int) -> float:
        """For how many seconds not to read a stream that was refused so many steps.

        All streams of a principal wait one after the other: however many connections send on
        regardless, what it takes to refuse them is a small part of the server's time.
        """
        now_s = self._clock()
        own_s = _REFUSED_FRAME_S + refused_steps * _REFUSED_STEP_S
        self._paused_s = min(max(self._paused_s, now_s) + own_s, now_s + _LONGEST_PAUSE_S)
        return self._paused_s - now_s

    async def turn(self, steps: int) -> None:
        """Wait until no other stream of the principal's has had a turn for some passes of the loop.

        However many connections send at once, others on the loop wait for one frame at a time, and
        where those are large, most passes have none.

        Args:
            steps: of the frame that is read in this turn, as far as can be told.
        """
        loop = asyncio.get_running_loop()
        last, mine = self._last_turn, loop.create_future()
        self._last_turn = mine
        if last is not None and not last.done():
            try:
                await asyncio.shield(last)
            except asyncio.CancelledError:  # whoever is behind it waits for what it waited for
                last.add_done_callback(lambda _: mine.set_result(None))
                raise
        loop.call_soon(_let_go, mine, min(steps // _STEPS_PER_PASS, _MOST_PASSES))

    def _new_bucket(self) -> Bucket:
        self._bucket = Bucket(self._clock)
        return self._bucket

    def _too_fast(self, wait_s: float, rate: float) -> QuotaExceededError:
        return QuotaExceededError(
            "max_steps_per_s",
            f"you may take {rate:g} steps a second: try again in {wait_s:.3g} s",
            retry_after_s=wait_s,
        )

    def _for_rate(
        self, bucket: Bucket, rows: Sequence[int], rate: float
    ) -> Iterator[tuple[int, CellarError]]:
        """What rows are told that come too fast; those that may come again together, the same."""
        errors = 0
        for steps, alike in groupby(rows):
            left = len(list(alike))
            while left:
                errors += 1
                if errors > _ERRORS_AT_ONCE:  # behind all that have a place
                    yield left, self._too_fast(bucket.wait(steps, rate)[0], rate)
                    break
                wait_s, times = bucket.wait(steps, rate, left)
                yield times, self._too_fast(wait_s, rate)
                left -= times

    def _check_pending(self, steps: int, most: int) -> None:
        if steps > most:
            raise _too_many(steps, most)
        if self.pending_steps + steps > most:
            raise self._pending(steps, most)

    def _for_pending(self, rows: Sequence[int], most: int) -> Iterator[tuple[int, CellarError]]:
        for never, alike in groupby(rows, key=lambda steps: steps > most):
            own = list(alike)
            error = _too_many(max(own), most) if never else self._pending(sum(own), most)
            yield len(own), error

    def _pending(self, steps: int, most: int) -> QuotaExceededError:
        """Refused ones come again as others are answered, one after the other."""
        now_s = self._clock()
        if now_s > self._since_s + _MEASURED_S:
            self._per_s = self._answered / (now_s - self._since_s)
            self._answered, self._since_s = 0, now_s
        retry_s = LEAST_RETRY_S
        if self._per_s:
            over = max(0, self.pending_steps + min(steps, most) - most)
            self._room_s = max(self._room_s + steps / self._per_s, now_s + over / self._per_s)
            self._room_s = min(self._room_s, now_s + LONGEST_RETRY_S)
            retry_s = max(self._room_s - now_s, LEAST_RETRY_S)
        return QuotaExceededError(
            "max_pending_steps",
            f"{self.pending_steps} steps of yours are not answered, and {most} may be at once: "
            f"try again in {retry_s:.2g} s",
            retry_after_s=retry_s,
        )

    # -- what lasts -----------------------------------------------------------------------

    @contextmanager
    def generating(self) -> Iterator[None]:
        """A generation or forecast is in progress.

        Raises:
            QuotaExceededError: as many are as may be.
        """
        most = self.principal.grant.quota.max_generations
        if most is not None and self.generations >= most:
            mend = "try again when one has ended" if most else "ask who runs the server"
            raise QuotaExceededError(
                "max_generations",
                f"{self.generations} generations and forecasts of yours run, and {most} may at "
                f"once: {mend}",
                retry_after_s=GENERATION_RETRY_S,
            )
        self.generations += 1
        try:
            yield
        finally:
            self.generations -= 1

    def check_bytes(self, size: int) -> None:
        """Check that it may have the server hold so many bytes more.

        Raises:
            QuotaExceededError: not now.
            BadInputError: it never may.
        """
        most = self.principal.grant.quota.max_waiting_bytes
        if most is None or self.held_bytes + size <= most:
            return
        if size > most:
            raise BadInputError(
                "message",
                f"it would have the server hold {size:,} bytes at once, and you may have it hold "
                f"{most:,}: send it in parts, ask for less",
            )
        raise QuotaExceededError(
            "max_waiting_bytes",
            f"you have the server hold {self.held_bytes:,} bytes, and {size:,} more would be over "
            f"your {most:,}: read replies, send less at once",
            retry_after_s=LEAST_RETRY_S,
        )


def _let_go(turn: "asyncio.Future[None]", passes: int) -> None:
    if passes:
        turn.get_loop().call_soon(_let_go, turn, passes - 1)
    else:
        turn.set_result(None)


def _too_many(steps: int, most: int) -> BadInputError:
    return BadInputError(
        "inputs",
        f"{steps} steps are more than the {most} of yours that may wait for an answer at once: "
        "send them in several requests",
    )


class Allowances:
    """The allowances of all principals that have called, by name.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._named: dict[str, Allowance] = {}

    def of(self, principal: Principal) -> Allowance:
        """That of a principal."""
        found = self._named.get(principal.name)
        if found is None:
            number = len(self._named) + 1
            found = self._named[principal.name] = Allowance(principal, number, self._clock)
        found.principal = principal  # which may have been taken away and given anew
        return found

    def steps(self) -> Counter[str]:
        """Steps that were taken, by the principal's name; any thread may ask."""
        return Counter({name: own.steps for name, own in list(self._named.items())})
