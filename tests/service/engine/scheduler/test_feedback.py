"""Rows that feed back, without a device: what their calls hear, and when."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service import errors
from service.engine.scheduler.feedback.call import FeedbackCall, FinishReason
from service.engine.scheduler.feedback.feedback import Feedback
from service.engine.scheduler.feedback.rows import PIECE_STEPS
from service.engine.sessions.table.table import SessionTable
from service.engine.work.columns import Answers, Ints
from service.engine.work.replies import Delivery
from service.engine.work.sampling import Draws, Sampling
from service.engine.work.work import Work

SLOTS = 8
MOST_STEPS = 16


class Call(FeedbackCall):
    """Writes down what it hears; it ends with a step that is ``last``, if it watches."""

    def __init__(self, *, paced: bool = True, last: int | None = None) -> None:
        self.is_paced = paced
        self.watches = last is not None
        self.read: list[Any] = []
        self.positions: list[int] = []
        self.reasons: list[FinishReason | None] = []
        self.ends = 0
        self._last = last

    def put(
        self, rows: Ints, steps: NDArray[Any], position: int, reason: FinishReason | None
    ) -> None:
        assert not self.ends, "nothing comes behind the end"
        self.read += steps[0].tolist()
        self.positions.append(position)
        self.reasons.append(reason)

    def end(self, rows: Ints, draws: NDArray[Any]) -> None:
        self.ends += 1

    def is_over(self, step: Any) -> bool:
        return bool(step == self._last)


@dataclass(kw_only=True)
class Rig:
    """Plays the shard: a row draws 1 more than it has read, or what the test wants."""

    bounds: tuple[np.float32, np.float32] | None = None
    table: SessionTable = field(default_factory=lambda: SessionTable(SLOTS))
    tenancy: NDArray[np.int32] = field(default_factory=lambda: np.zeros(SLOTS, np.int32))
    wakes: int = 0
    feedback: Feedback = field(init=False)

    def __post_init__(self) -> None:
        self.feedback = Feedback(
            self.table,
            self.tenancy,
            bounds=self.bounds,
            most_steps=MOST_STEPS,
            wake=self._wake,
            call_later=lambda seconds, call: None,
            count=lambda steps: None,
        )

    def _wake(self) -> None:
        self.wakes += 1

    def start(self, call: Call, slot: int, *, steps: int, first: float = 1) -> Ints:
        kind = np.int32 if self.bounds is None else np.float32
        return self.feedback.start(
            call,
            slots=np.array([slot]),
            position=int(self.table.position[slot]),
            first=np.array([first], kind),
            draws=Draws.of((Sampling(),)),
            steps=steps,
        )

    def begin(self, steps: int = 1, room: int = SLOTS) -> Work | None:
        self.feedback.settle()
        return self.feedback.work(steps=steps, room=room)

    def commit(self, work: Work, drawn: float | None = None) -> Delivery:
        """Apply the work, as `Tick.commit` does."""
        steps, slots = work.row_steps, work.slots
        read = work.inputs.ravel()  # type: ignore[attr-defined]
        draws = read[:, None] + np.arange(1, steps + 1)
        if drawn is not None:
            draws[:, -1] = drawn
        draws = draws.astype(np.int32 if self.bounds is None else np.float32)
        answers = Answers({self.feedback.drawn: draws[:, 0] if steps == 1 else draws})
        positions = work.expected + steps
        self.table.commit(slots, positions, contents=np.zeros(len(slots), np.int64), now_s=0.0)
        self.table.serving[slots] += 1
        rows = work.rows
        assert rows is not None
        self.feedback.feed(rows, answers)
        return Delivery(rows=rows, positions=positions, answers=answers)

    def run(self, steps: int = 1, *, drawn: float | None = None) -> Work:
        """One whole turn."""
        work = self.begin(steps)
        assert work is not None
        self.feedback.deliver(self.commit(work, drawn))
        return work

    def run_all(self, *, steps: int) -> None:
        """Turns until no row is ready."""
        while self.feedback.ready_rows:
            self.run(steps)


def test_a_call_reads_what_it_draws_and_hears_where_that_leads() -> None:
    rig, call = Rig(), Call()
    rig.start(call, 0, steps=20)
    rig.run_all(steps=7)
    assert call.read == list(range(1, 21))
    assert call.positions[-1] == 20
    assert call.reasons == [None] * (len(call.reasons) - 1) + [FinishReason.LENGTH]
    assert call.ends == 1
    assert call.error is None
    assert rig.feedback.in_flight == 0


def test_a_call_that_is_not_paced_hears_of_full_pieces_and_the_end() -> None:
    rig, call = Rig(), Call(paced=False)
    rig.start(call, 0, steps=300)
    rig.run_all(steps=MOST_STEPS)
    assert call.read == list(range(1, 301))
    assert len(call.positions) == 2
    assert PIECE_STEPS - MOST_STEPS < call.positions[0] <= PIECE_STEPS


def test_a_piece_that_is_lost_beside_another_calls_ends_its_own() -> None:
    """It is sent when another one's steps are delivered, and a fault is in the way."""
    rig, call, other = Rig(), Call(), Call()
    rig.start(call, 0, steps=20)
    rig.feedback._allowance, rig.feedback._allowed_s = 0.0, math.inf
    rig.run()
    assert not call.read

    def fail(*_: Any) -> None:
        raise MemoryError

    rig.feedback._allowance, rig.feedback._hold = 64.0, fail
    with pytest.raises(MemoryError):
        rig.feedback._send_pieces()
    rig.feedback._hold = None
    rig.start(other, 1, steps=20)
    rig.run_all(steps=1)
    assert other.read == list(range(1, 21))
    assert (call.read, call.ends) == ([], 1)
    assert isinstance(call.error, errors.InternalError)


