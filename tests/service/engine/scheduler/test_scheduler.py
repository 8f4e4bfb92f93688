"""The scheduler's invariants, on any mix of work."""

import itertools
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.scheduler.feedback.feedback import Feedback
from service.engine.scheduler.scheduler import Scheduler, batch_of
from service.engine.sessions.allocator import SlotAllocator
from service.engine.sessions.slots import SlotManager
from service.engine.sessions.table.table import SessionTable
from service.engine.sessions.tiers import Tiers, Wanted
from service.engine.work.batch import Batch, Part
from service.engine.work.columns import Outputs
from service.engine.work.request import Request
from service.engine.work.work import Barrier, Chunk, Fork, Kind, Load, Recall, Save, Work
from service.errors import SessionClosedError
from service.metrics import Metrics

SLOTS = 6
FORK_SPARES = 3
CHUNK_SPARES = 2
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

    def drop(self, part: Part) -> None:
        for slot in part.slots.tolist():
            self.ran[slot].append(self.numbers[id(part.work)])

    def record(self, part: Part) -> None:
        if part.is_last:
            for slot in part.slots.tolist():
                self.ran[slot].append(self.numbers[id(part.work)])


def make_table() -> SessionTable:
    return SessionTable(SLOTS + FORK_SPARES + CHUNK_SPARES + 1)


def make_slots(table: SessionTable) -> SlotManager:
    nothing = Wanted(
        queue=lambda _: None,
        hold=lambda slots: np.zeros(len(slots), np.int32),
        let_go=lambda *_: None,
        wake=lambda: None,
        call_later=lambda *_: None,
        in_store=lambda slots: np.zeros(len(slots), np.bool_),
        seated=lambda _: None,
    )
    return SlotManager(
        table,
        sessions=SLOTS,
        spares=FORK_SPARES,
        ephemeral_grace_s=10.0,
        tiers=Tiers(table, nothing, resident=SLOTS, host_rows=0, metrics=Metrics().tiers("m")),
        forget=lambda _: None,
        wake=lambda: None,
    )


def make_scheduler(
    slots: SlotManager | None = None,
    chunk_spares: SlotAllocator | None = None,
    max_batch: int = MAX_BATCH,
    table: SessionTable | None = None,
) -> Scheduler:
    table = table or make_table()
    nobody = Feedback(
        table,
        np.zeros(len(table), np.int32),
        bounds=None,
        most_steps=1,
        wake=lambda: None,
        call_later=lambda *_: None,
        count=lambda _: None,
    )
    return Scheduler(
        table,
        nobody,
        slots=slots or make_slots(table),
        chunk_spares=chunk_spares or SlotAllocator(SLOTS + FORK_SPARES, CHUNK_SPARES),
        max_batch=max_batch,
        chunk_steps=CHUNK_STEPS,
    )


def steps_of(slots: list[int], top_k: int = 0) -> Request:
    rows = len(slots)
    return Request(
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
        row_steps=steps,
        contents=np.zeros(1, np.int64),
    )


def recall_of(slots: list[int]) -> Recall:
    return Recall(slots=np.array(slots), expected=np.zeros(len(slots), np.int64))


def save_of(slots: list[int]) -> Save:
    return Save(slots=np.array(slots))


def load_of(slots: list[int]) -> Load:
    nothing = np.zeros(len(slots), np.int64)
    rows = np.zeros((len(slots), 1), np.float32)
    return Load(
        slots=np.array(slots),
        states=[rows],
        positions=nothing,
        last_steps=nothing,
        contents=nothing,
    )


def fork_of(slot: int, copies: int) -> Fork:
    return Fork(slots=np.array([slot]), expected=np.zeros(1, np.int64), row_cost=copies)


def barrier_of(slot: int) -> Barrier:
    return Barrier(slots=np.array([slot]), expected=np.zeros(1, np.int64))


