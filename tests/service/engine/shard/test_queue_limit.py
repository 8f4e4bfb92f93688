"""A queue is bounded by the time it takes, for those who fill it."""

import pytest

from service.engine.shard.queue_limit import QueueLimit
from service.engine.work.flow import Flow, Flows
from service.errors import OverloadedError
from service.settings import EngineSettings

SETTINGS = EngineSettings(max_queue_s=0.5, max_batch=8, chunk_steps=4, max_pending_steps=10_000)
STEP_S = 0.001


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Queue:
    """A limit that has learned that a step takes a millisecond."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.refused = 0
        self.limit = QueueLimit(SETTINGS, count=self._count, clock=self.clock)
        self.flows = Flows()
        self.runs(100)

    def runs(self, count: int, step_s: float = STEP_S) -> None:
        for _ in range(count):
            self.limit.observe(8, 100)
            self.clock.now_s += 8 * step_s
        self.limit.observe(8, 0)

    def _count(self, steps: int) -> None:
        self.refused += steps


def refusal(queue: Queue, pending: int, steps: int, flow: Flow) -> OverloadedError:
    with pytest.raises(OverloadedError) as refused:
        queue.limit.check(pending, steps, flow)
    return refused.value


def test_what_a_step_takes_is_learned_while_many_are_queued() -> None:
    queue = Queue()
    assert queue.limit.step_s == pytest.approx(STEP_S, rel=0.01)
    assert queue.limit.roomy_steps == pytest.approx(500, rel=0.01)
    queue.clock.now_s += 1000  # nothing was queued meanwhile
    queue.runs(10)
    assert queue.limit.step_s == pytest.approx(STEP_S, rel=0.01)
    queue.runs(200, step_s=0.002)
    assert queue.limit.roomy_steps == pytest.approx(250, rel=0.05)


def test_small_runs_of_a_short_queue_say_nothing() -> None:
    queue = Queue()
    for _ in range(100):
        queue.limit.observe(1, 0)
        queue.clock.now_s += 0.1
    assert queue.limit.step_s == pytest.approx(STEP_S, rel=0.01)


def test_a_stall_is_not_the_rule() -> None:
    queue = Queue()
    queue.runs(1, step_s=10.0)
    assert queue.limit.step_s < 1.2 * STEP_S


def test_one_flow_may_queue_what_runs_in_time() -> None:
    queue, flow = Queue(), None
    flow = queue.flows.of("a")
    flow.take(450)
    queue.limit.check(450, 100_000 // 20, flow)  # however much it is: it is not behind itself
    flow.take(100)
    error = refusal(queue, 550, 1, flow)
    assert error.retry_after_s == pytest.approx(0.052, abs=0.01)
    assert queue.refused == 1


def test_who_fills_the_queue_is_refused_and_nobody_else() -> None:
    queue = Queue()
    hog, polite = queue.flows.of("hog"), queue.flows.of("polite")
    hog.take(5000)
    refusal(queue, 5000, 1, hog)
    queue.limit.check(5000, 1, polite)
    polite.take(20)
    queue.limit.check(5020, 20, polite)
    hog.take(4_990)
    queue.limit.check(10_010, 1, polite)  # nor does the limit by number count for others


def test_many_flows_with_little_each_are_too_many_together() -> None:
    queue = Queue()
    flows = [queue.flows.of(str(number)) for number in range(600)]
    for flow in flows:
        flow.take(1)
    refusal(queue, 600, 1, queue.flows.of("one more"))


def test_those_who_are_refused_come_again_one_after_the_other() -> None:
    queue, flow = Queue(), None
    flow = queue.flows.of("a")
    flow.take(700)
    delays = [refusal(queue, 700, 50, flow).retry_after_s for _ in range(4)]
    assert delays == pytest.approx([0.25, 0.30, 0.35, 0.40], abs=0.01)
    assert refusal(queue, 700, 9_000, flow).retry_after_s == 5.0
    queue.clock.now_s += 60
    assert refusal(queue, 700, 50, flow).retry_after_s == pytest.approx(0.25, abs=0.01)


def test_a_model_that_takes_long_may_still_have_a_batch_waiting() -> None:
    queue = Queue()
    queue.runs(500, step_s=1.0)
    assert queue.limit.roomy_steps == 64


def test_flows_know_their_rivals() -> None:
    flows = Flows()
    one, other = flows.of("a"), flows.of("b")
    assert flows.of("a") is one
    assert one.rivals == 1
    other.take(3)
    assert (one.rivals, other.rivals) == (2, 1)
    one.take(1)
    assert (one.rivals, other.rivals) == (2, 2)
    other.answered(1)
    other.answered(2)
    assert (flows.active, one.rivals) == (1, 1)
    assert not flows.of("c").pending_steps


def test_what_comes_to_an_empty_queue_is_taken_whatever_its_size() -> None:
    """What is in one message has limits of its own: told to come again, it would for ever."""
    queue, flow = Queue(), None
    flow = queue.flows.of("a")
    queue.limit.check(0, 20_000, flow)
    flow.take(20_000)
    refusal(queue, 20_000, 1, flow)


def test_a_flow_that_goes_with_steps_pending_is_nobodys_rival() -> None:
    flows = Flows()
    flows.of("a").take(5)
    assert flows.active == 0
