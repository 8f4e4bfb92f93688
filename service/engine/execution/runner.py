"""What the engine needs of a device."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.work.columns import Answers, Floats, Inputs, Ints, Outputs
from service.engine.work.sampling import Draws


class UnwrittenError(Exception):
    """A run failed before it had written any state; its cause says more.

    Args:
        complaint: what an operator of the model says of the rows' inputs, if that is why.
    """

    def __init__(self, complaint: str | None = None) -> None:
        super().__init__(complaint)
        self.complaint = complaint

    def __str__(self) -> str:
        why = self.complaint or str(self.__cause__ or "a run failed, and has written nothing")
        return " ".join(why.split())  # one line of the log


class Runner(Protocol):
    """Runs steps on a device, and keeps the states that they lead to; calls must not overlap.

    Attributes:
        rows_run_alone: each row has a run of its own, whatever it is given with: see `probe`.
    """

    rows_run_alone: bool

    def step(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
    ) -> Floats:
        """Advance rows and write their new state; no row reads a slot that another one writes.

        Args:
            read: slot each row starts from, (rows,).
            write: slot each row ends in, (rows,).
            fresh: rows that start from the initial state instead, (rows,).
            inputs: (rows, time) token ids or (rows, time, width) values; padding is any valid one.
            lengths: valid steps of each row, (rows,), each at least 1.
            every_step: return all predictions instead of each row's last.

        Returns:
            Predictions (rows, width), or (rows, time, width); valid until the next call.

        Raises:
            UnwrittenError: it failed, and all slots are as they were. After any other fault those
                that it writes are in doubt.
        """

    @property
    def own_thread(self) -> bool:
        """Whether all calls must come from one thread, which the first one decides."""

    @property
    def can_decode(self) -> bool:
        """Whether the model has a graph for several steps that feed on each other."""

    def decode(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        positions: Ints,
        draws: Draws,
        steps: int,
    ) -> NDArray[Any]:
        """Read a step, draw the next one, read that, and so on, in one run.

        Only where `can_decode`.

        Args:
            read: slot each row starts from, (rows,).
            write: slot each row ends in, (rows,).
            fresh: rows that start from the initial state instead, (rows,).
            inputs: what each row reads first: tokens (rows,), or values (rows, 1).
            positions: each row's position once it has read that, (rows,).
            draws: how each row draws.
            steps: how many steps each row reads, and draws.

        Returns:
            What was drawn, (rows, steps): tokens int32, or values float32 within what the model
            takes. The last one is not read yet: the state is that after the one before.
        """

    def is_lost(self, fault: Exception) -> bool:
        """After a call has failed: whether the device is gone, so that every other one fails too.

        From the thread that made the call.
        """

    def blank(self, rows: int) -> Inputs:
        """One valid step for each of several rows, to measure with."""

    def recall(self, slots: Ints) -> Floats:
        """The last predictions of some slots' sessions, (rows, width)."""

    def copy(self, read: int, write: Ints) -> None:
        """Copy one slot's rows to other slots."""

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        """Turn predictions (rows, width) into answers.

        ``positions`` (rows,) are the positions the predictions stand at; with the seeds in
        ``draws`` they decide what is drawn.
        """
