"""What callers ask of the sessions of one model: some steps for each of some sessions."""

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import structlog

from service.engine.work.columns import Inputs, Ints, Mask, Outputs
from service.engine.work.flow import Flow
from service.engine.work.replies import Delivery, Encode, SingleReceiver, SingleReplies
from service.engine.work.sampling import Draws
from service.engine.work.work import Kind, Work
from service.errors import InternalError

UNCHECKED = -1
"""The position of a row that may be applied at any."""
_NO_INTS = np.empty(0, np.int64)
_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Request(Work):
    """Steps for several sessions, in columns, checked; no session twice.

    One of single steps is queued, and runs, as it is.
    """

    kind = Kind.STEPS

    inputs: Inputs  # the steps of all rows, concatenated: (steps,) or (steps, width)
    steps: Ints | None = None  # (rows,) each at least 1; None: one each
    positions: Ints | None = None  # (rows,), UNCHECKED where a row may be applied at any; or all
    contents: Ints = field(default_factory=_NO_INTS.view)
    """(rows,) a digest of each row's inputs, see `digest`."""
    commit: bool = True
    is_late: bool = False  # its session was elsewhere when it came: it may be repeated, no more

    @property
    def size(self) -> int:
        """Steps in all."""
        return len(self.inputs)

    def steps_at(self, indices: Ints) -> Ints:
        """The steps of some rows, (rows,)."""
        return np.ones(len(indices), np.int64) if self.steps is None else self.steps[indices]

    def single_steps(self, indices: Ints) -> "Request":
        """The request for some of its rows that have one step each."""
        inputs = indices if self.steps is None else np.cumsum(self.steps)[indices] - 1
        return self._cut(indices, self.inputs[inputs], steps=None)

    def row(self, index: int) -> "Request":
        """The request for one of its rows."""
        one = np.array([index])
        if self.steps is None:
            return self.single_steps(one)
        stop = int(self.steps[: index + 1].sum())
        inputs = self.inputs[stop - int(self.steps[index]) : stop]
        return self._cut(one, inputs, steps=self.steps[one])

    def by_party(self, indices: Ints) -> Iterator[tuple[Hashable, Ints]]:
        """Some of its rows by whose they are, see `Flow.party`."""
        if self.flow is not None or not isinstance(self.reply_to, _Singles):
            if len(indices):
                yield self.party, indices
            return
        found: dict[Hashable, list[int]] = {}
        parties = self.reply_to.parties(self.rows_at(indices))
        for party, index in zip(parties, indices.tolist(), strict=True):
            found.setdefault(party, []).append(index)
        for party, own in found.items():
            yield party, np.array(own, np.int64)

    def _cut(self, indices: Ints, inputs: Inputs, *, steps: Ints | None) -> "Request":
        return Request(
            slots=self.slots[indices],
            expected=self.expected[indices] if len(self.expected) else self.expected,
            branches=None if self.branches is None else self.branches[indices],
            outputs=self.outputs,
            draws=None if self.draws is None else self.draws.take(indices),
            reply_to=self.reply_to,
            rows=self.rows_at(indices),
            commit=self.commit,
            borrowed=self.borrowed,
            feeds_back=self.feeds_back,
            submitted_s=self.submitted_s,
            flow=self.flow,
            round=self.round,
            turns_of=self.turns_of,
            inputs=inputs,
            steps=steps,
            positions=None if self.positions is None else self.positions[indices],
            contents=self.contents[indices] if len(self.contents) else self.contents,
        )

    def digest(self) -> Ints:
        """A digest of each row's inputs, (rows,), equal for equal inputs in any request.

        A single token or value is its own digest.
        """
        flat = self.inputs if self.inputs.ndim == 1 else self.inputs.reshape(-1)
        scalar = len(flat) == len(self.inputs)
        if scalar:
            bits: Ints = flat.view(np.int32 if flat.dtype == np.float32 else np.int64).astype(
                np.int64, copy=False
            )
            if self.steps is None:
                return bits
        if self.steps is None:
            return np.array([_digest(row, every_step=False) for row in self.inputs], np.int64)
        stops = np.cumsum(self.steps)
        found = np.zeros(len(self.slots), np.int64)
        hashed = np.arange(len(self.slots))
        if scalar:
            found[:] = bits[stops - 1]
            hashed = np.flatnonzero(self.steps > 1)
        for index in hashed.tolist():
            count = int(self.steps[index])
            own = self.inputs[stops[index] - count : stops[index]]
            every_step = self.outputs.every_step and count > 1
            found[index] = _digest(own, every_step=every_step)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class SingleKind:
    """Single steps that can run and be answered together."""

    outputs: Outputs
    encode: Encode


SingleStep: TypeAlias = tuple[SingleKind, int, int | Inputs, int, int, int, int, SingleReceiver]
"""Kind; slot; token id, or values (1, width); position or ``UNCHECKED``; branch; channel; number;
whom."""


Round: TypeAlias = tuple[int, Hashable | None]
"""Its number; the principal whose it is, or ``None`` for the rounds of all."""

Place: TypeAlias = Callable[[Flow, int], Round]
"""Says the round in which so many more rows of a flow begin."""


