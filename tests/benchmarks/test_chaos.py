"""The oracle of ``make chaos``: histories of good servers, and of servers with planted faults."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos.oracle.alone import Alone, Past
from benchmarks.chaos.oracle.history import (
    DIGEST,
    DRAWN,
    DUPLICATE,
    INFERRED,
    REPLAYED,
    UNKNOWN,
    Floats,
    History,
    digest,
)
from benchmarks.chaos.oracle.judge import Verdict, judge
from tests.recurrent import char_case

MODEL = char_case("lstm", hidden=8).model
NAME = MODEL.name
TOKENS = np.random.default_rng(5).integers(0, 27, 400).astype(np.float32)
ALONE = Alone(MODEL)


class Server:
    """A server as callers see it: what each session has read, and faults on demand."""

    def __init__(self) -> None:
        self.read: dict[str, list[float]] = {}

    def step(self, session: str, tokens: Floats) -> int:
        """Reads; returns the digest of the prediction after the last of it."""
        self.read[session] += tokens.tolist()
        return self.tell(session)

    def tell(self, session: str) -> int:
        inputs = np.array(self.read[session], np.float32)
        past = Past(inputs=inputs, drawn=inputs < 0, seeds=np.zeros(len(inputs), np.uint64))
        return int(ALONE.run([past])[0].digests[-1])


class Caller:
    """Steps sessions, and writes down what it is told."""

    def __init__(self, *sessions: str) -> None:
        self.server, self.history = Server(), History()
        self.position = dict.fromkeys(sessions, 0)
        self.taken = 0
        for session in sessions:
            self.server.read[session] = []
        self.era = {each: self.history.begin(each, NAME, branch=1) for each in sessions}

    def tokens(self, count: int) -> Floats:
        self.taken += count
        return TOKENS[self.taken - count : self.taken]

    def step(self, session: str, count: int = 1) -> Floats:
        tokens = self.tokens(count)
        sent = self.history.send(self.era[session], self.position[session] + count)
        self.told(session, tokens, self.server.step(session, tokens), sent)
        return tokens

    def told(
        self, session: str, tokens: Floats, answer: int, sent: int, flags: int = 0, back: int = 0
    ) -> None:
        start = self.position[session] - back
        every = np.full(len(tokens), flags, np.uint8)
        every[-1] |= DIGEST
        digests = np.zeros(len(tokens), np.uint64)
        digests[-1] = answer
        at = start + np.arange(len(tokens))
        self.history.tell_steps(
            self.era[session], at, tokens, flags=every, digests=digests, sent=sent
        )
        self.position[session] = start + len(tokens)

    def look(self, session: str) -> None:
        """Reads where the server has it."""
        self.history.tell(self.history.ask(self.era[session]), len(self.server.read[session]))

    def crash(self) -> None:
        self.history.crashes.append(self.history.tick())

    def judge(self, *, may_lose_tails: bool = False) -> Verdict:
        return judge(self.history, {NAME: MODEL}, may_lose_tails=may_lose_tails)


def test_a_good_server() -> None:
    caller = Caller("a", "b")
    for number in range(30):
        caller.step("a", 1 + number % 3)
        caller.step("b")
        caller.look("a")
    tokens = caller.step("b", 2)  # and again, from the store
    told, sent = caller.server.tell("b"), caller.history.tick()
    caller.told("b", tokens, told, sent, REPLAYED | DUPLICATE, back=2)
    verdict = caller.judge()
    assert verdict.is_clean, verdict.findings
    assert caller.history.acknowledged == 30 * 2 + 30 + 2
    assert verdict.compared == 62
    assert verdict.one_by_one == 92


@pytest.mark.parametrize("name", ["a", "b"], ids=["rewind", "fork"])
@pytest.mark.parametrize("stands", [3, 5], ids=["as told", "elsewhere"])
def test_what_was_rewound_or_forked_has_the_past_it_was_given(name: str, stands: int) -> None:
    """One that was put to another position, or has another past, is found out."""
    caller = Caller("a", "b")
    caller.step("a", 5)
    caller.server.read[name] = caller.server.read["a"][:stands]
    era = caller.history.branch_off(caller.era["a"], name, 3, branch=7)
    caller.era[name], caller.position[name] = era, 3
    caller.step(name, 2)
    found = caller.judge().counts
    assert found == ({} if stands == 3 else {"different": 1})


def test_a_generation_that_nobody_has_heard_whole() -> None:
    caller = Caller("a")
    caller.step("a", 3)
    drawn = Past(
        inputs=np.concatenate([TOKENS[:3], np.zeros(6, np.float32)]),
        drawn=np.arange(9) >= 3,
        seeds=np.full(9, 11, np.uint64),
    )
    (alone,) = ALONE.run([drawn])
    era, history = caller.era["a"], caller.history
    sent = history.send(era, 3 + 20)
    history.tell_steps(era, np.arange(3, 6), alone.inputs[3:6], flags=DRAWN, sent=sent, seed=11)
    blank = np.zeros(3, np.float32)
    unknown = DRAWN | UNKNOWN | INFERRED
    history.tell_steps(era, np.arange(6, 9), blank, flags=unknown, sent=sent, seed=11)
    caller.server.read["a"] = alone.inputs.tolist()
    caller.position["a"] = 9
    caller.look("a")
    caller.taken = 20
    caller.step("a")
    assert caller.judge().is_clean
    history.tell_steps(
        era, np.arange(4, 5), alone.inputs[4:5] + 1, flags=DRAWN | REPLAYED, sent=sent, seed=11
    )
    assert caller.judge().counts == {"different": 1}


def lost_group(caller: Caller) -> None:
    for session in ("a", "b"):
        del caller.server.read[session][-2:]
    caller.look("a")


def reply_before_its_group(caller: Caller) -> None:
    caller.step("a")
    caller.crash()
    caller.server.read["a"].pop()
    caller.look("a")


def doubled_step(caller: Caller) -> None:
    tokens = caller.step("a")
    caller.server.step("a", tokens)
    caller.look("a")


def doubled_step_in_the_state_only(caller: Caller) -> None:
    tokens, sent = caller.tokens(1), caller.history.send(caller.era["a"], 6)
    caller.server.step("a", tokens)
    caller.told("a", tokens, caller.server.step("a", tokens), sent)


def step_applied_again(caller: Caller) -> None:
    tokens = caller.step("a")
    caller.told("a", tokens, caller.server.tell("a"), caller.history.tick(), DUPLICATE, back=1)


def rows_exchanged(caller: Caller) -> None:
    for_a, for_b = caller.tokens(1), caller.tokens(1)
    sent = caller.history.send(np.array([caller.era["a"], caller.era["b"]]), np.array([6, 6]))
    answers = caller.server.step("a", for_a), caller.server.step("b", for_b)
    caller.told("a", for_a, answers[1], sent)
    caller.told("b", for_b, answers[0], sent)


def inputs_exchanged(caller: Caller) -> None:
    for_a, for_b = TOKENS[:1], TOKENS[:1] + 1
    sent = caller.history.send(np.array([caller.era["a"], caller.era["b"]]), np.array([6, 6]))
    answers = caller.server.step("a", for_b), caller.server.step("b", for_a)
    caller.told("a", for_a, answers[0], sent)
    caller.told("b", for_b, answers[1], sent)


def flipped_bit(caller: Caller) -> None:
    caller.server.read["a"][2] = float(int(caller.server.read["a"][2]) ^ 1)
    caller.step("a")


def replay_with_other_bytes(caller: Caller) -> None:
    tokens, sent = caller.step("a"), caller.history.tick()
    caller.told("a", tokens, caller.server.tell("a") ^ 1, sent, DUPLICATE | REPLAYED, back=1)


def two_states_at_one_position(caller: Caller) -> None:
    caller.step("a")
    tokens, sent = TOKENS[100:101], caller.history.tick()
    assert tokens[0] != caller.server.read["a"].pop()
    caller.told("a", tokens, caller.server.step("a", tokens), sent, REPLAYED, back=1)


def reset(caller: Caller, session: str) -> int:
    """Returns the era that is over."""
    over = caller.era[session]
    caller.history.end(over)
    caller.era[session] = caller.history.begin(session, NAME, branch=2)
    caller.server.read[session], caller.position[session] = [], 0
    return over


def duplicate_across_a_reset(caller: Caller) -> None:
    first = np.array(caller.server.read["a"][:1], np.float32)
    over, sent = reset(caller, "a"), caller.history.tick()
    answer = caller.server.step("a", first)
    caller.history.tell_steps(
        over,
        np.array([0]),
        first,
        flags=DIGEST | DUPLICATE,
        digests=np.array([answer], np.uint64),
        sent=sent,
    )


def duplicate_across_a_reset_without_a_reply(caller: Caller) -> None:
    first = np.array(caller.server.read["a"][:1], np.float32)
    reset(caller, "a")
    caller.server.step("a", first)
    caller.look("a")


def state_that_survives_a_reset(caller: Caller) -> None:
    kept = caller.server.read["a"]
    reset(caller, "a")
    caller.server.read["a"] = kept
    tokens, sent = caller.tokens(1), caller.history.send(caller.era["a"], 1)
    caller.told("a", tokens, caller.server.step("a", tokens), sent)


def another_branch_under_commit(caller: Caller) -> None:
    caller.crash()
    caller.history.go_back(caller.history.ask(caller.era["a"]), 4, 9)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (lost_group, "lost"),
        (reply_before_its_group, "lost"),
        (another_branch_under_commit, "lost"),
        (doubled_step, "doubled"),
        (step_applied_again, "doubled"),
        (duplicate_across_a_reset, "doubled"),
        (duplicate_across_a_reset_without_a_reply, "doubled"),
        (doubled_step_in_the_state_only, "different"),
        (rows_exchanged, "different"),
        (inputs_exchanged, "different"),
        (flipped_bit, "different"),
        (replay_with_other_bytes, "different"),
        (two_states_at_one_position, "different"),
        (state_that_survives_a_reset, "different"),
    ],
)
def test_planted_faults_are_caught(fault: Callable[[Caller], None], kind: str) -> None:
    caller = Caller("a", "b")
    for session in ("a", "b"):
        for _ in range(5):
            caller.step(session)
        caller.look(session)
    assert caller.judge().is_clean
    fault(caller)
    verdict = caller.judge()
    assert verdict.counts[kind], verdict.findings


@pytest.mark.parametrize(
    ("crashes", "durable", "base", "counts"),
    [
        (True, 0, 3, {}),
        (True, 3, 3, {}),
        (True, 0, 5, {}),  # nothing was lost, and nobody could know
        (False, 0, 3, {"lost": 1}),
        (True, 4, 3, {"lost": 1}),
        (True, 0, 7, {"doubled": 1, "different": 1}),
    ],
)
def test_a_lost_tail(crashes: bool, durable: int, base: int, counts: dict[str, int]) -> None:
    """Under ``interval`` a session may come back on another branch, with what was durable."""
    caller = Caller("a")
    caller.step("a", 2)
    caller.step("a", 3)
    era, history = caller.era["a"], caller.history
    history.durable[era] = durable
    if crashes:
        caller.crash()
    caller.era["a"] = history.go_back(history.ask(era), base, 7)
    caller.position["a"] = base
    caller.server.read["a"] = caller.server.read["a"][:base]
    if base <= 5:
        for _ in range(3):
            caller.step("a")
    assert caller.judge(may_lose_tails=True).counts == counts


def test_a_tail_that_is_lost_without_a_new_branch() -> None:
    caller = Caller("a")
    caller.step("a", 5)
    caller.crash()
    caller.server.read["a"].pop()
    caller.look("a")
    assert caller.judge(may_lose_tails=True).counts == {"lost": 1}


@given(data=st.data(), width=st.integers(1, 100))
def test_a_digest_knows_every_bit(data: st.DataObject, width: int) -> None:
    rows = np.random.default_rng(width).normal(size=(3, width)).astype(np.float32)
    row, column, bit = (data.draw(st.integers(0, most)) for most in (2, width - 1, 31))
    others = rows.copy()
    others.view(np.uint32)[row, column] ^= np.uint32(1 << bit)
    assert (digest(rows) != digest(others)).tolist() == [each == row for each in range(3)]
