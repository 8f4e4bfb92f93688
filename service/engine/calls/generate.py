"""Generation on the server: each draw is fed back as the session's next step.

The rows that do this share the batches of everybody's steps (see `Feedback`); here is what one call
makes of them. Knows nothing of gRPC.
"""

import asyncio
from array import array
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import TokensInput
from service.engine.calls.way_back import WayBack
from service.engine.directory.session import Session
from service.engine.engine import Engine
from service.engine.log.chronicle import BASE_STEPS
from service.engine.log.seeds import Seed
from service.engine.scheduler.feedback.call import FeedbackCall, FinishReason
from service.engine.scheduler.feedback.feedback import Feedback
from service.engine.served.inputs import CheckedSteps
from service.engine.stepping import StepCall
from service.engine.work.columns import STATE, Answers, Ints, Outputs
from service.engine.work.flow import Flow, caller
from service.engine.work.memory import Account, BufferMemory, Held
from service.engine.work.sampling import Draws, Sampling
from service.engine.work.work import Recall
from service.errors import (
    BadInputError,
    CallerGoneError,
    CellarError,
    PositionMismatchError,
    SessionClosedError,
    StaleBranchError,
    history_full,
)

_FIRST_DRAW = Outputs(sample=True, states=True)
_COUNTED_STEPS = 512  # that nobody has taken: fewer are not counted
_STEP_BYTES = 40  # of a number in a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Generated steps, which the session has read already."""

    tokens: tuple[int, ...]  # models with a vocabulary
    values: tuple[float, ...]  # series models
    text: str
    position: int  # after them
    finish_reason: FinishReason | None


class _Generation(FeedbackCall):
    """One call: the steps that nobody has taken yet, and how it ended.

    Attributes:
        prompt: what is read first, while it is.
        rows: its row, once it feeds back.
        way_back: to what was written of it, then.

    Args:
        feedback: where it feeds back.
        symbols: of the model's tokens; none where it draws values.
        stop: ends once the text holds one of these.
        memory: where it is counted what nobody has taken, if that is much.
    """

    is_paced = True

    def __init__(
        self,
        feedback: Feedback,
        symbols: tuple[str, ...],
        stop: Sequence[str],
        memory: BufferMemory,
    ) -> None:
        self.prompt: StepCall | None = None
        self.rows: Ints | None = None
        self.way_back: WayBack | None = None
        self._feedback = feedback
        self.watches = bool(stop)
        self.ended = False
        self.news = asyncio.Event()
        self._memory = memory
        self._caller = caller.get()
        self._account: Account | None = None
        self._symbols = symbols
        self._stop = tuple(stop)
        self._longest_stop = max(map(len, stop), default=0)
        self._tail = ""  # the end of the text, where a stop string may begin
        self._steps: list[Any] = []
        self._position = 0
        self._reason: FinishReason | None = None

    def put(
        self, rows: Ints, steps: NDArray[Any], position: int, reason: FinishReason | None
    ) -> None:
        """See `FeedbackCall.put`."""
        assert len(rows) == 1, "a generation has one row"
        if self.is_torn:
            return  # the session has gone back meanwhile
        self._steps += steps[0].tolist()
        self._position, self._reason = position, reason
        self.news.set()
        if len(self._steps) > _COUNTED_STEPS and not self.cancelled:
            self._count(_STEP_BYTES * steps.shape[1])

    def ran(self, position: int, runs: Ints) -> None:
        """See `FeedbackCall.ran`."""
        if self.way_back is not None:
            self.way_back.ran(position, runs)

    def _count(self, size: int) -> None:
        if self._account is None:
            self._account = self._memory.account(who=(self._caller() or "-", self.allowance))
        try:
            self._account.take(Held.GENERATION, size)
        except CellarError as error:  # they were read, and are told; none follows
            self.error, self.cancelled = error, True

    def close(self) -> None:
        """Nothing waits to be taken."""
        if self._account is not None:
            self._account.close()
            self._account = None

    def end(self, rows: Ints, draws: NDArray[Any]) -> None:
        """See `FeedbackCall.end`."""
        del rows, draws
        self.ended = True
        self.news.set()

    def leave(self) -> None:
        """Nothing more of it is written: the session goes back to what was."""
        if self.way_back is None or self.rows is None:
            return  # it has drawn nothing
        has_more = not self.ended or self.stood_at > self.way_back.written
        if has_more and self.way_back.go_back(self, self.rows):
            self.is_torn = True
            self._steps.clear()
        self.way_back.keep()

    def write(self, piece: Piece) -> None:
        """A piece is handed to the stream: its client may have read it before anybody here knows.

        Nothing of it is undone from here on.
        """
        way_back = self.way_back
        assert way_back is not None, "it draws"
        way_back.drawn.extend(piece.tokens or piece.values)
        way_back.written = piece.position
        if len(way_back.drawn) >= BASE_STEPS or way_back.base.history is not None:
            way_back.move_on()

    def break_off(self, error: CellarError, *, at_once: bool = False) -> None:
        """End it: nothing is drawn any more.

        What runs is read and written, or with ``at_once`` neither.
        """
        if at_once:
            self.error = self.error or error
            self.leave()
        if self.ended:
            return
        self.error = self.error or error
        if self.rows is not None:
            self._feedback.cancel(self, self.rows)
        elif self.prompt is not None:
            self.prompt.cancel()

    def is_over(self, step: Any) -> bool:
        """See `FeedbackCall.is_over`: whether the step completes a stop string."""
        self._tail += self._symbols[step]
        met = any(word in self._tail for word in self._stop)
        self._tail = self._tail[-self._longest_stop :]
        return met

    def take(self) -> Piece | None:
        """What has come since the last time."""
        self.news.clear()
        steps, self._steps = tuple(self._steps), []
        if not steps:
            return None
        self.close()
        tokens = steps if self._symbols else ()
        return Piece(
            tokens=tokens,
            values=() if self._symbols else steps,
            text="".join([self._symbols[token] for token in tokens]),
            position=self._position,
            finish_reason=self._reason,
        )


