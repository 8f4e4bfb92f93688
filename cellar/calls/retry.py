"""When to try again. Knows nothing of what is tried."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from cellar.errors import CellarError, DeadlineExceededError, ServerError, UnauthenticatedError
from cellar.values import arguments

_log = logging.getLogger("cellar")

CLEANUP_TIMEOUT_S = 1.0
"""What closing may take, in seconds, when an error has ended the block: it may be the network's."""

CLOSING_TIMEOUT_S = 5.0
"""What closing may take, in seconds, at the end of a block that went well."""
_MOST_UNREACHED = 6
"""Tries of a request while no server has ever answered: some four seconds."""
_MOST_GROWN = 64  # so many times a pause grows: what is longer is as long as it may be


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and how far apart, a request is tried.

    The n-th pause is ``first_delay_s * growth**n``, at most ``longest_delay_s``, of which a
    random half at most is left out, so that clients do not come back in step. A pause that
    the server asks for is a lower bound.

    What bounds the tries of a request is its ``timeout_s``, pauses and reconnecting included. Only
    while no server has ever answered, a client gives up earlier: the address may be wrong.

    Attributes:
        attempts: tries in all, 1 means no retries; None leaves the bound to the timeout.
        first_delay_s: the first pause, in seconds.
        growth: what each further pause is multiplied with.
        longest_delay_s: no pause of our own is longer, in seconds.
        clock: the time in seconds, from any origin.
        draw: a random number in [0, 1).
    """

    attempts: int | None = None
    first_delay_s: float = 0.1
    growth: float = 2.0
    longest_delay_s: float = 2.0
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        """Checks what each is.

        Raises:
            BadInputError: one is no such number; the message names it.
        """
        if self.attempts is not None:
            object.__setattr__(
                self, "attempts", arguments.whole("attempts", self.attempts, least=1)
            )
        for name in ("first_delay_s", "longest_delay_s", "growth"):
            found = arguments.number(name, getattr(self, name))
            if found < (1 if name == "growth" else 0):
                raise arguments.refused(
                    name, "not below 1" if name == "growth" else "not below 0", found
                )
            object.__setattr__(self, name, found)

    def delay_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """The pause after so many failures (at least 1), in seconds."""
        growth = self.growth ** min(failures - 1, _MOST_GROWN)
        pause = min(self.first_delay_s * growth, self.longest_delay_s)
        jittered = pause * (1.0 - 0.5 * self.draw())
        return jittered if retry_after_s is None else retry_after_s + jittered

    def seed(self) -> int:
        """A random seed, for callers that gave none."""
        return int(self.draw() * 2**53)


class Reached:
    """Whether a server has ever answered a client."""

    def __init__(self) -> None:
        """Not yet."""
        self.ever = False


class Attempts:
    """The tries of one request, within one deadline."""

    def __init__(
        self, policy: RetryPolicy, timeout_s: float, reached: Reached | None = None
    ) -> None:
        """Starts the clock; ``reached`` is the client's."""
        self._policy = policy
        self._reached = reached or Reached()
        self._deadline = policy.clock() + timeout_s
        self._failures = 0
        self._has_tried_another_token = False
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

    def answered(self) -> None:
        """A server has answered."""
        self._reached.ever = True

    def failed(self, error: CellarError) -> float:
        """Counts a failure and returns the pause before the next try, in seconds.

        Raises:
            CellarError: the failure itself, when there is to be no next try.
        """
        self._failures += 1
        self.ambiguous = self.ambiguous or error.ambiguous
        if isinstance(error, ServerError):
            self.answered()
        most = self._policy.attempts
        if most is None and not self._reached.ever:
            most = _MOST_UNREACHED
        if isinstance(error, UnauthenticatedError):
            if self._has_tried_another_token:
                raise error
            self._has_tried_another_token = True
        if not error.retryable or (most is not None and self._failures >= most):
            raise error
        delay_s = self._policy.delay_s(self._failures, error.retry_after_s)
        if self._policy.clock() + delay_s >= self._deadline:
            raise error
        _log.info("tried again in %.1f s: %s", delay_s, error)
        return delay_s
