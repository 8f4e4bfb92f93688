"""What a history must say, and what it says.

Every session's past is put in order by position within its eras, run alone, and held against all
that anybody was told. Knows nothing of connections, stores or time.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.chaos.oracle.alone import ROWS, Alone, Past, Told
from benchmarks.chaos.oracle.history import (
    DIGEST,
    DRAWN,
    DUPLICATE,
    INFERRED,
    REPLAYED,
    UNKNOWN,
    Era,
    History,
    Ints,
    digest,
)
from models.repository import Model

FORECAST_PATHS = 8
FORECAST_HORIZON = 3
_ERAS_AT_ONCE = 16 * ROWS
_ALONE_STEPS = 10_000  # of each model, in a batch of one
_FORECASTS = 40  # run alone; the others are held against each other
_SHOWN = 20


@dataclass(slots=True)
class Verdict:
    """What is wrong with a history, counted.

    Attributes:
        counts: ``lost``, ``doubled`` and ``different``.
        findings: the first of them, in words.
        compared: predictions held against those of the session alone.
        one_by_one: steps that were run in a batch of one as well.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    compared: int = 0
    one_by_one: int = 0

    def add(self, kind: str, words: str, count: int = 1) -> None:
        """Take note of something."""
        self.counts[kind] += count
        if len(self.findings) < _SHOWN:
            self.findings.append(f"{kind}: {words}")

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts.total()


def judge(
    history: History, models: Mapping[str, Model], *, may_lose_tails: bool = False, seed: int = 1
) -> Verdict:
    """Hold a history against its sessions alone.

    Args:
        history: what callers were told.
        models: those that sessions are of, by name.
        may_lose_tails: a crash may take what was not told to be durable, in a new branch.
        seed: of the choice of what is run in a batch of one.
    """
    verdict = Verdict()
    for kind, words in history.noted:
        verdict.add(kind, words)
    _judge_reads(history, verdict)
    _judge_eras(history, verdict, may_lose_tails=may_lose_tails)
    steps, slices = _by_era(history)
    pasts = _pasts(history, steps, slices, verdict)
    chance = random.Random(seed)
    for name, model in models.items():
        mine = [number for number, past in pasts.items() if history.eras[number].model == name]
        for start in range(0, len(mine), _ERAS_AT_ONCE):
            some = mine[start : start + _ERAS_AT_ONCE]
            told = Alone(model).run([pasts[number] for number in some])
            for number, alone in zip(some, told, strict=True):
                told_here = steps[slices[number]] if number in slices else steps[:0]
                _judge_steps(history.eras[number], told_here, alone, verdict)
            if not start:
                _one_by_one(model, [pasts[number] for number in some], told, chance, verdict)
        _judge_forecasts(history, model, set(mine), pasts, chance, verdict)
    return verdict


def _judge_reads(history: History, verdict: Verdict) -> None:
    """No position is below what had been told, or above all that was sent."""
    reads, names = history.reads(), list(history.requests)
    wrong = (reads["position"] < reads["least"]) | (reads["position"] > reads["most"])
    for read in reads[wrong]:
        words = f"{history.eras[read['era']].session} is at {read['position']}, says"
        words += f" {names[read['by']]} at tick {read['told']}"
        if read["position"] < read["least"]:
            verdict.add("lost", f"{words}; it was at {read['least']}")
        else:
            verdict.add("doubled", f"{words}; all that was sent leads to {read['most']}")


def _judge_eras(history: History, verdict: Verdict, *, may_lose_tails: bool) -> None:
    """A session comes back without its tail only where that is allowed, and then after a crash."""
    crashes = np.array(history.crashes, np.int64)
    for era in history.eras:
        if era.parent is None or era.is_asked:
            continue
        parent = history.eras[era.parent]
        crashed = ((crashes > parent.asked) & (crashes < era.began)).any()
        words = f"{era.session} was at {era.least}, and came back on another branch at {era.base}"
        if not may_lose_tails:
            verdict.add("lost", words)
        elif not crashed:
            verdict.add("lost", f"{words} though the server had not crashed")
        elif era.base < era.floor:
            verdict.add("lost", f"{words} though {era.floor} had been told to be durable")
        elif era.base > history.most[era.parent]:
            verdict.add("doubled", f"{words}, where nobody had sent it")


def _by_era(history: History) -> tuple[NDArray[Any], dict[int, slice]]:
    """All steps told, by era and position (the first told comes first), and where each era is."""
    steps = history.steps()
    steps = steps[np.lexsort((steps["position"], steps["era"]))]
    eras, starts = np.unique(steps["era"], return_index=True)
    stops = [*starts[1:].tolist(), len(steps)]
    spans = zip(eras.tolist(), starts.tolist(), stops, strict=True)
    return steps, {era: slice(start, stop) for era, start, stop in spans}