async def generate(
    engine: Engine,
    session_id: str,
    *,
    prompt: CheckedSteps | None,
    max_steps: int,
    sampling: Sampling,
    stop: Sequence[str] = (),
    position: int | None = None,
    branch: int = 0,
) -> AsyncGenerator[Piece, None]:
    """Read the prompt, then draw steps and read each of them.

    Args:
        engine: the engine.
        session_id: the session's id.
        prompt: what is read first.
        max_steps: how many steps are drawn at most.
        sampling: how.
        stop: it ends once the text holds one of these.
        position: where the session must stand before; ``None`` is not checked.
        branch: the branch that it must be on all the time; 0 is the present one.

    Raises:
        NotStartedError: no prompt, and the session has read nothing yet.
        CellarError: the steps behind the pieces that came are applied, nothing else.
    """
    session = engine.session(session_id)
    branch = session.shard.on_branch(session.slot, branch)
    served = session.served
    limit = engine.settings.max_generate_steps
    if not 0 < max_steps <= limit:
        raise BadInputError("max_steps", f"{max_steps} is not in 1..{limit}")
    if served.no_draws is not None:
        served.check_can_draw("generated")
    sampling.check("sampling")
    if stop:
        _check_stop(engine, session, stop)

    flow = engine.flows.current
    call = _Generation(session.shard.feedback, served.reader.symbols, stop, engine.memory)
    call.allowance = flow.allowance
    with flow.generating(), engine.generating(session, call):
        try:
            drawn, at = await _first_draw(
                engine, session, call, prompt, sampling, position, branch, flow
            )
        except StaleBranchError:
            _check_open(engine, session)  # its slot may be another's by now
            raise
        _check_open(engine, session)
        feedback = session.shard.feedback
        call.way_back = _way_back(session, branch, drawn, at)
        call.rows = rows = feedback.start(
            call,
            slots=np.array([session.slot]),
            position=at,
            branch=branch,
            first=drawn.columns[feedback.drawn],
            draws=Draws.of((sampling,)),
            steps=max_steps,
        )
        flow.take(1)  # a row of every batch, for as long as it lasts
        try:
            while True:
                await call.news.wait()
                ended = call.ended
                piece = call.take()
                if piece is not None:
                    if not ended:
                        feedback.taken(call, int(rows[0]))
                    call.write(piece)
                    yield piece
                if ended:
                    break
        finally:
            flow.answered(1)
            call.close()
            try:
                call.leave()
            finally:
                if not call.ended:
                    feedback.cancel(call, rows)
    if call.error is not None:
        raise call.error


