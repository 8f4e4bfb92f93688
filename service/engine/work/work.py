"""What the engine works on: columns of steps, and the batches cut from them.

Work comes in six kinds. ``Steps`` are single steps of many sessions, one row each, and stay
columns from the frame they came in to the frame that answers them. ``Decode`` is several steps
that sessions draw for themselves. ``Chunk`` is several steps of one session. ``Peek`` asks for
the resident prediction again, without stepping. ``Fork`` copies one session's rows to spare
slots. ``Barrier`` takes its turn and does nothing on the device.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.errors import CellarError

if TYPE_CHECKING:
    from service.engine.work.lones import Tags

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float32]
Inputs: TypeAlias = NDArray[np.int64] | NDArray[np.float32]
"""Token ids (rows,) int64, or values (rows, width) float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Which predictions a caller wants; equal ones are computed together."""

    argmax: bool = False
    top_k: int = 0
    probabilities: bool = False
    sample: bool = False
    quantiles: tuple[float, ...] = ()
    raw: bool = False
    every_step: bool = False

    @property
    def last_only(self) -> "Outputs":
        """The same, for the last step of each request."""
        return replace(self, every_step=False) if self.every_step else self


NOTHING = Outputs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one caller draws; ``top_k`` 0 means all tokens, temperature 0 the likeliest one."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


_ALL_TOKENS = np.iinfo(np.int64).max


def _candidates(sampling: Sampling) -> int:
    """How many tokens may be drawn: at temperature 0 the likeliest one."""
    return (sampling.top_k or _ALL_TOKENS) if sampling.temperature else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Sampling parameters, a column each, (rows,)."""

    temperature: Floats
    top_k: Ints
    top_p: Floats
    seed: NDArray[np.uint64]

    @classmethod
    def of(cls, samplings: "Sequence[Sampling]") -> "Draws":
        """One row for each."""
        return cls(
            temperature=np.array(
                [sampling.temperature or 1.0 for sampling in samplings], np.float32
            ),
            top_k=np.array([_candidates(sampling) for sampling in samplings], np.int64),
            top_p=np.array([sampling.top_p for sampling in samplings], np.float32),
            seed=np.array([sampling.seed for sampling in samplings], np.uint64),
        )

    @classmethod
    def repeated(cls, sampling: Sampling, rows: int) -> "Draws":
        """The same parameters for every row."""
        return cls.of((sampling,)).take(np.zeros(rows, np.int64))

    def take(self, rows: Ints | slice) -> "Draws":
        """Some of the rows."""
        return Draws(
            temperature=self.temperature[rows],
            top_k=self.top_k[rows],
            top_p=self.top_p[rows],
            seed=self.seed[rows],
        )

    @classmethod
    def joined(cls, parts: "Sequence[Draws]") -> "Draws":
        """All rows of all parts."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            temperature=np.concatenate([part.temperature for part in parts]),
            top_k=np.concatenate([part.top_k for part in parts]),
            top_p=np.concatenate([part.top_p for part in parts]),
            seed=np.concatenate([part.seed for part in parts]),
        )


@dataclass(slots=True, kw_only=True)  # not frozen: one is made per row on the hot path
class Answers:
    """Predictions as asked for, a column each; ``None`` where not asked. n rows."""

    argmax: NDArray[np.int32] | None = None  # (n,)
    top_tokens: NDArray[np.int32] | None = None  # (n, k)
    top_probabilities: Floats | None = None  # (n, k)
    probabilities: Floats | None = None  # (n, vocabulary)
    sampled_tokens: NDArray[np.int32] | None = None  # (n,)
    sampled_values: Floats | None = None  # (n,)
    quantiles: Floats | None = None  # (n, levels)
    raw: Floats | None = None  # (n, prediction width)

    def copied(self) -> "Answers":
        """The same, on memory of its own: views would keep the rows of a whole batch alive."""
        return Answers(
            **{
                column.name: None if (value := getattr(self, column.name)) is None else value.copy()
                for column in fields(self)
            }
        )

    @classmethod
    def joined(cls, parts: "Sequence[Answers]") -> "Answers":
        """All rows of answers to the same question."""
        if len(parts) == 1:
            return parts[0]
        columns: dict[str, Any] = {}
        for column in fields(cls):
            pieces = [getattr(part, column.name) for part in parts]
            columns[column.name] = None if pieces[0] is None else np.concatenate(pieces)
        return cls(**columns)

    def rows(self, start: int, stop: int) -> "Answers":
        """A range of rows, as views."""
        return Answers(
            argmax=None if self.argmax is None else self.argmax[start:stop],
            top_tokens=None if self.top_tokens is None else self.top_tokens[start:stop],
            top_probabilities=(
                None if self.top_probabilities is None else self.top_probabilities[start:stop]
            ),
            probabilities=None if self.probabilities is None else self.probabilities[start:stop],
            sampled_tokens=None if self.sampled_tokens is None else self.sampled_tokens[start:stop],
            sampled_values=None if self.sampled_values is None else self.sampled_values[start:stop],
            quantiles=None if self.quantiles is None else self.quantiles[start:stop],
            raw=None if self.raw is None else self.raw[start:stop],
        )


@dataclass(slots=True, kw_only=True)  # not frozen: one is made per row on the hot path
class Delivery:
    """Rows of a piece of work that are done: ``answers`` for ``rows``, or ``error`` for them."""

    rows: Ints  # (rows,) which rows of the request
    positions: Ints  # (rows,) each session's position now
    answers: Answers | None = None
    error: CellarError | None = None
    replayed: bool = False


Deliver: TypeAlias = Callable[[Delivery], None]


def _ignore(_: Delivery) -> None:
    """Nobody waits."""


def _nobody() -> None:
    """There is nothing to wake yet."""


def _no_rows() -> Ints:
    return np.empty(0, np.int64)


def _no_tickets() -> NDArray[np.int32]:
    return np.empty(0, np.int32)


@dataclass(slots=True, eq=False)
class Caller:
    """Whom to answer, and whether they still want it.

    ``deliver`` is called until every row of the caller's request is answered, each once.
    """

    deliver: Deliver = _ignore
    cancelled: bool = False
    works: "list[Work]" = field(default_factory=list)  # what was queued for them
    wake: Callable[[], None] = _nobody

    def let_go(self) -> None:
        """All is answered: break the circle of what was queued and whom it is for."""
        self.works.clear()
        self.deliver = _ignore

    def cancel(self) -> None:
        """Drop whatever the device has not been given; it will not be applied."""
        self.cancelled = True
        for work in self.works:
            work.cancelled = True
        self.wake()


NOBODY = (Caller(),)


class Kind(Enum):
    """What a piece of work does, and a batch of it; the kinds take turns in this order."""

    STEPS = "steps"
    DECODE = "decode"
    CHUNKS = "chunks"
    PEEK = "peek"
    FORK = "fork"
    BARRIER = "barrier"


@dataclass(slots=True, eq=False, kw_only=True)
class Work:
    """Rows of work for the sessions in ``slots``; never two rows of one session."""

    kind: ClassVar[Kind]

    slots: Ints  # (rows,)
    expected: Ints  # (rows,) the position each session must have when its row runs
    outputs: Outputs = NOTHING
    draws: Draws | None = None
    callers: Sequence[Caller] = NOBODY  # one for all rows, or one per row
    tags: "Tags | None" = None  # instead of callers: lone steps of streams
    origin: Ints | None = None  # (rows,) rows of the one caller's request; None: 0, 1, 2, ...
    tickets: NDArray[np.int32] = field(default_factory=_no_tickets)  # (rows,) see Scheduler
    submitted_s: float = field(default_factory=time.monotonic)
    cancelled: bool = False  # by a caller, or it must not run any more for the reason in failure
    failure: CellarError | None = None

    @property
    def commits(self) -> bool:
        """Whether it applies steps to sessions."""
        return False

    @property
    def weight(self) -> int:
        """Steps that one row stands for, for limits and metrics."""
        return 1


@dataclass(slots=True, eq=False, kw_only=True)
class Steps(Work):
    """One step for each of several sessions."""

    kind = Kind.STEPS

    inputs: Inputs  # (rows,) or (rows, width)
    contents: Ints  # (rows,) digests of the inputs
    commit: bool = True

    @property
    def commits(self) -> bool:
        """See `Work.commits`."""
        return self.commit


@dataclass(slots=True, eq=False, kw_only=True)
class Chunk(Work):
    """Several steps of one session, applied all or not at all.

    A chunk longer than one run works on a spare slot and writes the session's own slot with its
    last piece only. Where nobody else reads the slot, as it is borrowed for the chunk, it works
    there.
    """

    kind = Kind.CHUNKS

    inputs: Inputs  # (steps,) or (steps, width)
    contents: Ints  # (1,) digest of the inputs
    commit: bool = True
    borrowed: bool = False
    done: int = 0
    spare: int | None = None
    history: list[Floats] = field(default_factory=list)  # predictions, with every_step

    @property
    def commits(self) -> bool:
        """See `Work.commits`."""
        return self.commit

    @property
    def slot(self) -> int:
        """The session's slot."""
        return int(self.slots[0])

    @property
    def weight(self) -> int:
        """Steps in the chunk."""
        return len(self.inputs)


