"""Sessions go out and come back while everything else happens to them, by dice.

A session reads its own token alone, so that each state says whose it is and where it stands: it
need not be known in which order the calls ran.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from service import errors
from service.engine.calls.copies.fork import fork
from service.engine.calls.generate import generate
from service.engine.calls.moves import call_off, export_to_move
from service.engine.calls.snapshots.exporting import export, import_session
from service.engine.execution.runner import UnwrittenError
from service.engine.sessions.table.status import SessionStatus
from service.engine.work.columns import Floats, Ints, Outputs
from service.engine.work.sampling import Sampling
from tests.service.engine.fakes import VOCABULARY, DecodingRunner, run_alone
from tests.service.engine.houses import INLINE, PLAYS, WORKER, Fakes, fakes_on, leftovers
from tests.service.engine.sessions.test_tiers import few
from tests.service.store.fake import FakeStore

RAW = Outputs(raw=True)
COUNT, LONGEST = 9, 400
ALONE = [run_alone([n] * LONGEST) for n in range(COUNT)]


class Moody(DecodingRunner):
    """Fails by dice to take states, before or after it has written them."""

    rate = 0.0

    def write(self, slots: Ints, rows: Sequence[Floats]) -> None:
        found = self.dice.random()
        if found < self.rate / 2:
            raise UnwrittenError("as told")
        super().write(slots, rows)
        if found < self.rate:
            raise RuntimeError("it has taken them, and says nothing of it")


class MoodyStore(FakeStore):
    """Reads many rows slowly, and by dice not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = self.longest_s = 0.0
        self.dice = random.Random(0)

    def rows_at(self, keys: Sequence[bytes]) -> list[bytes | None]:
        time.sleep(self.dice.random() * self.longest_s)
        if self.dice.random() < self.rate:
            raise RuntimeError("as told")
        return super().rows_at(keys)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What there is.

    Attributes:
        rows: of the arena.
        host_rows: of host memory.
        durability: ``None``: there is no store.
        give_ups: how often the queue is given up.
    """

    rows: int = 2
    host_rows: int = 0
    durability: str | None = None
    give_ups: float = 0.0


KINDS = {
    "host": Kind(host_rows=COUNT),
    "none": Kind(durability="none"),
    "none and host": Kind(durability="none", host_rows=2),
    "commit": Kind(durability="commit"),
    "commit and host": Kind(durability="commit", host_rows=2),
    "interval": Kind(durability="interval", host_rows=2),
    "given up": Kind(durability="none", host_rows=2, give_ups=0.02),
    "host given up": Kind(host_rows=COUNT, give_ups=0.02),
    "one row": Kind(rows=1, durability="none", host_rows=1),
}


@dataclass(kw_only=True)
class Play:
    """Clients who do all there is to do with some sessions, and check what they are told."""

    house: Fakes
    dice: random.Random
    kind: Kind
    problems: list[str] = field(default_factory=list)
    checks: int = 0
    answered: int = 0
    drawing: set[str] = field(default_factory=set)
    read: dict[str, list[int]] = field(default_factory=dict)

    def open(self, n: int) -> None:
        engine, served = self.house.engine, self.house.served
        with suppress(errors.CellarError):
            engine.open(served, f"s{n}", history_steps=self.dice.choice([0, 60]))

    async def call(self, n: int) -> None:
        engine, dice, name = self.house.engine, self.dice, f"s{n}"
        what = dice.random()
        try:
            if what < 0.45:
                await self._step(n)
            elif what < 0.55:
                await self._generate(f"g{n % 3}")
            elif what < 0.6:
                await engine.reset(name)
            elif what < 0.65:
                engine.directory.close(name)
                if dice.random() < 0.5:
                    await asyncio.sleep(dice.random() * 0.003)
                self.open(n)
            elif what < 0.7:
                position = self.house.position(name)
                await engine.rewind(name, max(0, position - dice.randrange(4)))
            elif what < 0.76:
                info = await fork(engine, name)
                self._check_copy(n, info.id, info.position)
            elif what < 0.82:
                taken = await export(engine, name)
                self._check_position(n, taken.info.position)
                info = await import_session(engine, taken.data, f"{name} again {dice.random()}")
                self._check_copy(n, info.id, info.position)
            elif what < 0.88:
                await export_to_move(engine, name, "elsewhere")
                await asyncio.sleep(dice.random() * 0.003)
                await call_off(engine, name)
            elif what < 0.94:
                await engine.describe(name, settle=dice.random() < 0.5)
            else:
                await asyncio.gather(
                    *(self._step(dice.randrange(COUNT)) for _ in range(5)), return_exceptions=True
                )
        except errors.StateLostError as error:
            self.problems.append(f"{name} is lost: {error}")
        except errors.HistoryMissingError:
            pass
        except errors.CellarError:
            return

    async def _step(self, n: int) -> None:
        dice, name = self.dice, f"s{n}"
        count = dice.choice([1, 1, 1, 2, 5, 9])
        position = self.house.position(name) if dice.random() < 0.5 else None
        steps = self.house.served.reader.tokens(np.array([n] * count))
        commit = dice.random() < 0.9
        result = await self.house.engine.step(
            name, steps, outputs=RAW, position=position, commit=commit
        )
        raw = result.answers.raw
        assert raw is not None
        self.answered += 1
        at = result.position if commit else None
        self._check(n, at, int(raw[-1, 0]))

    async def _generate(self, name: str) -> None:
        """One reads on with what it draws, until its client goes away; it reads nothing else."""
        engine, dice = self.house.engine, self.dice
        if name in self.drawing:
            return
        self.drawing.add(name)
        read = self.read.setdefault(name, [])
        try:
            if name not in engine.directory.sessions:
                self.house.open(name)
                read.clear()
            info = await engine.describe(name, settle=True)
            if info.position != len(read):
                self.problems.append(f"{name} is at {info.position}, and not at {len(read)}")
            token = dice.randrange(9)
            limit, leaves_after = dice.choice([1, 5, 40]), dice.choice([0, 1, 2])
            call = generate(
                engine,
                name,
                prompt=self.house.served.reader.tokens(np.array([token])),
                max_steps=limit,
                sampling=Sampling(seed=1),
                stop=(),
            )
            pieces = 0
            try:
                async for piece in call:
                    pieces += 1
                    found = [*read, *([token] if pieces == 1 else []), *piece.tokens]
                    drawn = [state % VOCABULARY for state in run_alone(found)]
                    if drawn[-len(piece.tokens) - 1 : -1] != list(piece.tokens):
                        self.problems.append(f"{name} has drawn from another's state")
                    if piece.position != len(found):
                        self.problems.append(f"{name}: a piece is at another position")
                    read[:] = found
                    if pieces == leaves_after:
                        break
            finally:
                await call.aclose()
        except BaseException:
            # It stands where nobody was told.
            with suppress(errors.CellarError):
                engine.directory.close(name)
            raise
        finally:
            self.drawing.discard(name)

    def _check(self, n: int, position: int | None, state: int) -> None:
        self.checks += 1
        holds = state in ALONE[n] if position is None else ALONE[n][position - 1] == state
        if not holds:
            self.problems.append(f"s{n} at {position} is told {state}, another's or of elsewhere")

    def _check_position(self, n: int, position: int) -> None:
        if not 0 <= position < LONGEST:
            self.problems.append(f"s{n} stands at {position}")

    def _check_copy(self, n: int, name: str, position: int) -> None:
        """A session that stands where another stood; it ends."""
        self._check_position(n, position)
        self.house.engine.directory.close(name)

    async def run(self, calls: int) -> None:
        tasks: list[asyncio.Task[None]] = []
        for _ in range(calls):
            task = asyncio.create_task(self.call(self.dice.randrange(COUNT)))
            tasks.append(task)
            if self.dice.random() < 0.15:
                for _ in range(self.dice.choice([0, 1, 3, 9])):
                    await asyncio.sleep(0)
                task.cancel()
            for _ in range(self.dice.choice([0, 0, 1, 2, 5])):
                await asyncio.sleep(0)
            if self.dice.random() < 0.2:
                await asyncio.sleep(self.dice.random() * 0.004)
            if self.dice.random() < self.kind.give_ups:
                self.house.served.shards[0]._give_up(RuntimeError("as told"))
        _, hung = await asyncio.wait(tasks, timeout=15)
        self.problems += [f"hung: {task.get_coro()} {task.get_stack()[-1:]}" for task in hung]
        for task in hung:
            task.cancel()
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(found, Exception):
                self.problems.append(repr(found))

    async def check_end(self) -> None:
        """Nothing waits, the counts are of what is there, and everybody is who he was."""
        house = self.house
        shard = house.served.shards[0]
        table = shard.table
        restorer = shard.store._restorer
        stowed = None if restorer is None else restorer._stowed

        def is_quiet() -> bool:
            still = shard.store.bringing is None and not shard._returns.waiting
            return still and not leftovers(house.served)

        try:
            async with asyncio.timeout(8):
                while not is_quiet():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        except TimeoutError:
            self.problems += [f"{name}: {n}" for name, n in leftovers(house.served).items()]
            return
        sessions = house.engine.directory.sessions
        slots = np.array(sorted(own.slot for own in sessions.values()), np.int64)
        count = shard.slots.sessions.capacity
        free = np.setdiff1d(np.arange(count), slots)
        checks: dict[str, bool] = {
            "cold count": table.cold_count == int(np.count_nonzero(table.cold)),
            "free slots are not out": not table.cold[free].any(),
            "who is out is open": not restorer or set(restorer.cold) <= set(slots.tolist()),
            "rows of free slots": bool((table.row[free[free < table.top]] == -1).all()),
            "host rows of free slots": bool((table.host_row[free[free < table.top]] == -1).all()),
            "rows in use": shard.tiers.rows.used == int((table.row[slots] >= 0).sum()),
            "host rows in use": shard.tiers.host.slots.used
            == int((table.host_row[slots] >= 0).sum()),
            "rows are somebody's": len(set(table.row[slots][table.row[slots] >= 0].tolist()))
            == shard.tiers.rows.used,
            "nobody waits for a row": not shard.tiers._waiting.count,
            "nobody is held": not shard._scheduler._released and not shard._scheduler._holds,
            "nobody is being read": stowed is None or not (stowed._wanted or stowed._ready),
            "nobody is on his way": restorer is None or not restorer._coming,
            "nothing is read again": restorer is None or not restorer._folding,
            "nobody is noted": restorer is None or not restorer._noted,
            "nobody is set aside": restorer is None or not restorer.failed,
            "those that are out have no row": not (
                (table.row[slots] >= 0) & table.cold[slots]
            ).any(),
        }
        for slot in slots.tolist():
            if table.lost[slot]:
                name = next(own.id for own in sessions.values() if own.slot == slot)
                self.problems.append(f"slot {slot} is lost: {name}")
            if table.cold[slot] and table.position[slot] and table.host_row[slot] < 0:
                checks[f"slot {slot} is somewhere"] = restorer is not None and slot in restorer.cold
            if not table.cold[slot]:
                checks[f"slot {slot} has a row"] = table.row[slot] >= 0
                checks[f"slot {slot} is in one place"] = table.host_row[slot] < 0 and (
                    restorer is None or slot not in restorer.cold
                )
        self.problems += [name for name, holds in checks.items() if not holds]
        for n in range(COUNT):
            if f"s{n}" not in sessions:
                continue
            try:
                with suppress(errors.CellarError):
                    await call_off(house.engine, f"s{n}")
                info = await house.engine.describe(f"s{n}")
                if info.status is not SessionStatus.OPEN:
                    self.problems.append(f"s{n} is {info.status}")
                steps = house.served.reader.tokens(np.array([n]))
                result = await asyncio.wait_for(
                    house.engine.step(f"s{n}", steps, outputs=RAW, position=info.position), 5
                )
                assert result.answers.raw is not None
                self._check(n, info.position + 1, int(result.answers.raw[-1, 0]))
            except (errors.CellarError, TimeoutError) as error:
                self.problems.append(f"s{n} does not go on: {error!r}")


async def check(seed: int, kind: Kind, inline_run_s: float, *, calls: int) -> None:
    dice = random.Random(seed)
    store: MoodyStore | None = None
    more: dict[str, Any] = {}
    if kind.durability is not None:
        store = MoodyStore()
        store.dice = random.Random(seed + 1)
        more["durability"] = kind.durability
    if dice.random() < 0.5:
        more["checkpoint_steps"] = 20

    def device(slots: int) -> Moody:
        runner = Moody(slots)
        runner.dice = random.Random(seed + 2)
        return runner

    sizes = few(kind.rows, kind.host_rows)
    with capture_logs() as logs:
        async with fakes_on(
            device, store=store, inline_run_s=inline_run_s, **{**sizes, **more}
        ) as house:
            loop_problems: list[str] = []
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: loop_problems.append(str(context))
            )
            play = Play(house=house, dice=dice, kind=kind)
            (moody,) = house.runners
            assert isinstance(moody, Moody)
            for n in range(COUNT):
                play.open(n)
            moody.longest_s = dice.choice([0.0, 0.001, 0.003])
            moody.rate = dice.choice([0.0, 0.1, 0.4])
            if store is not None:
                store.rate, store.longest_s = dice.choice([0.0, 0.1, 0.4]), dice.choice([0, 0.01])
                if kind.durability != "none":  # five failures in a row set one aside
                    store.rate, moody.rate = store.rate / 8, moody.rate / 8
            await play.run(calls)
            moody.rate = moody.longest_s = 0.0
            if store is not None:
                store.rate = store.longest_s = 0.0
            await play.check_end()
            problems = play.problems + loop_problems
            for log in logs:
                fault = log.get("exc_info")
                if log["log_level"] == "info" or "as told" in str(fault) or "as told" in str(log):
                    continue
                if "says nothing of it" in str(fault):
                    continue
                problems.append(str(log))
            assert not problems, f"seed {seed}: " + "\n".join(problems[:12])
            assert play.answered > calls // 20, play.answered


@pytest.mark.timeout(40)
@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize("kind", KINDS)
async def test_they_go_and_come_by_dice(kind: str, inline_run_s: float) -> None:
    await check(0, KINDS[kind], inline_run_s, calls=120)


@pytest.mark.long
@pytest.mark.timeout(400 * PLAYS)
@pytest.mark.parametrize("inline_run_s", [INLINE, WORKER])
@pytest.mark.parametrize("kind", KINDS)
async def test_they_go_and_come_from_many_seeds(kind: str, inline_run_s: float) -> None:
    for seed in range(1, 40 * PLAYS):
        await check(seed, KINDS[kind], inline_run_s, calls=200)
