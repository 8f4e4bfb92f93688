"""What clients are told, held against the pasts of their sessions."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random

import numpy as np

from benchmarks.crash.past import UNKNOWN, Op, Past, State, Steps, WrongError
from service import errors
from service.engine.stepping import StepCall, StepResult
from service.engine.work.columns import Outputs
from service.errors import CellarError
from tests.service.engine.fakes import DecodingRunner
from tests.service.engine.houses import Fakes
from tests.service.engine.wires import RAW

EVERY = Outputs(raw=True, every_step=True)


class Answers:
    """What the clients of one process were told.

    Attributes:
        has_faults: runs fail now and then.
        findings: what was wrong, by kind.
        counts: what was done.
    """

    def __init__(self, house: Fakes, dice: Random, *, has_faults: bool = False) -> None:
        self.has_faults = has_faults
        self.house = house
        self.engine = house.engine
        self.dice = dice
        self.findings: list[WrongError] = []
        self.counts: Counter[str] = Counter()

    async def _meet(self, past: Past, *, settle: bool = False) -> None:
        """Ask where a session stands, and go on there."""
        while True:
            try:
                info = await self.engine.describe(past.name, settle=settle)
            except (errors.SessionUnknownError, errors.SessionClosedError):
                assert self.engine.log is not None
                with suppress(errors.StoreUnavailableError):
                    await self.engine.log.flush()  # that it is closed is said before it is durable
                    is_open, branch, position = False, UNKNOWN, 0
                    break
                await asyncio.sleep(0.001)
            except errors.StoreUnavailableError:
                await asyncio.sleep(0.001)
            else:
                is_open, branch, position = True, info.branch, info.position
                self._check(info.status.value == "open", "lost", f"{past.name}: its state is lost")
                break
        self.counts["reads"] += 1
        with self._noting():
            past.settle(is_open=is_open, branch=branch, position=position)

    def _told(self, past: Past, position: int, branch: int) -> None:
        with self._noting():
            past.settle(is_open=True, branch=branch, position=position)

    def _step(
        self, past: Past, op: Steps, *, position: int | None, branch: int = 0, commit: bool = True
    ) -> StepCall:
        return self.engine.step(
            past.name,
            self.house.served.reader.tokens(np.array(op.tokens)),
            outputs=EVERY if op.every else RAW,
            position=position,
            branch=branch,
            commit=commit,
        )

    async def _ask(
        self,
        past: Past,
        op: Steps,
        *,
        position: int | None,
        branch: int = 0,
        commit: bool = True,
        is_known: bool = False,
    ) -> StepResult | None:
        """A request that changes nothing; ``None`` where it is refused.

        ``is_known``: it was applied, and nothing that it says may be called wrong.
        """
        try:
            return await self._step(past, op, position=position, branch=branch, commit=commit)
        except CellarError as error:
            self._count_refusal(past, error)
            calls_wrong = isinstance(
                error,
                errors.StepConflictError | errors.PositionMismatchError | errors.StaleBranchError,
            )
            self._check(
                not (is_known and calls_wrong), "different", f"{past.name}: {past.now}: {error}"
            )
            return None

    def _done(self, past: Past, op: Steps, done: "asyncio.Future[StepResult]") -> None:
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, CellarError):
            self._refused(past, op, error)
        elif error is None:
            result = done.result()
            self._answered(past, op, result.position, self._values(result))

    def _answered(self, past: Past, op: Steps, position: int, values: list[int]) -> None:
        before = self._happened(past, op)
        if before is None:
            return
        self.counts["acknowledged"] += len(op.tokens)
        at = len(before.tokens) + len(op.tokens)
        kind = "lost" if position < at else "doubled"
        self._check(position == at, kind, f"{past.name}: a reply at {position}, not {at}")
        expected = before.values(op.tokens, every=op.every)
        self._check(values == expected, "different", f"{past.name}: {values} is not {expected}")

    def _refused(self, past: Past, op: Op, error: CellarError) -> None:
        self._count_refusal(past, error)
        if isinstance(op, Steps) or not self.engine.failed.is_set():
            past.refused(op)

    def _count_refusal(self, past: Past, error: CellarError) -> None:
        self.counts[f"refused {error.reason}"] += 1
        bad = isinstance(error, errors.StateLostError | errors.ReplyLostError)
        bad |= isinstance(error, errors.InternalError) and not self.has_faults
        self._check(not bad, "lost", f"{past.name}: {error}")

    def _happened(self, past: Past, op: Op, *, branch: int = UNKNOWN) -> State | None:
        try:
            return past.happened(op, branch=branch)
        except WrongError as error:
            self.findings.append(error)
            return None

    def _check_device(self, past: Past) -> None:
        """What the device has read, where nothing else is on its way."""
        session = self.house.find(past.name)
        device = self.house.runners[self.house.served.shards.index(session.shard)]
        assert isinstance(device, DecodingRunner)
        read = device.tokens[session.shard.table.row[session.slot]]
        self._check(
            tuple(read) == past.now.tokens,
            "different",
            f"{past.name}: has read {read}, not {past.now.tokens}",
        )

    def _check(self, holds: bool, kind: str, words: str) -> None:
        if not holds:
            self.findings.append(WrongError(kind, words))

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Keep what is wrong, and let the client go on."""
        try:
            yield
        except WrongError as error:
            self.findings.append(error)

    @staticmethod
    def _values(result: StepResult) -> list[int]:
        assert result.answers.raw is not None
        found: list[int] = result.answers.raw[:, 0].astype(int).tolist()
        return found
