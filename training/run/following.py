"""The page of a run while it trains: written anew now and then, so that it can be followed.

Knows nothing of what is on the page.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Protocol

from training.run.steps.loop import Clock, Loop

LEAST_S = 10.0
"""Seconds between two writings, at least."""
SHARE = 0.01
"""All writings together take no more of the time since the first."""
FIRST_COST_S = 0.3
"""What a writing is taken to cost before one was measured."""


class Stage(Enum):
    """How far a run is."""

    BEGUN = auto()
    TRAINING = auto()
    SCORING = auto()
    STOPPED = auto()


class Draw(Protocol):
    """Writes the page of a run that is not finished."""

    def __call__(self, stage: Stage, *, reason: str = "") -> None:
        """Write it; ``reason`` is why it was stopped."""


class Following:
    """Keeps a run's page up to date, at a bounded rate and cost.

    A page that a disk does not take is left out: training goes on without it.
    """

    def __init__(self, loop: Loop, draw: Draw, *, clock: Clock = time.monotonic) -> None:
        self._loop = loop
        self._draw = draw
        self._clock = clock
        self._began_s = self._written_s = clock()
        self._cost_s = 0.0
        """What all writings have taken."""
        self._last_cost_s = FIRST_COST_S

    def write_if_due(self) -> None:
        """Write it if it is time to, and affordable; only the first of several processes does."""
        if self._clock() - self._written_s >= LEAST_S:
            self._write_if_affordable(Stage.TRAINING)

    @contextmanager
    def until_its_end(self, *, remedy: str) -> Iterator[None]:
        """Say on the page that the run has begun and, if it ends in here too early, why.

        ``remedy`` says how to go on with it.
        """
        self._write(Stage.BEGUN)
        self._written_s = self._clock()
        try:
            yield
        except BaseException as error:
            self._write(Stage.STOPPED, reason=_reason(error, remedy))
            raise

    def scoring(self) -> None:
        """Say that training is over and that the scores are to come, if that is affordable."""
        self._write_if_affordable(Stage.SCORING)

    def stopped(self, remedy: str) -> None:
        """Say that it was stopped, and how to go on."""
        self._write(Stage.STOPPED, reason=remedy)

    def _write_if_affordable(self, stage: Stage) -> None:
        if not self._loop.fabric.is_global_zero:
            return
        now = self._clock()
        if self._cost_s + self._last_cost_s > SHARE * (now - self._began_s):
            return
        self._write(stage)
        self._written_s = self._clock()
        self._last_cost_s = self._written_s - now
        self._cost_s += self._last_cost_s

    def _write(self, stage: Stage, *, reason: str = "") -> None:
        if self._loop.fabric.is_global_zero:
            with suppress(OSError):
                self._draw(stage, reason=reason)


def _reason(error: BaseException, remedy: str) -> str:
    said = str(error).partition("\n")[0]
    return said if remedy in said else f"{said}; {remedy}" if said else remedy