def _way_back(session: Session, branch: int, first: Answers, at: int) -> WayBack:
    """To where the first draw was made, with the state there.

    Where somebody has moved the session since, the generation fails and goes nowhere.
    """
    shard, slot = session.shard, session.slot
    last_steps, content = shard.table.last_request_of(slot)
    base = Seed(
        branch=0,
        position=at,
        last_steps=last_steps,
        content=content,
        # On memory of their own: they are views of a whole batch's.
        states=[own[0].copy() for name, own in first.columns.items() if name.startswith(STATE)],
        history=shard.histories.get(slot),
    )
    drawn = array("i" if session.served.reader.has_tokens else "f")
    return WayBack(session=session, branch=branch, base=base, written=at, drawn=drawn)


def _check_open(engine: Engine, session: Session) -> None:
    if engine.directory.by_owner.get(session.owner, {}).get(session.id) is not session:
        engine.directory.find(session.id)  # closed meanwhile, if nobody opened it anew
        raise SessionClosedError(f"session_id: '{session.id}' was closed before it generated")


def _check_stop(engine: Engine, session: Session, stop: Sequence[str]) -> None:
    limits = engine.settings
    most, longest = limits.max_stop_strings, limits.max_stop_length
    if len(stop) > most or any(len(word) > longest for word in stop):
        raise BadInputError("stop", f"use at most {most} strings of {longest} characters")
    if not all(stop):
        raise BadInputError("stop", "an empty stop string would stop at once: leave it out")
    if not isinstance(session.served.manifest.input, TokensInput):
        raise BadInputError("stop", "the model generates values, not text")


async def _first_draw(
    engine: Engine,
    session: Session,
    call: _Generation,
    prompt: CheckedSteps | None,
    sampling: Sampling,
    position: int | None,
    branch: int,
    flow: Flow,
) -> tuple[Answers, int]:
    """Read the prompt, if there is one, and draw.

    Returns the draw with the session's state, and where it stands.
    """
    if prompt is None or not len(prompt):
        session.shard.check_room(1, flow)
        flow.charge(1)
        drawn, at = await _draw_again(session, sampling, position, branch, flow)
    else:
        call.prompt = engine.step(
            session,
            prompt,
            outputs=_FIRST_DRAW,
            sampling=sampling,
            position=position,
            branch=branch,
        )
        try:
            result = await call.prompt
        except CallerGoneError as gone:
            raise call.error or gone from None
        drawn, at = result.answers, result.position
    if call.error is not None:  # broken off meanwhile
        raise call.error
    return drawn, at


async def _draw_again(
    session: Session, sampling: Sampling, position: int | None, branch: int, flow: Flow
) -> tuple[Answers, int]:
    """Draw from the prediction that the session stands at; returns the draw and where that is."""
    current = session.shard.require_started(session.slot, "prompt")
    histories = session.shard.chronicles
    if histories.some and histories.full(np.array([session.slot])) is not None:
        raise history_full()
    if position is not None and position != current:
        raise PositionMismatchError(position, current)
    recall = Recall(
        slots=np.array([session.slot], np.int64),
        expected=np.array([current], np.int64),
        branches=np.array([branch], np.uint64),
        outputs=_FIRST_DRAW,
        draws=Draws.repeated(sampling, 1),
        flow=flow,
    )
    (delivery,) = await session.shard.perform(recall)
    assert delivery.answers is not None, "errors are raised"
    return delivery.answers, current