def _pasts(
    history: History, steps: NDArray[Any], slices: Mapping[int, slice], verdict: Verdict
) -> dict[int, Past]:
    """What each era's session has read, as far as that is known without a gap."""
    found: dict[int, Past] = {}
    for number, era in enumerate(history.eras):
        parent = _EMPTY if era.parent is None else found[era.parent]
        if era.base > len(parent):
            verdict.add("different", f"nobody was told how {era.session} came to {era.base}")
        own = steps[slices[number]] if number in slices else steps[:0]
        _, first = np.unique(own["position"], return_index=True)
        path = own[first]
        path = path[path["position"] >= era.base]
        gaps = path["position"] != era.base + np.arange(len(path))
        if gaps.any():
            at = int(gaps.argmax())
            where = path["position"][at]
            verdict.add("different", f"nobody was told how {era.session} came to {where}")
            path = path[:at]
        kept = min(era.base, len(parent))
        found[number] = Past(
            inputs=np.concatenate([parent.inputs[:kept], path["input"]]),
            drawn=np.concatenate([parent.drawn[:kept], path["flags"] & DRAWN != 0]),
            seeds=np.concatenate([parent.seeds[:kept], path["seed"]]),
        )
    return found


_EMPTY = Past(
    inputs=np.empty(0, np.float32), drawn=np.empty(0, np.bool_), seeds=np.empty(0, np.uint64)
)


def _judge_steps(era: Era, steps: NDArray[Any], alone: Told, verdict: Verdict) -> None:
    """Hold all that was told of one era's steps against the session alone."""
    steps = steps[steps["position"] < len(alone.digests)]  # what is behind a gap was told above
    position, flags = steps["position"], steps["flags"]
    told = flags & DIGEST != 0
    verdict.compared += int(told.sum())
    others = told & (steps["digest"] != alone.digests[position])
    _add_rows(verdict, "different", era, position[others], "another prediction than alone")
    known = flags & UNKNOWN == 0
    inputs = steps["input"].view(np.uint32) != alone.inputs.view(np.uint32)[position]
    _add_rows(verdict, "different", era, position[known & inputs], "another step than alone")
    applied = position[flags & (REPLAYED | INFERRED) == 0]
    if len(applied) > 1:
        again = applied[1:][applied[1:] == applied[:-1]]  # they are in order
        _add_rows(verdict, "doubled", era, again, "a step was applied again")
    if era.ended is not None:
        late = position[(steps["sent"] > era.ended) & (flags & DUPLICATE != 0)]
        _add_rows(verdict, "doubled", era, late, "a duplicate from before an end was taken")


def _add_rows(verdict: Verdict, kind: str, era: Era, positions: Ints, words: str) -> None:
    if len(positions):
        verdict.add(kind, f"{era.session} at {positions[0]}: {words}", len(positions))


def _one_by_one(
    model: Model,
    pasts: Sequence[Past],
    told: Sequence[Told],
    chance: random.Random,
    verdict: Verdict,
) -> None:
    """Run some sessions in a batch of one: rows must not feel each other in this process either."""
    alone = Alone(model, rows=1)
    left = _ALONE_STEPS
    for number in chance.sample(range(len(pasts)), len(pasts)):
        if left <= 0:
            break
        left -= len(pasts[number])
        (found,) = alone.run([pasts[number]])
        verdict.one_by_one += len(found.digests)
        others = int((found.digests != told[number].digests).sum())
        if others:
            verdict.add("different", f"{model}: the oracle's own rows feel each other", others)


def _judge_forecasts(
    history: History,
    model: Model,
    mine: set[int],
    pasts: Mapping[int, Past],
    chance: random.Random,
    verdict: Verdict,
) -> None:
    """Forecasts of the same are the same, and some are those of the session alone."""
    found: dict[tuple[int, int, int], int] = {}
    for era, position, seed, paths in history.forecasts().tolist():
        if era in mine and found.setdefault((era, position, seed), paths) != paths:
            verdict.add("different", f"{history.eras[era].session} at {position}: two forecasts")
    some = [each for each in found if each[1] <= len(pasts[each[0]])]
    alone = Alone(model)
    for era, position, seed in chance.sample(some, min(_FORECASTS, len(some))):
        past = _until(pasts[era], position)
        values = alone.forecast(past, seed=seed, paths=FORECAST_PATHS, horizon=FORECAST_HORIZON)
        verdict.compared += 1
        if int(digest(values.reshape(1, -1))[0]) != found[era, position, seed]:
            session = history.eras[era].session
            verdict.add("different", f"{session} at {position}: another forecast than alone")


def _until(past: Past, position: int) -> Past:
    return Past(
        inputs=past.inputs[:position], drawn=past.drawn[:position], seeds=past.seeds[:position]
    )


__all__ = ["FORECAST_HORIZON", "FORECAST_PATHS", "Verdict", "judge"]
