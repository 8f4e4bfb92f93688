"""When what waits runs, where, and how much of it: the rules of batching, and their numbers.

Asked once before every run. Knows nothing of queues, sessions or devices.
"""

from dataclasses import dataclass
from enum import Enum

from service.engine.work.work import Kind

# ---- batching delay (docs/decisions/0017) ----
# A run of one step costs nearly what a run of ten does, and `grpc.aio` accepts one call after the
# other: steps that run as they come run alone, however many callers there are. So a few of them
# wait until there are as many as there usually are. 64 unary callers: 1,810 -> 3,820 steps/s.
# Rows that feed back do not count beside them: they rarely share a run. When they did, each prompt
# ran alone as it came, 32 of 256 generations were there at a time, and a step took 28 % more CPU.
_DELAYED_ROWS = 32  # more wait for nobody: a run of 32 costs what two of 16 do
_NEXT_S = 250e-6  # nobody came for so long: a call takes 150 us from the socket to the queue
_LONGEST_S = 1e-3
_TRY = 32  # of so many runs, one waits for whoever comes
_WEIGHT, _WEIGHT_OF_TRY = 0.3, 0.7  # of the newest run: one that waited for all says more

# ---- turns after a run on the event loop (0009) ----
# A message takes several turns from the socket to the queue. With one turn per run, 256 generations
# reached batches of 27 and 47,000 steps/s; with these, 222 and 121,000.
_SECONDS_PER_TURN = 120e-6
_MOST_TURNS = 8

# ---- overlap scheduling (0016) ----
# The worker gets its next run while it runs one: generation +15 %, frames on 2x512 +6 to 9 %.
_OVERLAPPED_ROWS = 128  # rows that gain nothing from more of them, on a CPU
_RUNS_AT_ONCE = 2  # that the worker may have: one runs, one waits

# ---- rows that feed back (0010) ----
MOST_DECODE_STEPS = 16  # in one run: others wait for its end
_FEW = 1 / 8  # others per row, with which a run of several steps is still faster than sharing
_DECODE_ROOM = 2  # times what may run on the event loop: 8 steps of 64 rows on 2x128
_DEVICE_ROOM_S = 5e-3  # of a device with a thread of its own, whose runs hold up no event loop
_HALF = 64  # rows: of two halves, one runs while the draws of the other are looked at

# ---- turns of callers (0022) ----
# Beside somebody who waits for each step, another's long queue is run in small pieces: a frame of
# 60,000 rows beside a unary caller: p50 89 ms when first come was first served, 7 ms with turns and
# full batches.
_CROWDED_ROWS = 64  # of a batch then, and what a flow has queued on average at least

_COST_WEIGHT = 0.1  # of the newest run in the running mean of its like