@dataclass(slots=True, eq=False)
class SingleSteps:
    """Single steps of many callers, gathered until the next tick, in the order they came.

    A caller who sends one step at a time costs nothing here but a tuple: a tick turns them into the
    columns of few requests, and their answers into one reply per row, all at once.
    """

    rows: list[SingleStep] = field(default_factory=list)
    submitted_s: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        """Steps in all."""
        return len(self.rows)

    def requests(self, place: Place | None = None) -> Iterator[Request]:
        """Requests of different sessions each, in order.

        Args:
            place: says in which round a flow's next rows begin, and of whose, where they must wait
                for each other; without it all are in the present one.
        """
        if place is None:
            yield from self._by_session(self.rows, (0, None))
            return
        rounds: dict[Round, list[SingleStep]] = {}
        for row in self.rows:
            rounds.setdefault(place(row[-1].flow, 1), []).append(row)
        for number, rows in rounds.items():  # a flow's rows are in order
            yield from self._by_session(rows, number)

    def _by_session(self, rows: Sequence[SingleStep], number: Round) -> Iterator[Request]:
        if len({row[1] for row in rows}) == len(rows):
            yield from self._by_kind(rows, number)
            return
        start, seen = 0, set[int]()
        for index, row in enumerate(rows):
            if row[1] in seen:
                yield from self._by_kind(rows[start:index], number)
                start, seen = index, set()
            seen.add(row[1])
        yield from self._by_kind(rows[start:], number)

    def _by_kind(self, rows: Sequence[SingleStep], number: Round) -> Iterator[Request]:
        kinds = {row[0]: None for row in rows}
        for kind in kinds:
            own = [row for row in rows if row[0] is kind] if len(kinds) > 1 else rows
            yield self._request(own, number)

    def _request(self, rows: Sequence[SingleStep], number: Round) -> Request:
        kinds, slots, inputs, positions, branches, channels, numbers, receivers = zip(
            *rows, strict=True
        )
        outputs = kinds[0].outputs
        return Request(
            slots=np.array(slots, np.int64),
            inputs=(
                np.array(inputs, np.int64) if isinstance(inputs[0], int) else np.concatenate(inputs)
            ),
            positions=(
                None
                if positions[0] == max(positions) == UNCHECKED
                else np.array(positions, np.int64)
            ),
            branches=np.array(branches, np.uint64),
            outputs=outputs,
            draws=Draws.of([one.sampling for one in receivers]) if outputs.sample else None,
            reply_to=_Singles(kinds[0].encode, channels, numbers, receivers),
            submitted_s=self.submitted_s,
            round=number[0],
            turns_of=number[1],
        )


class _Singles:
    """Whom single steps are answered to and under which name, a column each, (rows,)."""

    is_inside = False
    __slots__ = ("_answered", "_channels", "_encode", "_numbers", "_receivers")

    def __init__(
        self,
        encode: Encode,
        channels: Sequence[int],
        numbers: Sequence[int],
        receivers: Sequence[SingleReceiver],
    ) -> None:
        self._answered: list[Ints] = []  # rows
        self._encode = encode
        self._channels = channels
        self._numbers = numbers
        self._receivers = receivers

    @property
    def cancelled(self) -> bool:
        """See `ReplyTo.cancelled`."""
        return True in [receiver.cancelled for receiver in self._receivers]

    def cancelled_rows(self, rows: Ints) -> Mask:
        """See `ReplyTo.cancelled_rows`."""
        return np.array([self._receivers[row].cancelled for row in rows.tolist()], np.bool_)

    def parties(self, rows: Ints) -> list[Hashable]:
        """Whose some rows are, see `Flow.party`."""
        return [self._receivers[row].flow.party for row in rows.tolist()]

    def deliver(self, delivery: Delivery) -> None:
        """See `ReplyTo.deliver`; where replies cannot be made, that is said to each."""
        answers = delivery.answers
        channels, numbers, receivers = self._channels, self._numbers, self._receivers
        if len(delivery.rows) < len(receivers):
            wanted = delivery.rows.tolist()
            channels = [channels[row] for row in wanted]
            numbers = [numbers[row] for row in wanted]
            receivers = [receivers[row] for row in wanted]
        if answers is not None and not delivery.replayed:
            try:
                replies = self._encode(
                    SingleReplies(
                        channels=channels,
                        numbers=numbers,
                        positions=delivery.positions,
                        answers=answers,
                        groups=delivery.groups,
                    )
                )
                assert len(replies) == len(receivers), "one reply per row"
            except Exception:  # whatever makes replies
                _log.exception("replies could not be made")
                delivery.answers = None
                delivery.error = InternalError(
                    "the step was applied, but its reply could not be made; the server's log "
                    "tells why"
                )
            else:
                self._answered.append(delivery.rows)
                for receiver, reply in zip(receivers, replies, strict=True):
                    try:
                        receiver.put(reply)
                    except Exception:  # one receiver's fault keeps no answer from the others
                        _log.exception("reply could not be handed over")
                return
        self._answered.append(delivery.rows)
        for index, (channel, number, receiver) in enumerate(
            zip(channels, numbers, receivers, strict=True)
        ):
            try:
                receiver.put_other(channel, number, delivery.row(index))
            except Exception as fault:
                put_fault(receiver, channel, number, fault)

    def fail(self, delivery: Delivery) -> None:
        """See `ReplyTo.fail`."""
        delivery = delivery.but(self._answered)
        if len(delivery.rows):
            self.deliver(delivery)


def put_fault(receiver: SingleReceiver, channel: int, number: int, fault: Exception) -> None:
    """Tell who waits for a single step that its reply could not be handed over."""
    _log.error("reply could not be handed over", exc_info=fault)
    error = InternalError("a reply could not be handed over; the server's log tells why")
    nowhere = np.zeros(1, np.int64)
    try:
        receiver.put_other(channel, number, Delivery(rows=nowhere, positions=nowhere, error=error))
    except Exception:
        _log.exception("nor could that be told")


def _digest(inputs: Inputs, *, every_step: bool) -> int:
    salt = b"every" if every_step else b"last"
    digest = hashlib.blake2b(inputs.tobytes(), digest_size=8, salt=salt).digest()
    return int.from_bytes(digest, "little", signed=True)
