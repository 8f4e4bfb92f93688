"""A fake device that does what it is given as late as it may: when somebody waits for it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from service.engine.execution.ahead.runner import Ask, Found
from service.engine.work.columns import Answers, Floats, Inputs, Ints, Mask
from tests.service.engine.fakes import FakeRunner

_LOOKS = 3  # at a run until the device has done it


class Deferred:
    """A run that has begun; a fault in it shows when it is waited for."""

    def __init__(self, runner: "DeferredRunner", work: Callable[[], list[Found]]) -> None:
        self._runner = runner
        self._work = work
        self._looks = 0
        self._found: list[Found] | None = None
        self._fault: Exception | None = None

    def do(self) -> None:
        """The device does it."""
        try:
            self._found = self._work()
        except Exception as fault:
            self._fault = fault

    def is_over(self) -> bool:
        self._looks += 1
        if self._looks > _LOOKS and self._runner.gate.is_set():
            self._runner.catch_up(self)
        return self not in self._runner.pending

    def finish(self) -> list[Found]:
        self._runner.catch_up(self)
        self._runner.held.remove(self)
        if self._fault is not None:
            raise self._fault
        assert self._found is not None, "it was done"
        return self._found


class DeferredRunner(FakeRunner):
    """A `FakeRunner` that is an ``AheadRunner``.

    Attributes:
        pending: runs that have begun and are not done.
        held: runs that have begun and were not finished.
    """

    can_begin = True
    decode_unit = 1

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.pending: list[Deferred] = []
        self.held: list[Deferred] = []

    def begin(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: Mask,
        inputs: Inputs,
        asks: Sequence[Ask],
        bucket: int = 0,
    ) -> Deferred:
        assert len(self.held) < 2, "no more may be under way"
        columns = {"read": read, "write": write, "fresh": fresh, "inputs": inputs}
        given: dict[str, Any] = {name: own.copy() for name, own in columns.items()}

        def work() -> list[Found]:
            lengths = np.ones(len(write), np.int64)
            found = FakeRunner.step(self, **given, lengths=lengths, every_step=False, bucket=bucket)
            return [self._found(found[ask.rows], ask) for ask in asks]

        run = Deferred(self, work)
        self.pending.append(run)
        self.held.append(run)
        return run

    def catch_up(self, run: Deferred | None = None) -> None:
        """Do all that has begun, or a run and those before it."""
        while self.pending and (run is None or run in self.pending):
            self.pending[0].do()
            del self.pending[0]

    def step(self, **columns: Any) -> Floats:
        self.catch_up()
        return super().step(**columns)

    def recall(self, slots: Ints) -> Floats:
        self.catch_up()
        return super().recall(slots)

    def copy(self, read: int, write: Ints) -> None:
        self.catch_up()
        super().copy(read, write)

    def read(self, slots: Ints) -> list[Floats]:
        self.catch_up()
        return super().read(slots)

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        self.catch_up()
        super().write(slots, rows)

    def _found(self, predictions: Floats, ask: Ask) -> Found:
        try:
            found: Answers = self.answer(predictions, ask.outputs, ask.draws, ask.positions)
        except Exception as fault:
            return fault
        return found