def test_parts_of_one_batch_keep_their_finish_reasons() -> None:
    """All parts are committed before the first of them is delivered."""
    rig, calls = Rig(), [Call(), Call(last=1)]
    for slot, call in enumerate(calls):
        rig.start(call, slot, steps=1 + slot)
    works = [rig.begin(room=1), rig.begin(room=1)]
    deliveries = [rig.commit(work) for work in works if work is not None]
    assert len(deliveries) == 2
    for delivery in deliveries:
        rig.feedback.deliver(delivery)
    assert [call.reasons for call in calls] == [[FinishReason.LENGTH], [FinishReason.STOP]]
    assert [call.ends for call in calls] == [1, 1]


def test_a_session_closed_between_commit_and_delivery_ends_its_row_once() -> None:
    rig, closed, other, new = Rig(), Call(), Call(), Call()
    rig.start(closed, 0, steps=50)
    rig.start(other, 1, steps=1)
    work = rig.begin()
    assert work is not None
    delivery = rig.commit(work)
    rig.tenancy[0] += 1
    assert rig.begin() is None, "the next run is chosen before the last one is delivered"
    assert closed.ends == 1
    assert isinstance(closed.error, errors.SessionClosedError)
    assert closed.read == [1], "it was applied"
    rig.feedback.deliver(delivery)
    assert closed.ends == 1
    assert other.reasons == [FinishReason.LENGTH]
    rows = [rig.start(new, slot, steps=3).item() for slot in range(2, 8)]
    assert len(set(rows)) == 6, "no row has two calls"


def test_a_cancelled_call_runs_no_more() -> None:
    rig, call = Rig(), Call()
    rows = rig.start(call, 0, steps=50)
    rig.run()
    work = rig.begin()
    assert work is not None
    wakes = rig.wakes
    rig.feedback.cancel(call, rows)
    assert rig.wakes > wakes
    rig.feedback.deliver(rig.commit(work))
    assert call.read == [1, 2], "what ran is applied, and told"
    assert call.ends == 1
    assert rig.begin() is None
    rig.feedback.cancel(call, rows)  # twice changes nothing
    assert call.ends == 1


