"""A plain model of one session: what it was told to have done, and what it may have done since.

Whoever writes to a session is one, and what was asked runs in order. So what was sent and not
answered has happened up to some point, and not beyond. Knows nothing of engines or stores.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.service.engine.fakes import VOCABULARY, advance, run_alone

UNKNOWN = 0
"""A branch that nobody has been told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a session has done.

    Attributes:
        is_open: it is open.
        branch: its branch.
        tokens: what it has read.
        number: what that has made of its state.
        last: steps of its last request, 0: there was none.
        every: whether that asked for the prediction after each step.
    """

    is_open: bool = False
    branch: int = UNKNOWN
    tokens: tuple[int, ...] = ()
    number: int = 0
    last: int = 0
    every: bool = False

    def read(self, tokens: tuple[int, ...], *, every: bool = False) -> "State":
        """It has read a request."""
        number = self.number
        for token in tokens:
            number = advance(number, token)
        return replace(
            self, tokens=self.tokens + tokens, number=number, last=len(tokens), every=every
        )

    def values(self, tokens: tuple[int, ...], *, every: bool) -> list[int]:
        """What is answered when it reads a request."""
        found, number = [], self.number
        for token in tokens:
            number = advance(number, token)
            found.append(number)
        return found if every else found[-1:]

    def last_values(self) -> list[int]:
        """What its last request was answered."""
        found = run_alone(list(self.tokens))
        return found[-self.last :] if self.every else found[-1:]


@dataclass(slots=True, eq=False, kw_only=True)
class Steps:
    """Steps, all or none."""

    tokens: tuple[int, ...]
    every: bool = False

    def ways(self, state: State) -> Iterator[State]:
        """What it makes of a session, one after the other."""
        yield state.read(self.tokens, every=self.every)


@dataclass(slots=True, eq=False, kw_only=True)
class Draws:
    """A prompt, and so many steps that are drawn one by one, at most.

    Where it is broken off the session goes back, to another branch.
    """

    prompt: tuple[int, ...]
    most: int

    def ways(self, state: State) -> Iterator[State]:
        """See `Steps.ways`."""
        if self.prompt:
            state = state.read(self.prompt)
            yield state
        yield replace(state, branch=UNKNOWN)
        for _ in range(self.most):
            state = state.read((state.number % VOCABULARY,))
            yield replace(state, branch=UNKNOWN)
            yield state


@dataclass(slots=True, eq=False)
class Open:
    """It is opened."""

    def ways(self, state: State) -> Iterator[State]:  # noqa: ARG002
        """See `Steps.ways`."""
        yield State(is_open=True)


class Reset(Open):
    """It is put back to position 0."""


@dataclass(slots=True, eq=False)
class Close:
    """It is closed."""

    def ways(self, state: State) -> Iterator[State]:  # noqa: ARG002
        """See `Steps.ways`."""
        yield State()


Op = Steps | Draws | Open | Reset | Close


class WrongError(Exception):
    """What was told is not what happened; ``kind`` says how."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(f"{kind}: {words}")
        self.kind = kind


@dataclass(slots=True, kw_only=True)
class Past:
    """One session's.

    Attributes:
        now: what is known to have happened.
        sent: what was asked behind that, and is not answered, in order.
        told: branch and position that a reader was told.
        stale: a branch that it was on before.
        in_doubt: a process has ended since: ask where it stands.
    """

    name: str
    now: State = field(default_factory=State)
    sent: list[Op] = field(default_factory=list)
    told: tuple[int, int] | None = None
    stale: int = UNKNOWN
    in_doubt: bool = False
    branches: set[int] = field(default_factory=set)

    @property
    def position(self) -> int:
        """Where it stands once all that was sent has happened, as nobody refuses it."""
        return len(self._last.tokens)

    @property
    def _last(self) -> State:
        *_, last = self.ways()
        return last

    def send(self, op: Op) -> None:
        """Something is asked."""
        self.sent.append(op)

    def refused(self, op: Op) -> None:
        """It has not happened; that may be told late."""
        if op in self.sent:
            self.sent.remove(op)

    def happened(self, op: Op, *, branch: int = UNKNOWN) -> State:
        """It has, and what was asked before and is not answered has not; returns what was before.

        Raises:
            WrongError: something that was asked behind it has happened already.
        """
        if op not in self.sent:
            raise WrongError("different", f"{self.name}: {op} was overtaken")
        before = self.now
        del self.sent[: self.sent.index(op) + 1]
        *_, now = op.ways(before)
        self._stand(replace(now, branch=branch) if isinstance(op, Open) else now)
        return before

    def ways(self) -> Iterator[State]:
        """What may have happened by now, one after the other."""
        state = self.now
        yield state
        for op in self.sent:
            for way in op.ways(state):
                state = way
                yield state

    def settle(self, *, is_open: bool, branch: int, position: int) -> None:
        """It stands there now, and what did not happen never will.

        Raises:
            WrongError: it cannot be there.
        """
        stands = f"open at {position}" if is_open else "not open"
        told, known = self.told, self.now
        if told is not None and is_open:
            if branch == told[0] and position < told[1]:
                raise WrongError("lost", f"{self.name}: {stands}, a reader was told {told[1]}")
            if branch == known.branch != told[0]:
                raise WrongError("lost", f"{self.name}: on a branch before the one that was told")
        found = [state for state in self.ways() if self._is(state, is_open, branch, position)]
        if not found:
            same = is_open and known.is_open and branch == known.branch
            kind = "lost" if not same or position < len(known.tokens) else "doubled"
            ways = [(way.is_open, len(way.tokens), way.branch) for way in self.ways()]
            raise WrongError(
                kind, f"{self.name}: {stands}, branch {branch}; it may be at one of {ways}"
            )
        self.sent.clear()
        self._stand(replace(found[-1], branch=branch))
        self.in_doubt = False

    def check_told(self, asked: State, *, branch: int, position: int) -> None:
        """A reader was told that it stands there; it stood at ``asked`` when that was asked.

        Raises:
            WrongError: it never did.
        """
        if branch == asked.branch and position < len(asked.tokens):
            raise WrongError("lost", f"{self.name}: a reader was told {position} of {asked}")
        if branch != self.now.branch and branch in self.branches:
            return  # it was reset meanwhile
        most = max(len(way.tokens) for way in self.ways())
        if branch == self.now.branch == asked.branch and position > most:
            raise WrongError("doubled", f"{self.name}: a reader was told {position} of {most}")
        if self.told is None or branch != self.told[0] or position > self.told[1]:
            self.told = branch, position

    def _is(self, state: State, is_open: bool, branch: int, position: int) -> bool:
        if not is_open or not state.is_open:
            return state.is_open is is_open
        same = branch == state.branch if state.branch else branch not in self.branches
        return same and position == len(state.tokens)

    def _stand(self, state: State) -> None:
        if state.branch != self.now.branch:
            self.stale = self.now.branch
            if self.told is not None and self.told[0] != state.branch:
                self.told = None
            self.branches.add(state.branch)
        self.now = state
