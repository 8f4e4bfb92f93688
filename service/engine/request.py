"""What a caller asks of the sessions of one model: some steps for each of some sessions."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from service.engine.batch import Deliver, Inputs, Ints, Outputs, Sampling, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Steps for several sessions, checked and ready to be queued.

    ``deliver`` is called until every row is answered, with the rows' numbers in ``origin``.
    """

    slots: Ints  # (rows,)
    steps: Ints  # (rows,) each at least 1
    inputs: Inputs  # the steps of all rows, concatenated: (steps,) or (steps, width)
    positions: Ints | None  # (rows,) or unchecked
    outputs: Outputs
    sampling: Sampling | None
    deliver: Deliver
    commit: bool = True
    origin: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        if not len(self.origin):
            object.__setattr__(self, "origin", np.arange(len(self.slots)))

    def only(self, row: int) -> "Request":
        """The request for one of its rows."""
        start = int(self.steps[:row].sum())
        return Request(
            slots=self.slots[row : row + 1],
            steps=self.steps[row : row + 1],
            inputs=self.inputs[start : start + int(self.steps[row])],
            positions=None if self.positions is None else self.positions[row : row + 1],
            outputs=self.outputs,
            sampling=self.sampling,
            deliver=self.deliver,
            commit=self.commit,
            origin=self.origin[row : row + 1],
        )

    def position(self, row: int) -> int:
        """The position that a row claims; only rows that claim one are judged by it."""
        assert self.positions is not None, "a row without a position is never refused for it"
        return int(self.positions[row])

    def contents(self) -> Ints:
        """A digest of each row's inputs, (rows,), equal for equal inputs in any company.

        A single token or value is its own digest.
        """
        stops = np.cumsum(self.steps)
        scalar = self.inputs.ndim == 1 or self.inputs.shape[1] == 1
        found = np.zeros(len(self.slots), np.int64)
        hashed = np.arange(len(self.slots))
        if scalar:
            flat = self.inputs.reshape(-1)
            bits = flat.view(np.int32) if flat.dtype == np.float32 else flat
            found[:] = bits[stops - 1]
            hashed = np.flatnonzero(self.steps > 1)
        salt = b"every" if self.outputs.every_step else b"last"
        for row in hashed.tolist():
            data = self.inputs[stops[row] - self.steps[row] : stops[row]].tobytes()
            digest = hashlib.blake2b(data, digest_size=8, salt=salt).digest()
            found[row] = int.from_bytes(digest, "little", signed=True)
        return found


@dataclass(slots=True, eq=False, kw_only=True)
class Submission:
    """A request's work in the queue, so that the caller can call it off."""

    wake: Callable[[], None]
    works: list[Work] = field(default_factory=list)
    cancelled: bool = False

    def cancel(self) -> None:
        """Drop whatever has not begun to run; it will not be applied."""
        self.cancelled = True
        for work in self.works:
            work.cancelled = True
        self.wake()