def test_a_fault_ends_its_rows() -> None:
    rig, call = Rig(), Call()
    rig.start(call, 0, steps=50)
    rig.run()
    work = rig.begin(steps=4)
    assert work is not None
    assert work.rows is not None
    assert rig.feedback.in_flight == 4
    error = errors.StateLostError(1)
    rig.feedback.deliver(Delivery(rows=work.rows, positions=work.expected, error=error))
    assert call.error is error
    assert call.read == [1]
    assert call.ends == 1
    assert rig.feedback.in_flight == 0


def test_a_call_whose_pieces_nobody_takes_waits_until_somebody_does() -> None:
    rig, call = Rig(), Call()
    (row,) = rig.start(call, 0, steps=20_000).tolist()
    rig.run_all(steps=MOST_STEPS)
    held = len(call.read)
    assert 4096 <= held < 6000
    assert not call.ends
    rig.feedback.taken(call, row)
    rig.run_all(steps=MOST_STEPS)
    assert call.read == list(range(1, len(call.read) + 1))
    assert 4096 <= len(call.read) - held < 6000


def test_a_held_call_that_is_cancelled_ends_at_once() -> None:
    rig, call = Rig(), Call()
    rows = rig.start(call, 0, steps=20_000)
    rig.run_all(steps=MOST_STEPS)
    rig.feedback.cancel(call, rows)
    assert call.ends == 1


def test_those_that_are_watched_and_the_others_take_turns_at_several_steps() -> None:
    rig, plain, watched = Rig(), Call(), Call(last=-1)
    rig.start(plain, 0, steps=1000)
    rig.start(watched, 1, steps=1000)
    works = [rig.run(steps=8) for _ in range(6)]
    assert [work.slots.tolist() for work in works] == [[0], [1]] * 3
    assert [work.row_steps for work in works] == [8, 1] * 3
    assert sorted(rig.run(steps=1).slots.tolist()) == [0, 1], "single steps are shared"


def test_of_two_calls_on_one_session_one_goes_on_and_the_other_is_judged() -> None:
    rig, first, second = Rig(), Call(), Call()
    rig.start(first, 0, steps=2)
    rig.start(second, 0, steps=2)
    rig.run()
    assert rig.feedback.ready_rows == 2
    stray = rig.feedback.settle()
    assert stray is not None, "the session does not stand where it did"
    assert stray.rows is not None
    assert stray.positions is not None
    assert stray.positions.tolist() == [0]
    assert rig.feedback.ready_rows == 1
    rig.run()
    assert first.reasons[-1] is FinishReason.LENGTH
    assert second.ends == 0


@pytest.mark.parametrize("first", [np.nan, np.inf])
def test_a_draw_that_cannot_be_a_step_starts_nothing(first: float) -> None:
    rig, call = Rig(bounds=(np.float32(0), np.float32(10))), Call()
    with pytest.raises(errors.InternalError):
        rig.start(call, 0, steps=3, first=first)
    assert rig.feedback.ready_rows == 0


def test_a_draw_that_cannot_be_a_step_ends_its_row_behind_what_was_read() -> None:
    rig, call = Rig(bounds=(np.float32(0), np.float32(10))), Call()
    rig.start(call, 0, steps=9)
    rig.run()
    rig.run(drawn=np.nan)
    assert call.read == [1.0, 2.0]
    assert isinstance(call.error, errors.InternalError)
    assert call.reasons[-1] is None
    assert call.ends == 1


def test_values_that_run_away_are_kept_within_bounds() -> None:
    rig, call = Rig(bounds=(np.float32(0), np.float32(10))), Call()
    rig.start(call, 0, steps=3, first=77)
    rig.run(drawn=1e30)
    rig.run(drawn=-5)
    rig.run()
    assert call.read == [10.0, 10.0, 0.0]


def test_many_rows_find_room() -> None:
    rig = Rig(table=SessionTable(100), tenancy=np.zeros(100, np.int32))
    calls = [Call() for _ in range(100)]
    for slot, call in enumerate(calls):
        rig.start(call, slot, steps=4, first=slot)
    while (work := rig.begin(room=30)) is not None:
        rig.feedback.deliver(rig.commit(work))
    for slot, call in enumerate(calls):
        assert call.read == list(range(slot, slot + 4))
        assert call.reasons[-1] is FinishReason.LENGTH
