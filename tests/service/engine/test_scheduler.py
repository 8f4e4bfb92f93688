"""The scheduler's invariants, on any mix of work."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batch import Batch, Chunk, Fork, Kind, Outputs, Part, Peek, Steps, Work
from service.engine.scheduler import Scheduler
from service.engine.slots import SlotAllocator

SLOTS = 6
SPARES = 3
MAX_BATCH = 8
CHUNK_STEPS = 3


@dataclass
class Log:
    """Submits work and writes down what ran, per slot."""

    scheduler: Scheduler
    submitted: dict[int, list[int]] = field(default_factory=lambda: {s: [] for s in range(SLOTS)})
    ran: dict[int, list[int]] = field(default_factory=lambda: {s: [] for s in range(SLOTS)})
    number: int = 0
    numbers: dict[int, int] = field(default_factory=dict)

    def submit(self, work: Work) -> None:
        self.number += 1
        self.numbers[id(work)] = self.number
        self.scheduler.submit(work)
        for slot in work.slots.tolist():
            self.submitted[slot].append(self.number)

    def record(self, part: Part) -> None:
        if part.is_last:
            for slot in part.slots.tolist():
                self.ran[slot].append(self.numbers[id(part.work)])


def make_scheduler() -> Scheduler:
    return Scheduler(
        slots=SLOTS + SPARES + 1,
        spares=SlotAllocator(SLOTS, SPARES),
        max_batch=MAX_BATCH,
        chunk_steps=CHUNK_STEPS,
    )


def steps_of(slots: list[int], top_k: int = 0) -> Steps:
    rows = len(slots)
    return Steps(
        slots=np.array(slots),
        expected=np.zeros(rows, np.int64),
        inputs=np.zeros(rows, np.int64),
        contents=np.zeros(rows, np.int64),
        outputs=Outputs(top_k=top_k),
    )


def chunk_of(slot: int, steps: int) -> Chunk:
    return Chunk(
        slots=np.array([slot]),
        expected=np.zeros(1, np.int64),
        inputs=np.zeros(steps, np.int64),
        contents=np.zeros(1, np.int64),
    )


def peek_of(slots: list[int]) -> Peek:
    return Peek(slots=np.array(slots), expected=np.zeros(len(slots), np.int64))


slot_sets = st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=SLOTS, unique=True)
works = st.one_of(
    st.builds(steps_of, slot_sets, st.integers(0, 2)),
    st.builds(chunk_of, st.integers(0, SLOTS - 1), st.integers(2, 20)),
    st.builds(peek_of, slot_sets),
)
acts = st.lists(st.one_of(works, st.just("tick"), st.just("finish")), max_size=60)


@given(acts)
def test_invariants_hold_for_any_mix(script: list[Work | str]) -> None:
    scheduler = make_scheduler()
    log = Log(scheduler)
    running: list[Batch] = []

    def finish() -> None:
        batch = running.pop(0)
        for part in batch.parts:
            log.record(part)
        scheduler.complete(batch)

    def tick() -> bool:
        batch = scheduler.schedule()
        if batch is None:
            return False
        in_flight = [slot for other in running for part in other.parts for slot in part.slots]
        slots = [slot for part in batch.parts for slot in part.slots.tolist()]
        assert len(set(slots)) == len(slots), "a batch holds two rows of one session"
        assert not set(slots) & set(in_flight), "a session runs in two batches at once"
        assert len(slots) <= MAX_BATCH
        if batch.kind is Kind.CHUNKS:
            assert all(part.stop - part.start <= CHUNK_STEPS for part in batch.parts)
            assert batch.steps <= MAX_BATCH
        outputs = [part.work.outputs for part in batch.parts]
        changes = sum(a != b for a, b in itertools.pairwise(outputs))
        assert changes == len(set(outputs)) - 1, "equal outputs must stand side by side"
        running.append(batch)
        return True

    for act in script:
        if isinstance(act, Work):
            log.submit(act)
        elif act == "tick":
            tick()
        elif running:
            finish()
    for _ in range(10_000):
        while tick():
            pass
        if not running:
            break
        finish()
    assert log.ran == log.submitted, "work was lost, doubled or reordered"
    assert scheduler.pending_steps == 0
    assert all(scheduler.is_idle(slot) for slot in range(SLOTS))
    assert scheduler._spares.free == SPARES


def test_single_steps_do_not_wait_for_a_long_chunk() -> None:
    scheduler = make_scheduler()
    scheduler.submit(chunk_of(0, 3000))
    ticks_waited = []
    for _ in range(20):
        scheduler.submit(steps_of([1]))
        waited = 0
        while True:
            batch = scheduler.schedule()
            assert batch is not None
            scheduler.complete(batch)
            if batch.kind is Kind.STEPS:
                break
            waited += 1
        ticks_waited.append(waited)
    assert max(ticks_waited) <= 1


def test_a_long_chunk_does_not_starve_under_single_steps() -> None:
    scheduler = make_scheduler()
    chunk = chunk_of(0, 9)
    scheduler.submit(chunk)
    kinds = []
    while not scheduler.is_idle(0):
        scheduler.submit(steps_of([1]))
        batch = scheduler.schedule()
        assert batch is not None
        kinds.append(batch.kind)
        scheduler.complete(batch)
    assert kinds.count(Kind.CHUNKS) == 3
    assert len(kinds) <= 7


def test_a_chunk_longer_than_a_piece_waits_for_a_spare_slot() -> None:
    scheduler = make_scheduler()
    for slot in range(SPARES + 1):
        scheduler.submit(chunk_of(slot, 2 * CHUNK_STEPS))
    used = set()
    finished = 0
    while (batch := scheduler.schedule()) is not None:
        spares = [p.work.spare for p in batch.parts if isinstance(p.work, Chunk) and p.work.spare]
        assert len(set(spares)) == len(spares)
        used |= set(spares)
        finished += sum(part.is_last for part in batch.parts)
        scheduler.complete(batch)
    assert finished == SPARES + 1
    assert used <= set(range(SLOTS, SLOTS + SPARES))


def test_a_fork_takes_all_its_copies_at_once_and_is_not_starved_by_chunks() -> None:
    scheduler = make_scheduler()
    scheduler.submit(chunk_of(0, 2 * CHUNK_STEPS))
    first = scheduler.schedule()
    assert first is not None
    assert first.kind is Kind.CHUNKS  # it holds one spare now
    fork = Fork(slots=np.array([1]), expected=np.zeros(1, np.int64), copies=SPARES)
    scheduler.submit(fork)
    scheduler.submit(chunk_of(2, 2 * CHUNK_STEPS))
    assert scheduler.schedule() is None  # neither the fork nor the new chunk can begin
    scheduler.complete(first)
    kinds = []
    while (batch := scheduler.schedule()) is not None:
        kinds.append(batch.kind)
        scheduler.complete(batch)
    assert kinds[:2] == [Kind.CHUNKS, Kind.FORK]
    assert len(set(fork.spares.tolist())) == SPARES
