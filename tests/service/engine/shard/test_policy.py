"""When what waits runs, where, and how much of it: the rules of batching."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.shard.policy import MOST_DECODE_STEPS, Action, BatchPolicy, Decision
from service.engine.work.work import Kind

TURN_S = 10e-6  # of the event loop
GAP_S = 100e-6  # between callers
LONGEST_S = 1e-3
ALONE_S = 250e-6


def make_policy(**options: Any) -> BatchPolicy:
    return BatchPolicy(**{"inline_run_s": 0.0025, "max_batch": 512, "can_decode": True, **options})


def decide(policy: BatchPolicy, rows: int, now_s: float, **load: int) -> Decision:
    """What a policy says of so many single steps."""
    given: dict[str, Any] = {
        "feedback_rows": 0,
        "in_flight": 0,
        "pending_steps": rows,
        "runs": 0,
        **load,
    }
    return policy.decide(single_rows=rows, now_s=now_s, **given)


class Loop:
    """Turns, and tells how a wait went."""

    def __init__(self) -> None:
        self.policy = make_policy()
        self.now_s = 100.0

    def wait(self, callers: int, *, gap_s: float = GAP_S, **load: int) -> tuple[int, float]:
        """Rows that run together when so many callers come one by one, and how long they wait."""
        began_s = self.now_s
        while True:
            rows = min(callers, 1 + int((self.now_s - began_s) / gap_s))
            if decide(self.policy, rows, self.now_s, **load).action is Action.RUN:
                return rows, self.now_s - began_s
            self.now_s += TURN_S


def test_a_caller_who_is_alone_hardly_ever_waits() -> None:
    loop = Loop()
    waits = [waited_s for _, waited_s in (loop.wait(1) for _ in range(1000))]
    assert sum(waited_s > 0 for waited_s in waits) <= 1000 / 32
    assert max(waits) <= ALONE_S + TURN_S


def test_as_many_run_together_as_call_at_once_and_wait_for_nobody_else() -> None:
    for callers in (2, 8, 30):
        loop = Loop()
        for _ in range(400):
            loop.wait(callers, gap_s=LONGEST_S / 40)
        found = [loop.wait(callers, gap_s=LONGEST_S / 40) for _ in range(100)]
        together = [rows for rows, _ in found]
        assert sum(together) > 0.9 * 100 * callers
        in_vain = [w for rows, w in found if w > (callers - 1) * LONGEST_S / 40 + TURN_S]
        assert len(in_vain) <= 100 / 32 + 1, "only a try waits for more than all of them"


def test_prompts_wait_for_each_other_however_many_generate() -> None:
    loop = Loop()
    for _ in range(400):
        loop.wait(8, feedback_rows=200)
    together = [loop.wait(8, feedback_rows=200)[0] for _ in range(64)]
    assert sum(rows == 8 for rows in together) >= 60


def test_when_the_others_go_the_last_one_soon_waits_no_more() -> None:
    loop = Loop()
    for _ in range(400):
        loop.wait(8)
    alone = [loop.wait(1)[1] for _ in range(20)]
    assert sum(waited_s > 0 for waited_s in alone[10:]) <= 1
    assert max(alone) <= ALONE_S + TURN_S


def test_many_rows_and_none_wait_for_nobody() -> None:
    loop = Loop()
    for _ in range(400):
        loop.wait(8)
    for rows in (0, 32, 256):
        assert decide(loop.policy, rows, loop.now_s).action is Action.RUN


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(1e-6, 2e-3)), max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_wait_is_longer_than_the_longest(turns: list[tuple[int, float]]) -> None:
    policy, now_s, began_s = make_policy(), 100.0, 100.0
    for rows, passed_s in turns:
        now_s += passed_s
        if decide(policy, rows, now_s).action is Action.RUN:
            began_s = now_s
        else:
            assert now_s - began_s <= LONGEST_S + 2e-3, "as long as a turn more, at most"


def test_what_is_short_runs_on_the_loop_once_its_like_was_seen() -> None:
    policy = make_policy()
    assert not policy.runs_here(Kind.STEPS, 64, 1), "nobody knows what it takes"
    policy.observe(Kind.STEPS, 64, 0.001)
    assert policy.runs_here(Kind.STEPS, 64, 1)
    assert policy.runs_here(Kind.STEPS, 127, 1), "runs are alike by powers of two"
    assert not policy.runs_here(Kind.STEPS, 128, 1)
    assert not policy.runs_here(Kind.STEPS, 64, 3), "three times over the rows are three runs"
    assert not policy.runs_here(Kind.CHUNKS, 64, 1)
    assert policy.runs_here(Kind.BARRIER, 1, 1), "it does nothing"


def test_a_cold_first_run_is_soon_forgotten() -> None:
    policy = make_policy()
    policy.observe(Kind.DECODE, 10, 1.0)
    policy.observe(Kind.DECODE, 10, 0.0001)
    assert policy.runs_here(Kind.DECODE, 10, 1)


def test_after_a_run_on_the_loop_others_have_some_turns() -> None:
    policy = make_policy()
    policy.observe(Kind.STEPS, 64, 0.0005)
    assert policy.loop_turns_left == 0, "the worker holds nobody up"
    policy.observe(Kind.STEPS, 64, 0.0005, here=True)
    assert policy.loop_turns_left == 4
    policy.observe(Kind.STEPS, 64, 1.0, here=True)
    assert policy.loop_turns_left == 8


def test_the_worker_gets_a_second_run_where_more_rows_would_gain_nothing() -> None:
    policy = make_policy()
    assert decide(policy, 127, 0.0, runs=1).action is Action.NOTHING
    assert decide(policy, 128, 0.0, runs=1).action is Action.OVERLAP
    assert decide(policy, 500, 0.0, runs=2).action is Action.NOTHING
    device = make_policy(inline_run_s=float("-inf"))
    assert decide(device, 511, 0.0, runs=1).action is Action.NOTHING, "a run may cost the same"
    assert decide(device, 512, 0.0, runs=1).action is Action.OVERLAP


def fed_back(policy: BatchPolicy, rows: int, others: int = 0, in_flight: int = 0) -> Decision:
    """What a policy says of so many rows that feed back, beside others."""
    return policy.decide(
        single_rows=others,
        feedback_rows=rows,
        in_flight=in_flight,
        pending_steps=rows + others + in_flight,
        runs=0,
        now_s=0.0,
        at_once=True,
    )


def test_rows_that_feed_back_read_several_steps_while_few_others_wait() -> None:
    policy = make_policy()
    assert fed_back(policy, 8).decode_steps == 1, "nobody knows what a step takes"
    policy.observe(Kind.STEPS, 8, 0.0005)
    assert fed_back(policy, 8).decode_steps == 10, "twice what may run on the loop"
    assert fed_back(policy, 8, others=1).decode_steps == 10
    assert fed_back(policy, 8, others=2).decode_steps == 1, "sharing a batch costs less"
    policy.observe(Kind.DECODE, 8, 0.0001)
    assert fed_back(policy, 8).decode_steps == MOST_DECODE_STEPS
    for _ in range(50):
        policy.observe(Kind.DECODE, 8, 1.0)
    assert fed_back(policy, 8).decode_steps == 2, "else it would never look cheaper again"
    assert fed_back(make_policy(can_decode=False), 8).decode_steps == 1


def test_a_device_that_draws_in_units_is_given_whole_ones() -> None:
    """It has a thread of its own: what it takes is bounded, though nothing may run on the loop."""
    policy = make_policy(inline_run_s=float("-inf"), decode_unit=4)
    assert fed_back(policy, 8).decode_steps == 1, "nobody knows what a step takes"
    for step_s, steps in ((0.0001, 16), (0.0006, 8), (0.0009, 4), (0.0013, 1), (0.1, 1)):
        policy = make_policy(inline_run_s=float("-inf"), decode_unit=4)
        policy.observe(Kind.STEPS, 8, step_s)
        assert fed_back(policy, 8).decode_steps == steps
        assert fed_back(policy, 8, others=2).decode_steps == 1
    policy = make_policy(inline_run_s=float("-inf"), decode_unit=4)
    policy.observe(Kind.STEPS, 8, 0.0001)
    for _ in range(50):
        policy.observe(Kind.DECODE, 8, 1.0)
    assert fed_back(policy, 8).decode_steps == 4, "else it would never look cheaper again"


def test_many_rows_that_feed_back_go_by_halves() -> None:
    policy = make_policy()
    for rows in (100, 200):
        policy.observe(Kind.STEPS, rows, 0.001)
    assert fed_back(policy, 200).feedback_rows == 100
    assert fed_back(policy, 100, in_flight=500).feedback_rows == 100, "the other half runs"
    assert fed_back(policy, 100).feedback_rows == 100
