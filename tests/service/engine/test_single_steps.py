"""Single steps against everything else that can happen to their sessions, on any schedule."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from service.engine.sessions.table.status import SessionStatus
from service.engine.stepping import StepCall
from service.engine.work.columns import Outputs
from tests.service.engine.fakes import VOCABULARY, advance
from tests.service.engine.houses import INLINE, WORKER, Fakes, fakes
from tests.service.engine.wires import RAW, Row, Wire, ask

SESSIONS = 4
KINDS = (RAW, RAW, Outputs(raw=True, argmax=True))  # what each stream asks for
STREAMS = len(KINDS)
# With small batches, the worker has its next run while it runs one.
BATCHES = [{}, {"max_batch": 1, "chunk_steps": 1}, {"max_batch": 2, "chunk_steps": 2}]


@dataclass(kw_only=True)
class Session:
    """A session as it would be alone: where it stands once all that was submitted has run."""

    name: str
    position: int = 0
    state: int = 0
    last: list[int] = field(default_factory=list)  # the steps just applied
    before: tuple[int, int] = (0, 0)  # position and state before them

    def choose(self, choice: str, tokens: list[int]) -> tuple[list[int], int | None]:
        """Tokens and position of a submission that is right, repeated or wrong."""
        start = self.before[0]
        match choice:
            case "unchecked":
                return tokens, None
            case "again" if self.last:
                return self.last, start
            case "conflict" if self.last:
                return [(self.last[0] + 1) % VOCABULARY, *self.last[1:]], start
            case "ahead":
                return tokens, self.position + 1
            case "behind" if start:
                return tokens, start - 1
        return tokens, self.position

    def expect(self, row: Row) -> Callable[[bool], None]:
        """Go on by a row; returns the check of its answer, strict when nothing else was queued."""
        tokens, position = row.tokens, row.position
        if position in (None, self.position):
            self.before = (self.position, self.state)
            self.last = tokens
            for token in tokens:
                self.state = advance(self.state, token)
            self.position += len(tokens)
            wanted = (self.position, self.state, False)

            def applied(strict: bool) -> None:
                assert row.reply == wanted, f"{self.name}: {row}"

            return applied
        repeated = bool(self.last) and position == self.before[0]
        same = repeated and tokens == self.last
        stored = (self.position, self.state, True)

        def refused(strict: bool) -> None:
            if row.replies:
                assert same, f"{self.name}: {row}"
                assert row.reply == stored
                return
            assert not (strict and same), f"{self.name}: a retry that nothing overtook is answered"
            if isinstance(row.refusal, errors.StepConflictError):
                assert repeated
                assert not same
            else:
                assert isinstance(row.refusal, errors.PositionMismatchError)
                assert not (strict and repeated)

        return refused


@dataclass(kw_only=True)
class Tenant:
    """A session from open to close, and what was asked of it, in order."""

    name: str
    channel: int = 0
    rows: list[Row] = field(default_factory=list)
    guess: Session = field(init=False)

    def __post_init__(self) -> None:
        self.guess = Session(name=self.name)

    def asked(self, row: Row) -> None:
        self.rows.append(row)
        self.guess.expect(row)  # where it would stand if all went well

    def possible(self) -> set[tuple[int, int]]:
        """Position and state after the rows that were answered, which must follow each other."""
        found = {(0, 0)}
        lost = False
        for row in self.rows:
            if row.replies:
                position, state, replayed = row.reply
                if replayed:
                    continue
                assert not lost, f"{self.name}: nothing runs on a state that is in doubt"
                (before,) = found
                value = before[1]
                for step in row.tokens:
                    value = advance(value, step)
                assert (position, state) == (before[0] + len(row.tokens), value), f"{self.name}"
                assert row.position in (None, before[0])
                found = {(position, value)}
            elif isinstance(row.refusal, errors.StateLostError):
                lost = True
        return found


choices = st.sampled_from(
    ["right", "right", "right", "unchecked", "unchecked", "again", "conflict", "ahead", "behind"]
)
token = st.integers(0, VOCABULARY - 1)
session = st.integers(0, SESSIONS - 1)
pieces = st.one_of(
    st.lists(token, min_size=1, max_size=1), st.lists(token, min_size=1, max_size=10)
)
strict_acts = st.one_of(
    st.tuples(st.just("single"), session, st.integers(0, STREAMS - 1), choices, token),
    st.tuples(st.just("single"), session, st.integers(0, STREAMS - 1), choices, token),
    st.tuples(st.just("unary"), session, st.just(0), choices, pieces),
    st.tuples(
        st.just("frame"),
        st.just(0),
        st.integers(0, STREAMS - 1),
        st.booleans(),  # with positions
        st.dictionaries(session, st.tuples(choices, pieces), min_size=1),
    ),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("settle")),
)
names = [f"s{n}" for n in range(SESSIONS)]


async def wires(house: Fakes) -> list[Wire]:
    """Streams that carry all sessions."""
    return [await Wire(house, outputs).attach(*names) for outputs in KINDS]


@given(
    st.lists(strict_acts, min_size=8, max_size=40),
    st.sampled_from([INLINE, WORKER]),
    st.sampled_from([1, 2]),
    st.sampled_from(BATCHES),
)
@settings(max_examples=200, deadline=None)
def test_any_interleaving_answers_as_each_session_alone_would(
    script: list[tuple[Any, ...]], inline_run_s: float, shards: int, batch: dict[str, float]
) -> None:
    async def run() -> None:
        async with fakes(shards, inline_run_s=inline_run_s, **batch) as house:
            for name in names:
                house.open(name)
            streams = await wires(house)
            alone = [Session(name=name) for name in names]
            checks: list[tuple[Callable[[bool], None], int, int]] = []  # when, of which session
            unsettled: list[Row] = []
            asked: list[Row] = []
            settled = 0

            def expect(number: int, row: Row) -> None:
                asked.append(row)
                unsettled.append(row)
                checks.append((alone[number].expect(row), settled, number))

            # Streams that ask for different things have no order between them.
            lane: dict[int, Outputs] = {}
            for act in script:
                match act:
                    case ("single", number, wire, choice, step):
                        if lane.setdefault(number, KINDS[wire]) != KINDS[wire]:
                            continue
                        tokens, position = alone[number].choose(choice, [step])
                        if len(tokens) == 1:
                            expect(number, streams[wire].single(number, tokens[0], position))
                    case ("unary", number, _, choice, piece):
                        tokens, position = alone[number].choose(choice, piece)
                        expect(number, ask(house, names[number], tokens, position)[0])
                    case ("frame", _, wire, checked, wanted):
                        wanted = {
                            number: alone[number].choose(choice if checked else "unchecked", piece)
                            for number, (choice, piece) in wanted.items()
                            if lane.setdefault(number, KINDS[wire]) == KINDS[wire]
                        }
                        columns = {
                            number: (tokens, -1 if position is None else position)
                            for number, (tokens, position) in wanted.items()
                        }
                        if checked:  # positions are sent for all rows or for none
                            columns = {
                                number: (tokens, alone[number].position if at < 0 else at)
                                for number, (tokens, at) in columns.items()
                            }
                        if columns:
                            rows = streams[wire].frame(columns)
                            for number, row in zip(columns, rows, strict=True):
                                expect(number, row)
                    case ("turns", count):
                        for _ in range(count):
                            await asyncio.sleep(0)
                    case _:
                        await house.settle()
                        settled += 1
                        lane.clear()
                        assert all(row.answers == 1 for row in asked), "each row once"
            await house.settle()
            assert all(row.answers == 1 for row in asked), "each row once"
            spans = [(settlement, number) for _, settlement, number in checks]
            for check, settlement, number in checks:
                check(spans.count((settlement, number)) == 1)
            for session in alone:
                assert house.position(session.name) == session.position
                assert not session.position or house.state(session.name) == session.state
            for wire in streams:
                assert wire.stream.pending_steps == 0
                assert all(order == sorted(order) for order in wire.order.values())

    asyncio.run(run())


rough_acts = st.one_of(
    st.tuples(st.just("single"), session, st.integers(0, STREAMS - 1), choices, token),
    st.tuples(st.just("single"), session, st.integers(0, STREAMS - 1), choices, token),
    st.tuples(st.just("unary"), session, choices, pieces),
    st.tuples(
        st.just("frame"),
        st.integers(0, STREAMS - 1),
        st.dictionaries(session, pieces, min_size=1),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
    st.tuples(st.just("close"), session),
    st.tuples(st.just("end"), st.integers(0, STREAMS - 1)),
    st.tuples(st.just("fault")),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("settle")),
)


@given(
    st.lists(rough_acts, min_size=8, max_size=40),
    st.sampled_from([INLINE, WORKER]),
    st.sampled_from([1, 2]),
    st.sampled_from(BATCHES),
)
@settings(max_examples=200, deadline=None)
def test_cancels_closes_and_faults_never_lose_double_or_swap_a_step(
    script: list[tuple[Any, ...]], inline_run_s: float, shards: int, batch: dict[str, float]
) -> None:
    """What was answered was applied, in the order sent; the rest was or, if refused, was not."""

    async def run() -> None:
        async with fakes(shards, inline_run_s=inline_run_s, **batch) as house:
            for name in names:
                house.open(name)
            streams = await wires(house)
            tenants = {n: Tenant(name=name) for n, name in enumerate(names)}
            past: list[Tenant] = []
            callers: list[StepCall] = []
            lane: dict[int, Outputs] = {}
            for act in script:
                match act:
                    case ("single", number, wire, choice, step):
                        tenant = tenants[number]
                        if lane.setdefault(number, KINDS[wire]) == KINDS[wire]:
                            tokens, position = tenant.guess.choose(choice, [step])
                            if len(tokens) == 1:
                                channel = tenant.channel * SESSIONS + number
                                tenant.asked(streams[wire].single(channel, tokens[0], position))
                    case ("unary", number, choice, piece):
                        tenant = tenants[number]
                        tokens, position = tenant.guess.choose(choice, piece)
                        row, caller = ask(house, tenant.name, tokens, position)
                        tenant.asked(row)
                        if caller is not None:
                            callers.append(caller)
                    case ("frame", wire, wanted):
                        columns = {
                            tenants[number].channel * SESSIONS + number: (piece, -1)
                            for number, piece in wanted.items()
                            if lane.setdefault(number, KINDS[wire]) == KINDS[wire]
                        }
                        if columns:
                            rows = streams[wire].frame(columns)
                            for channel, row in zip(columns, rows, strict=True):
                                tenants[channel % SESSIONS].asked(row)
                    case ("cancel", number) if callers:
                        callers.pop(number % len(callers)).cancel()
                    case ("close", number):
                        old = tenants[number]
                        house.engine.directory.close(old.name)
                        past.append(old)
                        lane.pop(number, None)
                        new = tenants[number] = Tenant(name=f"{old.name}'", channel=old.channel + 1)
                        house.open(new.name)
                        for wire in streams:
                            await wire.attach(new.name, first=new.channel * SESSIONS + number)
                    case ("end", wire):
                        ended = streams[wire].stream
                        ended.end()
                        await house.settle()
                        lane.clear()
                        assert ended.pending_steps == 0
                        streams[wire] = Wire(house, KINDS[wire])
                        for number, tenant in tenants.items():
                            await streams[wire].attach(
                                tenant.name, first=tenant.channel * SESSIONS + number
                            )
                    case ("fault",):
                        house.runners[0].fail_next = True
                    case ("turns", count):
                        for _ in range(count):
                            await asyncio.sleep(0)
                    case _:
                        await house.settle()
                        lane.clear()
                        for tenant in tenants.values():
                            tenant.guess.position = house.position(tenant.name)
            await house.settle()
            for tenant in [*past, *tenants.values()]:
                assert all(row.answers == 1 for row in tenant.rows), "each row once"
            for tenant in past:
                tenant.possible()
            for tenant in tenants.values():
                info = house.engine.directory.describe(tenant.name)
                standings = tenant.possible()
                if info.status is SessionStatus.LOST:
                    assert info.position in {position for position, _ in standings}
                else:
                    state = house.state(tenant.name) if info.position else 0
                    assert (info.position, state) in standings
            for wire in streams:
                assert wire.stream.pending_steps == 0
            usage = house.served.usage
            assert (usage.pending_steps, house.promised_steps()) == (0, 0)
            assert usage.sessions == SESSIONS

    with structlog.testing.capture_logs():  # faults are told at length
        asyncio.run(run())
