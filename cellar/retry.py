"""When to try again. Knows nothing of what is tried."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from cellar.errors import CellarError, DeadlineExceededError

CLEANUP_TIMEOUT_S = 1.0
"""What closing may take, in seconds, when an error has ended the block: it may be the network's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and how far apart, a request is tried.

    The n-th pause is ``first_delay_s * growth**n``, at most ``longest_delay_s``, of which a
    random half at most is left out, so that clients do not come back in step. A pause that
    the server asks for is a lower bound.

    Attributes:
        attempts: tries in all; 1 means no retries.
        first_delay_s: the first pause, in seconds.
        growth: what each further pause is multiplied with.
        longest_delay_s: no pause of our own is longer, in seconds.
        clock: the time in seconds, from any origin.
        draw: a random number in [0, 1).
    """

    attempts: int = 6
    first_delay_s: float = 0.1
    growth: float = 2.0
    longest_delay_s: float = 2.0
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random

    def delay_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """The pause after so many failures (at least 1), in seconds."""
        pause = min(self.first_delay_s * self.growth ** (failures - 1), self.longest_delay_s)
        jittered = pause * (1.0 - 0.5 * self.draw())
        return jittered if retry_after_s is None else retry_after_s + jittered

    def seed(self) -> int:
        """A random seed, for callers that gave none."""
        return int(self.draw() * 2**53)


class Attempts:
    """The tries of one request, within one deadline."""

    def __init__(self, policy: RetryPolicy, timeout_s: float) -> None:
        """Starts the clock."""
        self._policy = policy
        self._deadline = policy.clock() + timeout_s
        self._failures = 0
        self.ambiguous = False
        """True once a try failed without telling whether it had been applied."""

    def remaining_s(self) -> float:
        """The seconds left.

        Raises:
            DeadlineExceededError: none are.
        """
        remaining = self._deadline - self._policy.clock()
        if remaining <= 0:
            raise DeadlineExceededError("no time left for the request", code="DEADLINE_EXCEEDED")
        return remaining

    def failed(self, error: CellarError) -> float:
        """Counts a failure and returns the pause before the next try, in seconds.

        Raises:
            CellarError: the failure itself, when there is to be no next try.
        """
        self._failures += 1
        self.ambiguous = self.ambiguous or error.ambiguous
        if not error.retryable or self._failures >= self._policy.attempts:
            raise error
        delay_s = self._policy.delay_s(self._failures, error.retry_after_s)
        if self._policy.clock() + delay_s >= self._deadline:
            raise error
        return delay_s
