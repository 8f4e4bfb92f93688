"""What the engine needs of a device."""

from collections.abc import Sequence
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


def check_slots(slots: Ints, count: int) -> None:
    """Check that there are such slots: an index out of range reads or writes another row.

    Raises:
        ValueError: one is not in 0..``count`` - 1.
    """
    if len(slots) and not (slots.min() >= 0 and slots.max() < count):
        raise ValueError(f"slots {slots.min()}..{slots.max()} are not in 0..{count - 1}")


def check_rows(slots: Ints, rows: Sequence[Floats], shapes: Sequence[tuple[int, ...]]) -> None:
    """Check what is to be written to an arena.

    Args:
        slots: where to, (slots,).
        rows: one array for each tensor, (slots, *shape).
        shapes: of a row of each tensor.

    Raises:
        ValueError: a tensor is missing, of another shape or type, or has a number in it that is
            not finite.
    """
    if len(rows) != len(shapes):
        raise ValueError(f"{len(rows)} tensors of rows are given, the model has {len(shapes)}")
    for number, (own, shape) in enumerate(zip(rows, shapes, strict=True)):
        wanted = (len(slots), *shape)
        if own.dtype != np.float32 or own.shape != wanted:
            raise ValueError(
                f"rows, tensor {number}: {own.dtype} {own.shape} is not float32 {wanted}"
            )
        if not np.isfinite(own).all():
            raise ValueError(f"rows, tensor {number}: a number is not finite")


class Runner(Protocol):
    """Runs steps on a device, and keeps the states that they lead to; calls must not overlap.

    Attributes:
        rows_run_alone: each row has a run of its own, whatever it is given with: see `probe`.
    """

    rows_run_alone: bool

    @property
    def cuts_matter(self) -> bool:
        """Whether several steps at once may come to other bits than one by one.

        Or than beside rows of more steps: a run of as many time steps finds the same ones.
        """

    def step(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
        bucket: int = 0,
    ) -> Floats:
        """Advance rows and write their new state; no row reads a slot that another one writes.

        Args:
            read: slot each row starts from, (rows,).
            write: slot each row ends in, (rows,).
            fresh: rows that start from the initial state instead, (rows,).
            inputs: (rows, time) token ids or (rows, time, width) values; padding is any valid one.
            lengths: valid steps of each row, (rows,), each at least 1.
            every_step: return all predictions instead of each row's last.
            bucket: the size to pad the run to, see `bucket`; 0 for that of so many rows. Where
                bits never depend on it, any that holds the rows.

        Returns:
            Predictions (rows, width), or (rows, time, width); valid until the next call.

        Raises:
            ValueError: the rows do not fit, or there is no such bucket; nothing has run.
            UnwrittenError: it failed, and all slots are as they were. After any other fault those
                that it writes are in doubt.
        """

    def bucket(self, rows: int) -> int:
        """The size that a run of so many rows is padded to, where bits may depend on it.

        0 where they never do. A run of another number of rows that is given this ``bucket`` finds
        the bits that these rows found.

        Raises:
            ValueError: no rows, or more than a run may have.
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

    def read(self, slots: Ints) -> list[Floats]:
        """Copies of some slots' rows: all that sessions need to go on elsewhere, bit for bit.

        Returns:
            One array for each tensor of the arena, in its order, (slots, *shape).

        Raises:
            ValueError: a slot that there is not.
        """

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        """Put rows that `read` returned, here or on another runner of the model, into slots.

        Args:
            slots: no slot twice, (slots,).
            rows: one array for each tensor of the arena, in its order, (slots, *shape).

        Raises:
            ValueError: they are not rows of this model, or a number is not finite, or there is no
                such slot; nothing was written.
        """

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        """Turn predictions (rows, width) into answers.

        ``positions`` (rows,) are the positions the predictions stand at; with the seeds in
        ``draws`` they decide what is drawn.
        """