slot_sets = st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=SLOTS, unique=True)
works = st.one_of(
    st.builds(steps_of, slot_sets, st.integers(0, 2)),
    st.builds(chunk_of, st.integers(0, SLOTS - 1), st.integers(2, 20)),
    st.builds(recall_of, slot_sets),
    st.builds(save_of, slot_sets),
    st.builds(load_of, slot_sets),
    st.builds(fork_of, st.integers(0, SLOTS - 1), st.integers(1, FORK_SPARES)),
    st.builds(barrier_of, st.integers(0, SLOTS - 1)),
)
acts = st.lists(st.one_of(works, st.sampled_from(["tick", "finish", "cancel"])), max_size=60)


@given(acts, st.sets(st.integers(0, SLOTS - 1)))
@settings(max_examples=300, deadline=None)
def test_invariants_hold_for_any_mix(script: list[Work | str], seatless: set[int]) -> None:
    """Also where rows of some sessions wait each by itself, as these have no rows of the arena."""
    chunk_spares = SlotAllocator(SLOTS + FORK_SPARES, CHUNK_SPARES)
    table = make_table()
    table.row[list(seatless)] = -1
    slot_manager = make_slots(table)
    scheduler = make_scheduler(slot_manager, chunk_spares, table=table)
    log = Log(scheduler)
    running: list[Batch] = []
    waiting: list[Work] = []

    def leave(part: Part) -> None:
        log.record(part)
        if isinstance(part.work, Fork):
            slot_manager.return_spares(part.work)

    def finish() -> None:
        batch = running.pop(0)
        for part in batch.parts:
            leave(part)
        scheduler.complete(batch)

    def tick() -> bool:
        """Schedule a batch; like the engine, drop what was cancelled instead of running it."""
        could = scheduler.ready_rows
        batch = scheduler.schedule()
        if batch is None:
            return False
        if batch.kind is Kind.STEPS:
            assert len(batch.parts) <= batch.steps <= could, "more ran than was ready"
        in_flight = {slot for other in running for part in other.parts for slot in part.slots}
        slots = [slot for part in batch.parts for slot in part.slots.tolist()]
        assert len(set(slots)) == len(slots), "a batch holds two rows of one session"
        assert not set(slots) & in_flight, "a session runs in two batches at once"
        assert 0 < len(slots) <= MAX_BATCH
        if batch.kind is Kind.CHUNKS:
            assert all(part.stop - part.start <= CHUNK_STEPS for part in batch.parts)
            assert batch.steps <= MAX_BATCH
        outputs = [part.work.outputs for part in batch.parts]
        changes = sum(a != b for a, b in itertools.pairwise(outputs))
        assert changes == len(set(outputs)) - 1, "equal outputs must stand side by side"
        kept = []
        for part in batch.parts:
            if part.work.cancelled:
                log.drop(part)
                scheduler.finish(part)
            else:
                kept.append(part)
        if kept:
            running.append(batch_of(batch.kind, kept))
        return True

    for act in script:
        if isinstance(act, Work):
            log.submit(act)
            waiting.append(act)
        elif act == "tick":
            tick()
        elif act == "cancel" and waiting:
            waiting.pop(len(waiting) // 2).failure = SessionClosedError("closed")
        elif act == "finish" and running:
            finish()
    for _ in range(10_000):
        while tick():
            pass
        if not running:
            break
        finish()
    assert log.ran == log.submitted, "work was lost, doubled or reordered"
    assert (scheduler.pending_steps, scheduler.ready_rows) == (0, 0)
    assert (scheduler.waiting, scheduler.parked, scheduler.moving_states) == (0, {}, 0)
    assert table.idle(np.arange(SLOTS)).all()
    assert (slot_manager.spares.used, chunk_spares.used) == (0, 0)


def test_rows_are_ready_until_they_are_handed_out_and_not_while_they_wait_for_others() -> None:
    scheduler = make_scheduler()
    scheduler.submit(steps_of([0, 1, 2]))
    assert (scheduler.ready_rows, scheduler.waiting) == (3, 1)
    first = scheduler.schedule()
    assert first is not None
    assert (scheduler.ready_rows, scheduler.waiting) == (0, 0)
    scheduler.submit(steps_of([2, 1]))
    scheduler.submit(chunk_of(3, 9))
    assert (scheduler.ready_rows, scheduler.waiting) == (0, 2)
    scheduler.complete(first)
    assert scheduler.ready_rows == 2


def test_a_batch_leaves_the_rows_that_have_no_room_ready() -> None:
    most = make_scheduler(max_batch=4)
    most.submit(steps_of([0, 1, 2]))
    most.submit(steps_of([3, 4, 5]))
    batch = most.schedule()
    assert batch is not None
    assert (batch.steps, most.ready_rows) == (4, 2)


def test_a_long_queue_behind_one_session_costs_the_others_nothing() -> None:
    scheduler = make_scheduler()
    for _ in range(5000):
        scheduler.submit(steps_of([0]))
    first = scheduler.schedule()
    assert first is not None
    for slot in range(1, SLOTS):
        scheduler.submit(steps_of([slot]))
    others = scheduler.schedule()
    assert others is not None
    assert sorted(slot for part in others.parts for slot in part.slots) == list(range(1, SLOTS))
    assert scheduler.schedule() is None
    assert scheduler.waiting == 4999
    assert scheduler.ready_rows == 0, "what cannot run is not looked at"
    scheduler.complete(first)
    scheduler.complete(others)
    following = scheduler.schedule()
    assert following is not None
    assert [slot for part in following.parts for slot in part.slots] == [0]


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
    table = make_table()
    scheduler = make_scheduler(table=table)
    scheduler.submit(chunk_of(0, 9))
    kinds = []
    while not table.is_idle(0):
        scheduler.submit(steps_of([1]))
        batch = scheduler.schedule()
        assert batch is not None
        kinds.append(batch.kind)
        scheduler.complete(batch)
    assert kinds.count(Kind.CHUNKS) == 3
    assert len(kinds) <= 7


def test_chunks_on_borrowed_slots_leave_the_spare_slots_to_others() -> None:
    scheduler = make_scheduler()
    for slot in range(CHUNK_SPARES):
        scheduler.submit(replace(chunk_of(slot, 3 * CHUNK_STEPS), borrowed=True))
    of_session = chunk_of(SLOTS - 1, 2 * CHUNK_STEPS)
    scheduler.submit(of_session)
    ran: list[Work] = []
    while of_session not in ran:
        batch = scheduler.schedule()
        assert batch is not None
        ran += [part.work for part in batch.parts if part.is_last]
        scheduler.complete(batch)
    assert len(ran) <= CHUNK_SPARES  # not behind the borrowed ones: it is the shortest


def test_a_chunk_longer_than_a_piece_waits_for_a_spare_slot() -> None:
    scheduler = make_scheduler()
    for slot in range(CHUNK_SPARES + 1):
        scheduler.submit(chunk_of(slot, 2 * CHUNK_STEPS))
    used = set()
    finished = 0
    while (batch := scheduler.schedule()) is not None:
        spares = [p.work.spare for p in batch.parts if isinstance(p.work, Chunk) and p.work.spare]
        assert len(set(spares)) == len(spares)
        used |= set(spares)
        finished += sum(part.is_last for part in batch.parts)
        scheduler.complete(batch)
    assert finished == CHUNK_SPARES + 1
    assert len(used) == CHUNK_SPARES


def test_a_fork_waits_for_all_its_copies_and_stops_nobody_else() -> None:
    scheduler = make_scheduler()
    first, second, small = fork_of(0, FORK_SPARES), fork_of(1, FORK_SPARES), fork_of(2, 1)
    for fork in (first, second, small):
        scheduler.submit(fork)
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.complete(batch)
    assert len(set(first.spares.tolist())) == FORK_SPARES
    assert scheduler.schedule() is None, "the second waits, and the small one does not overtake it"
    scheduler.submit(chunk_of(3, 2 * CHUNK_STEPS))
    scheduler.submit(steps_of([4]))
    kinds = []
    while (batch := scheduler.schedule()) is not None:
        kinds.append(batch.kind)
        scheduler.complete(batch)
    assert sorted(kind.value for kind in kinds) == ["chunks", "chunks", "steps"]
    second.failure = SessionClosedError("closed")
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.parts[0].work is second, "a cancelled fork wants no copies: it can be dropped"
    assert len(second.spares) == 0
