"""A device whose arithmetic gives every mix-up away."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest, Prediction, PredictionKind, State, TokensInput
from service.engine.execution.runner import UnwrittenError, check_rows, check_slots
from service.engine.work.columns import Answers, Floats, Inputs, Ints, Outputs
from service.engine.work.sampling import Draws

VOCABULARY = 64
MODULUS = 9973
# Tokens that travel as a number, see `DecodingRunner.read`; a state of zeros has read nothing.
_TOKENS: list[tuple[int, ...]] = [()]


def fake_manifest(*, lengths: bool = True) -> Manifest:
    """The manifest of the model that ``FakeRunner`` plays."""
    return Manifest(
        name="fake",
        input=TokensInput(vocabulary=tuple(chr(0x4E00 + i) for i in range(VOCABULARY))),
        lengths="lengths" if lengths else None,
        states=(State(input="s", output="s_next", shape=(1,)),),
        prediction=Prediction(output="y", kind=PredictionKind.LOGITS, width=VOCABULARY),
    )


def advance(state: int, token: int) -> int:
    """The fake recurrence: any lost, doubled or swapped step changes the number."""
    return (state * 31 + token + 1) % MODULUS


def tokens_of(row: Sequence[float]) -> list[int]:
    """The tokens behind a state, by what `DecodingRunner.read` has of them beside it."""
    return list(_TOKENS[int(row[0])])


def run_alone(tokens: list[int]) -> list[int]:
    """The states after each step of a sequence that has the device for itself."""
    states = []
    state = 0
    for token in tokens:
        state = advance(state, token)
        states.append(state)
    return states


class FakeRunner:
    """Keeps one number per slot; ``raw`` answers hold it, ``argmax`` holds it modulo 64."""

    own_thread = False
    can_decode = False
    rows_run_alone = False
    cuts_matter = False

    def __init__(self, slots: int) -> None:
        self.state = np.full(slots, -1, np.int64)  # garbage: only `fresh` may make it a zero
        self.batches: list[list[int]] = []  # the slots written by each run
        self.fail_next = False
        self.lost = False  # every run fails, and is known to fail for good
        self.unreadable = -1  # a token on which a run fails before it writes
        self.gate = threading.Event()
        self.gate.set()
        self.lets_one_in = False  # the gate closes behind it

    def step(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
        bucket: int = 0,
    ) -> Floats:
        assert bucket == 0 or bucket >= len(inputs), "the rows fit"
        self.gate.wait()
        if self.lets_one_in:
            self.gate.clear()
        if self.lost:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("the device caught fire")
        rows, time = inputs.shape[:2]
        valid = np.arange(time) < lengths[:, None]
        if ((inputs == self.unreadable) & valid).any():
            raise UnwrittenError("as told")
        self.batches.append(write.tolist())
        state = np.where(fresh, 0, self.state[read])
        every = np.zeros((rows, time), np.int64)
        for t in range(time):
            new = (state * 31 + inputs[:, t].astype(np.int64) + 1) % MODULUS
            state = np.where(t < lengths, new, state)
            every[:, t] = state
        self.state[write] = state
        found = every if every_step else state
        return _predictions(found)

    def bucket(self, rows: int) -> int:
        return 0

    def decode(self, **columns: Any) -> NDArray[np.int32]:
        raise AssertionError("it cannot decode")

    def is_lost(self, fault: Exception) -> bool:
        return self.lost

    def blank(self, rows: int) -> Inputs:
        return np.zeros((rows, 1), np.int64)

    def recall(self, slots: Ints) -> Floats:
        return _predictions(self.state[slots])

    def copy(self, read: int, write: Ints) -> None:
        self.state[write] = self.state[read]

    def read(self, slots: Ints) -> list[Floats]:
        check_slots(slots, len(self.state))
        return [self.state[slots, None].astype(np.float32)]

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        check_slots(slots, len(self.state))
        check_rows(slots, rows, [(1,)])
        self.state[slots] = rows[0][:, 0].astype(np.int64)

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        if outputs.probabilities:
            raise RuntimeError("no such head")
        token = (predictions[:, 0].astype(np.int64) % VOCABULARY).astype(np.int32)
        return Answers.of(
            raw=predictions.copy() if outputs.raw else None,
            argmax=token if outputs.argmax else None,
            sampled_tokens=token if outputs.sample else None,
        )


class BucketRunner(FakeRunner):
    """One whose numbers depend on the size that a run is padded to, as a GPU's may.

    Sizes are powers of two up to ``largest``.

    Attributes:
        ran_in: the size of each run.
    """

    largest = 1024

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.ran_in: list[int] = []

    def bucket(self, rows: int) -> int:
        if not 1 <= rows <= self.largest:
            raise ValueError(f"{rows} rows are not in 1..{self.largest}")
        return 1 << (rows - 1).bit_length()

    def step(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
        bucket: int = 0,
    ) -> Floats:
        rows = len(inputs)
        bucket = bucket or self.bucket(rows)
        if bucket != self.bucket(bucket) or rows > bucket:
            raise ValueError(f"{rows} rows cannot run in a bucket of {bucket}")
        self.ran_in.append(bucket)
        return super().step(
            read=read,
            write=write,
            fresh=fresh,
            inputs=inputs + 1000 * (bucket.bit_length() - 1),  # see `advance`
            lengths=lengths,
            every_step=every_step,
        )


class DecodingRunner(FakeRunner):
    """Decodes too, keeps all that each slot has read, and may fail or dawdle by dice.

    Attributes:
        tokens: the tokens behind each slot's state.
        fault_rate: how often a run fails.
        unreadable_rate: how often one fails that says it has written nothing.
        head_rate: how often the heads fail, when the steps are applied.
        longest_s: a run dawdles so long at most.
        overlaps: calls that came while another one ran.
    """

    can_decode = True

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.tokens = [[-1] for _ in range(slots)]  # garbage, as the state is
        self.dice = random.Random(0)
        self.fault_rate = 0.0
        self.unreadable_rate = 0.0
        self.head_rate = 0.0
        self.longest_s = 0.0
        self.overlaps = 0
        self._busy = False

    def step(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
        bucket: int = 0,
    ) -> Floats:
        with self._alone():
            self._refuse_some()
            before = self._before(read, fresh)
            found = super().step(
                read=read,
                write=write,
                fresh=fresh,
                inputs=inputs,
                lengths=lengths,
                every_step=every_step,
                bucket=bucket,
            )
            for row, slot in enumerate(write.tolist()):
                own = inputs[row, : lengths[row]].astype(np.int64).ravel().tolist()
                self.tokens[slot] = before[row] + own
            return found

    def decode(self, **columns: Any) -> NDArray[np.int32]:
        with self._alone():
            self._refuse_some()
            steps, write = columns["steps"], columns["write"]
            before = self._before(columns["read"], columns["fresh"])
            found = np.empty((len(write), steps), np.int32)
            for row, slot in enumerate(write.tolist()):
                log = before[row]
                assert len(log) + 1 == columns["positions"][row]
                token = int(columns["inputs"][row])
                state = int(self.state[columns["read"][row]]) if log else 0
                for step in range(steps):
                    state = advance(state, token)
                    log.append(token)
                    token = found[row, step] = state % VOCABULARY
                self.state[slot], self.tokens[slot] = state, log
            self.batches.append(write.tolist())
            return found

    def recall(self, slots: Ints) -> Floats:
        with self._alone():
            return super().recall(slots)

    def copy(self, read: int, write: Ints) -> None:
        with self._alone():
            super().copy(read, write)
            for slot in write.tolist():
                self.tokens[slot] = list(self.tokens[read])

    def read(self, slots: Ints) -> list[Floats]:
        """The states, and numbers under which the tokens are kept in this process."""
        with self._alone():
            found = super().read(slots)
            first = len(_TOKENS)
            _TOKENS.extend(tuple(self.tokens[slot]) for slot in slots.tolist())
            return [*found, np.arange(first, len(_TOKENS), dtype=np.float32)[:, None]]

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        """See `read`."""
        with self._alone():
            check_rows(slots, rows, [(1,), (1,)])
            super().write(slots, rows[:1])
            for slot, number in zip(slots.tolist(), rows[1][:, 0].tolist(), strict=True):
                self.tokens[slot] = tokens_of([number])

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        if self.dice.random() < self.head_rate:
            raise RuntimeError("no memory")
        return super().answer(predictions, outputs, draws, positions)

    def _before(self, read: Ints, fresh: NDArray[np.bool_]) -> list[list[int]]:
        rows = zip(read.tolist(), fresh.tolist(), strict=True)
        return [[] if is_fresh else list(self.tokens[slot]) for slot, is_fresh in rows]

    def _refuse_some(self) -> None:
        if self.dice.random() < self.unreadable_rate:
            raise UnwrittenError("as told")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.overlaps += self._busy
        self._busy = True
        try:
            if self.longest_s and self.dice.random() < 0.3:
                time.sleep(self.dice.random() * self.longest_s)
            if self.dice.random() < self.fault_rate:
                raise RuntimeError("the device caught fire")
            yield
        finally:
            self._busy = False


def initial_rows(state: int) -> list[Floats]:
    """What a `DecodingRunner` has of a session that has read nothing, and is in this state."""
    _TOKENS.append(())
    return [np.array([number], np.float32) for number in (state, len(_TOKENS) - 1)]


class ShapesRunner(DecodingRunner):
    """One whose numbers depend on the size that a run is padded to, and maybe on its time steps.

    What it keeps of a step that a slot has read is the token plus a multiple of 100.
    """

    can_decode = False

    def bucket(self, rows: int) -> int:
        return 1 << (rows - 1).bit_length()

    def step(self, *, inputs: Inputs, bucket: int = 0, **columns: Any) -> Floats:
        rows, time = inputs.shape
        bucket = bucket or self.bucket(rows)
        assert rows <= bucket == self.bucket(bucket)
        shape = 10 * (bucket.bit_length() - 1) + (time if self.cuts_matter else 0)
        return super().step(inputs=inputs + 100 * shape, bucket=bucket, **columns)


class CutsRunner(ShapesRunner):
    """One whose numbers depend on the time steps of a run, too."""

    cuts_matter = True


def _predictions(states: NDArray[np.int64]) -> Floats:
    return states[..., None].astype(np.float32)
