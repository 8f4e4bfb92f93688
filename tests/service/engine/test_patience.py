"""A few steps wait for as many as there usually are, and nobody waits for long."""

from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.shard.patience import Patience

TURN_S = 10e-6  # of the event loop
GAP_S = 100e-6  # between callers
LONGEST_S = 1e-3
ALONE_S = 250e-6


class Loop:
    """Turns, and tells how a wait went."""

    def __init__(self) -> None:
        self.patience = Patience()
        self.now_s = 100.0

    def wait(self, callers: int, *, gap_s: float = GAP_S) -> tuple[int, float]:
        """Rows that run together when so many callers come one by one, and how long they wait."""
        began_s = self.now_s
        while True:
            rows = min(callers, 1 + int((self.now_s - began_s) / gap_s))
            if self.patience.is_over(rows, self.now_s):
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
        assert loop.patience.is_over(rows, loop.now_s)


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(1e-6, 2e-3)), max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_wait_is_longer_than_the_longest(turns: list[tuple[int, float]]) -> None:
    patience, now_s, began_s = Patience(), 100.0, 100.0
    for rows, passed_s in turns:
        now_s += passed_s
        if patience.is_over(rows, now_s):
            began_s = now_s
        else:
            assert now_s - began_s <= LONGEST_S + 2e-3, "as long as a turn more, at most"