@dataclass(slots=True, eq=False, kw_only=True)
class Decode(Work):
    """Several steps for each of several sessions, each but the first drawn from the one before."""

    kind = Kind.DECODE

    inputs: Inputs  # (rows,) what is read first: token ids, or values
    steps: int  # read per row, and drawn

    @property
    def commits(self) -> bool:
        """See `Work.commits`."""
        return True

    @property
    def weight(self) -> int:
        """Steps that one row reads."""
        return self.steps

    def last_contents(self, answers: "Answers") -> Ints:
        """The digest of the last step that each row has read, (rows,)."""
        drawn = answers.sampled_tokens
        if drawn is not None:
            return drawn[:, -2].astype(np.int64)
        assert answers.sampled_values is not None, "a draw is a token or a value"
        return np.ascontiguousarray(answers.sampled_values[:, -2]).view(np.int32).astype(np.int64)


@dataclass(slots=True, eq=False, kw_only=True)
class Peek(Work):
    """The resident prediction of each session, asked for again."""

    kind = Kind.PEEK

    replays: bool = False  # answers a request that was applied already
    steps: int = 1  # predictions per row: more than one for the every-step reply of one session


@dataclass(slots=True, eq=False, kw_only=True)
class Fork(Work):
    """Copies of one session's rows, in ``copies`` spare slots that the receiver must return."""

    kind = Kind.FORK

    copies: int
    spares: Ints = field(default_factory=_no_rows)


