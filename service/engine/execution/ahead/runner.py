"""What a device can do whose host need not wait for each run before it prepares the next one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Answers, Inputs, Ints, Outputs
from service.engine.work.sampling import Draws


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked of some rows of a run.

    Attributes:
        rows: of the run; without a step, from a number to another.
        draws: how these rows draw.
        positions: where their predictions stand, (rows,); with the seeds they decide what is drawn.
    """

    rows: slice
    outputs: Outputs
    draws: Draws | None
    positions: Ints


Found: TypeAlias = Answers | Exception
"""The answers to one ask, or why they could not be computed; the rows' states are sound then."""


class Begun(Protocol):
    """A run that has begun."""

    def is_over(self) -> bool:
        """Whether `finish` would not wait."""

    def finish(self) -> list[Found]:
        """Wait for the end of it; to be called once, by the thread that began it.

        Returns:
            What was found for each ask, in memory of its own.

        Raises:
            Exception: the step has failed, and the rows that it writes are in doubt.
        """


@runtime_checkable
class AheadRunner(Protocol):
    """A runner that is told what is asked of a run with it, and may have two runs under way."""

    @property
    def can_begin(self) -> bool:
        """Whether `begin` returns before its run has ended."""

    @property
    def decode_unit(self) -> int:
        """Steps that a decode should be a multiple of: what is left of it takes them one by one."""

    def begin(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        asks: Sequence[Ask],
        bucket: int = 0,
    ) -> Begun:
        """Have rows advance by one step, and compute what is asked of them.

        The arguments are those of `Runner.step`; ``inputs`` is (rows, 1) or (rows, 1, width). Two
        runs may be under way, of different sessions; any other call waits for what it needs.

        Raises:
            Exception: as `Runner.step`; the run has not begun, or those that it writes are in
                doubt.
        """