class Action(Enum):
    """What to do in this turn."""

    WAIT = "ask again in the next turn"
    NOTHING = "wait until something comes, or a run ends"
    RUN = "run what is next"
    OVERLAP = "hand the worker its next run while it runs one"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do in this turn, and how."""

    action: Action
    decode_steps: int = 1  # that rows that feed back read at once
    feedback_rows: int | None = None  # of them at most


_WAIT, _NOTHING = Decision(Action.WAIT), Decision(Action.NOTHING)
_RUN, _OVERLAP = Decision(Action.RUN), Decision(Action.OVERLAP)


@dataclass(slots=True)
class _Cost:
    """What runs of one kind and size class took, as a running mean."""

    seconds: float = 0.0
    runs: int = 0


class BatchPolicy:
    """The rules of one shard.

    Args:
        inline_run_s: what is expected to take no longer runs on the event loop; less than 0 for a
            device that wants its own thread, where a run may cost the same however many rows it
            has.
        max_batch: the most rows of a batch.
        can_decode: whether the device runs several steps that feed on each other.
        decode_unit: it runs a multiple of so many at once.
    """

    def __init__(
        self, *, inline_run_s: float, max_batch: int, can_decode: bool, decode_unit: int = 1
    ) -> None:
        self.worth_a_batch = max_batch if inline_run_s < 0 else min(_OVERLAPPED_ROWS, max_batch)
        """Rows that gain nothing from more of them."""
        self._inline_run_s = inline_run_s
        self._max_batch = max_batch
        self._can_decode = can_decode
        self._decode_unit = decode_unit
        self._costs: dict[tuple[Kind, int], _Cost] = {}  # see `observe`
        self.loop_turns_left = 0
        """Turns of the event loop before it is asked again: a message takes several."""
        self._usual = 1.0  # rows of a run, lately
        self._runs = 0
        self._enough = 0  # rows of the next run; 0: nobody waits
        self._rows = 0
        self._first_s = 0.0
        self._last_s = 0.0

    def decide(
        self,
        *,
        single_rows: int,
        feedback_rows: int,
        in_flight: int,
        pending_steps: int,
        runs: int,
        now_s: float,
        at_once: bool = False,
    ) -> Decision:
        """Say what to do in this turn.

        Args:
            single_rows: single steps that could run now.
            feedback_rows: rows that feed back and could run now.
            in_flight: steps of such rows in batches that run.
            pending_steps: all that is queued or running.
            runs: that the worker has.
            now_s: seconds, never going back.
            at_once: what is next has waited for a run already.
        """
        if runs == _RUNS_AT_ONCE:
            return _NOTHING
        if not runs and not at_once and self._is_delayed(single_rows or feedback_rows, now_s):
            return _WAIT
        worth_a_batch = single_rows + feedback_rows >= self.worth_a_batch
        if feedback_rows and self._can_decode and not (runs and single_rows >= self.worth_a_batch):
            others, some = pending_steps - feedback_rows - in_flight, feedback_rows
            steps = self._decode_steps(some, others)
            if some >= 2 * _HALF and not (in_flight or self.runs_here(Kind.DECODE, some, steps)):
                some = (some + 1) // 2
                steps = self._decode_steps(some, others)
            if steps > 1 and (not runs or some >= _HALF):
                return Decision(Action.OVERLAP if runs else Action.RUN, steps, some)
        if not runs:
            return _RUN
        return _OVERLAP if worth_a_batch else _NOTHING

    def room(self, pending_steps: int, flows: int, *, few: bool) -> int:
        """The most rows of a batch.

        Args:
            pending_steps: all that is queued or running.
            flows: that have some of them.
            few: whether one of them has few.
        """
        crowded = few and pending_steps > max(self._max_batch, _CROWDED_ROWS * flows)
        return min(self._max_batch, _CROWDED_ROWS) if crowded else self._max_batch

    def runs_here(self, kind: Kind, rows: int, times: int) -> bool:
        """Whether a batch may hold up the event loop; one that goes over its rows several times."""
        if kind is Kind.BARRIER:
            return True
        cost = self._costs.get((kind, rows.bit_length()))
        return cost is not None and cost.seconds * times <= self._inline_run_s

    def observe(self, kind: Kind, rows: int, seconds: float, *, here: bool = False) -> None:
        """Learn what a run over so many rows took, and whether it held up the event loop.

        Runs are alike by kind and size class, a power of two of rows.
        """
        key = kind, rows.bit_length()
        cost = self._costs.get(key)
        if cost is None:
            cost = self._costs[key] = _Cost()
        # The first run of a kind is a cold one: the second takes its place.
        weight = max(_COST_WEIGHT, 1 / max(1, cost.runs))
        cost.seconds += weight * (seconds - cost.seconds)
        cost.runs += 1
        if here:
            self.loop_turns_left = min(_MOST_TURNS, int(seconds / _SECONDS_PER_TURN))

    def _is_delayed(self, rows: int, now_s: float) -> bool:
        """Whether so many rows wait for more; when they do not, the wait is over."""
        if not self._enough:
            if not 0 < rows < _DELAYED_ROWS:
                return False
            self._runs += 1
            self._enough = round(self._usual) if self._runs % _TRY else _DELAYED_ROWS
            self._first_s = self._last_s = now_s
        elif rows > self._rows:
            self._last_s = now_s
        self._rows = rows
        if rows < self._enough and now_s < min(self._last_s + _NEXT_S, self._first_s + _LONGEST_S):
            return True
        weight = _WEIGHT_OF_TRY if self._enough == _DELAYED_ROWS else _WEIGHT
        self._usual += weight * (min(rows, _DELAYED_ROWS) - self._usual)
        self._enough = 0
        return False

    def _decode_steps(self, rows: int, others: int) -> int:
        """Steps that rows that feed back read in one run; 1: their batch is shared with others.

        Single steps of others share their batches, so with more than a few others waiting several
        steps in a run of their own cost more.
        """
        if others > _FEW * rows:
            return 1
        room_s = _DECODE_ROOM * self._inline_run_s if self._inline_run_s >= 0 else _DEVICE_ROOM_S
        drawn = self._costs.get((Kind.DECODE, rows.bit_length()))
        step = self._costs.get((Kind.STEPS, rows.bit_length()))
        expected = step if drawn is None else drawn
        if expected is None:
            return 1
        steps = int(min(MOST_DECODE_STEPS, room_s / max(expected.seconds, 1e-9)))
        if drawn is not None and step is not None and 2 * step.seconds <= room_s:
            # Were it never tried again, it would never look cheaper.
            steps = max(2, self._decode_unit, steps)
        return max(1, steps - steps % self._decode_unit)