@dataclass(slots=True, eq=False, kw_only=True)
class Barrier(Work):
    """Waits until what was queued before it has run, whatever position that led to.

    With ``reset`` the session is put back to position 0 at that point.
    """

    kind = Kind.BARRIER

    reset: bool = False


@dataclass(slots=True, kw_only=True)
class Part:
    """The rows of one piece of work that are in a batch."""

    work: Work
    rows: Ints  # indices into the work's rows
    start: int = 0  # chunks: first time step of this run
    stop: int = 0  # chunks: one past the last

    @property
    def slots(self) -> Ints:
        """The slots of these rows, (rows,)."""
        return self.column(self.work.slots)

    @property
    def origin(self) -> Ints:
        """The rows of the one caller's request that these are, (rows,)."""
        return self.rows if self.work.origin is None else self.column(self.work.origin)

    def column(self, column: Ints) -> Ints:
        """These rows of one of the work's columns."""
        return column if len(self.rows) == len(self.work.slots) else column[self.rows]

    @property
    def is_called_off(self) -> bool:
        """Whether it may be that nobody waits for some of these rows any more."""
        tags = self.work.tags
        return self.work.cancelled or (tags is not None and any(tags.called_off()))

    def called_off(self) -> NDArray[np.bool_]:
        """Which of these rows nobody waits for any more, (rows,)."""
        callers = self.work.callers
        if self.work.tags is not None:
            return np.array(self.work.tags.called_off())[self.rows]
        if len(callers) == 1:
            return np.full(len(self.rows), self.work.cancelled)
        return np.array([callers[row].cancelled for row in self.rows.tolist()])

    def only(self, rows: Ints) -> "Part":
        """The part with some of its rows."""
        return replace(self, rows=rows)

    @property
    def is_last(self) -> bool:
        """Whether the work of these rows ends with this batch."""
        return not isinstance(self.work, Chunk) or self.stop == len(self.work.inputs)


def has_repeats(column: Ints) -> bool:
    """Whether a number appears twice."""
    ordered = np.sort(column)
    return bool((ordered[1:] == ordered[:-1]).any())


def joined(parts: Sequence[Part], name: str) -> Ints:
    """A column of the parts' works, the parts' rows one after the other."""
    if len(parts) == 1:
        return parts[0].column(getattr(parts[0].work, name))
    return np.concatenate([part.column(getattr(part.work, name)) for part in parts])


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Work that runs together; parts that want equal outputs stand side by side."""

    kind: Kind
    parts: tuple[Part, ...]

    @property
    def steps(self) -> int:
        """Session steps this batch computes."""
        if self.kind is Kind.DECODE:
            return sum(part.work.weight * len(part.rows) for part in self.parts)
        if self.kind is Kind.CHUNKS:
            return sum(part.stop - part.start for part in self.parts)
        return sum(len(part.rows) for part in self.parts)

    @property
    def effort(self) -> int:
        """What the batch takes, in rows: those it computes, or those it answers if more."""
        rows = self.steps
        for part in self.parts:
            work = part.work
            if isinstance(work, Peek):
                rows = max(rows, work.steps * len(part.rows))
            elif isinstance(work, Fork):
                rows = max(rows, work.copies)
            elif isinstance(work, Chunk) and part.is_last and work.outputs.every_step:
                rows = max(rows, work.weight)
        return rows
