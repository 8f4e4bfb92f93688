"""The rules of one session: its position, what is sent, what may be sent again.

Knows nothing of channels, threads or event loops: see ``calls/procedures.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cellar.calls.methods import CLOSE_SESSION, FORECAST, GENERATE, GET_SESSION, RESET_SESSION, STEP
from cellar.calls.procedures import Emit, GenerateProcedure, Listen, Next, Procedure, Sleep
from cellar.calls.retry import Attempts
from cellar.errors import (
    CellarError,
    ClosedError,
    DrainingError,
    InternalError,
    PositionMismatchError,
    SessionNotFoundError,
    StaleBranchError,
)
from cellar.sessions.branch import durable_position
from cellar.sessions.rewinding import Rewindable
from cellar.streams.tail import Data
from cellar.v1 import session_pb2
from cellar.values import arguments
from cellar.values import inputs as inputs_
from cellar.values import outputs as outputs_
from cellar.values import predictions as predictions_
from cellar.values.future import Future, encode_future
from cellar.values.inputs import StepInputs
from cellar.values.model_info import ModelInfo, SessionInfo
from cellar.values.outputs import OutputOptions, Sampling
from cellar.values.predictions import Prediction, Predictions
from cellar.values.results import Forecast, Piece


class SessionProtocol(Rewindable):
    """One session as its client sees it.

    The position moves with every answer. It is *stale* after a generation or a reset that did
    not come to its end, and is then read again before the next request, which ends what is left
    of the generation on the server. A step without an answer is *in doubt*: the same step repeated
    is sent for its old position, where it is applied once; before anything else the position is
    read again, and must be the one before that step or the one after it. So nothing is lost or
    done twice unnoticed.

    Every request carries the session's *branch*, and is refused once somebody has reset the session
    or opened it anew. A reset of our own begins a branch, which is taken over. One without an
    answer may have begun it all the same: a session that is found at position 0 of another branch
    then is taken to be where it led. A generation that is broken off begins a branch, too, where
    the session goes back to what was written of it: to read the position again takes that over, and
    takes back what was written and has not come.

    What a crash of the server has taken is sent once more, see ``OnBranch``.
    """

    def __init__(
        self,
        info: SessionInfo,
        model: ModelInfo,
        *,
        attempts: Callable[[float | None], Attempts],
        seed: Callable[[], int],
    ) -> None:
        """Takes over an open session; ``attempts`` turns a timeout into attempts."""
        super().__init__(info, model, attempts=attempts, seed=seed)
        self._stale = False
        self._doubtful: _Doubtful | None = None
        self._generation: object = None  # the latest
        self._received: int | None = None  # what has come of it, while it is left to be settled

    def refresh(self, timeout_s: float | None) -> Procedure[SessionInfo]:
        """Reads the position again, and takes it as it is."""
        info = yield from self._refresh(self._attempts(timeout_s))
        self._doubtful = None
        return info

    @property
    def in_doubt(self) -> bool:
        """Whether the session may be elsewhere than at ``position``."""
        return self._stale or self._doubtful is not None or self._played is not None

    def closing_s(self, most_s: float) -> float:
        """How long to wait at most for what nobody waits for: no longer than for anything else."""
        return min(most_s, self._attempts(None).remaining_s())

    def settle(self, generation: object, timeout_s: float | None) -> Procedure[None]:
        """Reads the position again if this generation has left it stale."""
        if self._stale and self._generation is generation:
            yield from self._refresh(self._attempts(timeout_s))

    def step(
        self, inputs: StepInputs, options: OutputOptions, commit: bool, timeout_s: float | None
    ) -> Procedure[Prediction]:
        """Advances, and predicts after the last step."""
        predictions = yield from self._step(inputs, options, False, commit, timeout_s)
        prediction: Prediction = predictions[-1]
        return prediction

    def steps(
        self, inputs: StepInputs, options: OutputOptions, commit: bool, timeout_s: float | None
    ) -> Procedure[Predictions]:
        """Advances, and predicts after every step."""
        return (yield from self._step(inputs, options, True, commit, timeout_s))

    def feed(
        self, inputs: StepInputs, chunk_steps: int, options: OutputOptions, timeout_s: float | None
    ) -> Procedure[Prediction]:
        """Advances in several requests, and predicts after the last step."""
        chunk_steps = arguments.whole("chunk_steps", chunk_steps, least=1)
        steps = inputs_.encode(inputs, self.model)
        for start in range(0, len(steps.data), chunk_steps):
            chunk = steps.data[start : start + chunk_steps]
            prediction = yield from self.step(chunk, options, True, timeout_s)
        return prediction

    def generate(
        self,
        prompt: StepInputs | None,
        max_steps: int,
        sampling: Sampling,
        stop: str | Sequence[str],
        timeout_s: float | None,
        generation: object,
    ) -> GenerateProcedure:
        """Generates; is tried again until the first piece, and never after it.

        ``generation`` stands for this one. It is over once anything else moves the session.

        Raises:
            BadInputError: an argument is wrong; nothing has begun.
        """
        max_steps = arguments.whole("max_steps", max_steps)
        stops = arguments.texts("stop", stop)
        arguments.optional_seconds("timeout_s", timeout_s)
        return self._generate(prompt, max_steps, sampling, stops, timeout_s, generation)

    def _generate(
        self,
        prompt: StepInputs | None,
        max_steps: int,
        sampling: Sampling,
        stops: Sequence[str],
        timeout_s: float | None,
        generation: object,
    ) -> GenerateProcedure:
        nothing = prompt is None or (isinstance(prompt, str) and not prompt)
        steps = None if nothing else inputs_.encode(prompt, self.model)  # type: ignore[arg-type]
        with outputs_.refusing():
            request = session_pb2.GenerateRequest(
                session_id=self.id,
                prompt=steps.message() if steps else None,
                max_steps=max_steps,
                sampling=sampling.message(self._seed),
                stop=stops,
            )
        attempts = self._attempts(timeout_s)
        request.position = yield from self._known_position(attempts)
        self._put_branch(request)
        self._doubtful, self._generation = None, generation
        self._received = request.position + (0 if steps is None else int(steps.counts[0]))
        heard = False
        while True:
            try:
                self._stale = True
                yield Listen(
                    method=GENERATE,
                    request=request,
                    timeout_s=attempts.remaining_s(),
                    session_id=self.id,
                )
                while (message := (yield Next())) is not None:
                    if self._generation is not generation:
                        raise ClosedError("the session has gone on without this generation")
                    attempts.answered()
                    piece = Piece.decode(message)
                    if steps is not None and not heard:
                        self._tail.add(request.position, steps.data, 0)
                    heard = True
                    self.position = self._received = piece.position
                    self._keep_piece(piece, message)
                    yield Emit(piece)
                if self._generation is generation:
                    self._stale = False
                return
            except CellarError as error:
                if heard or self._generation is not generation:
                    if self._generation is generation and not error.ambiguous:
                        self._received = None  # the server has ended it: all of it has come
                    raise
                if isinstance(error, StaleBranchError):
                    self._take_branch(error)
                    yield from self._play_all(attempts)
                    self._put_branch(request)
                    continue
                # Of refusals, these may come after the prompt was read.
                late = isinstance(error, DrainingError | InternalError)
                self._stale = attempts.ambiguous or error.ambiguous or late
                yield Sleep(attempts.failed(error))
                if self._stale:  # what it drew that never came is taken back, on another branch
                    yield from self._refresh(attempts)
                    self._generation = generation
                    self._put_branch(request)

    def forecast(
        self,
        horizon: int,
        paths: int,
        levels: float | Sequence[float],
        seed: int,
        include_paths: bool,
        future: Future | None,
        timeout_s: float | None,
    ) -> Procedure[Forecast]:
        """Forecasts; the session stays where it is."""
        beside = None if future is None else encode_future(future, self.model)
        with outputs_.refusing():
            request = session_pb2.ForecastRequest(
                session_id=self.id,
                horizon=arguments.whole("horizon", horizon),
                paths=arguments.whole("paths", paths),
                quantiles=arguments.levels("quantiles", levels),
                seed=arguments.whole("seed", seed, most=arguments.MOST_UINT64),
                include_paths=arguments.flag("include_paths", include_paths),
                future=None if beside is None else beside.ravel().tolist(),
            )
        attempts = self._attempts(timeout_s)
        yield from self._known_position(attempts)  # what was left behind must not run on meanwhile
        response = yield from self._ask(FORECAST, request, attempts)
        return Forecast.decode(response, horizon)

    def reset(self, timeout_s: float | None) -> Procedure[None]:
        """Goes back to position 0, on a new branch."""
        request = session_pb2.ResetSessionRequest(session_id=self.id)
        attempts = self._attempts(timeout_s)
        self._stale, self._doubtful, self._generation = True, None, None
        self._received = None
        try:
            response = yield from self._ask(RESET_SESSION, request, attempts, plays=False)
        except CellarError as error:
            if attempts.ambiguous or error.ambiguous:
                self._unanswered = 0
            raise
        self.position, self.branch = response.session.position, response.session.branch
        self._stale, self._unanswered, self._received = False, None, None
        self._forget_tail()

    def close(self, timeout_s: float | None) -> Procedure[None]:
        """Closes; a session that is gone already is closed."""
        request = session_pb2.CloseSessionRequest(session_id=self.id)
        try:
            attempts = self._attempts(timeout_s)
            yield from self._ask(CLOSE_SESSION, request, attempts, plays=False)
        except SessionNotFoundError:
            return

    def _step(
        self,
        inputs: StepInputs,
        options: OutputOptions,
        every_step: bool,
        commit: bool,
        timeout_s: float | None,
    ) -> Procedure[Predictions]:
        attempts = self._attempts(timeout_s)
        commit = arguments.flag("commit", commit)
        steps = inputs_.encode(inputs, self.model)
        request = session_pb2.StepRequest(
            session_id=self.id,
            inputs=steps.message(),
            commit=commit,
            outputs=outputs_.encode(options, every_step=every_step, seed=self._seed),
        )
        again = self._doubtful
        if again is None or not (commit and again.is_repeated_by(request)):
            request.position = yield from self._known_position(attempts)
            again = _Doubtful(request, request.position + int(steps.counts[0]), steps.data)
        request.position = again.request.position
        if commit:
            self._doubtful, self._generation = again, None
        try:
            response = yield from self._ask(STEP, request, attempts)
        except CellarError as error:
            if commit and not (attempts.ambiguous or error.ambiguous):
                self._doubtful = None
            raise
        if commit:
            self.position, self._doubtful = response.position, None
            self._tail.add(request.position, steps.data, durable_position(response))
        n = int(steps.counts[0]) if every_step else 1
        back = np.arange(n - 1, -1, -1) if commit else np.zeros(n, np.int64)
        return predictions_.decode(
            response.predictions,
            positions=response.position - back,
            replayed=np.full(n, response.replayed),
            vocabulary=self.model.names,
            levels=outputs_.levels(options),
        )

    def _known_position(self, attempts: Attempts) -> Procedure[int]:
        yield from self._play_all(attempts)
        doubtful = self._doubtful
        if self._stale or doubtful is not None:
            yield from self._refresh(attempts)
        if doubtful is not None and self.position not in (
            doubtful.request.position,
            doubtful.after,
        ):
            raise PositionMismatchError(
                f"the session is at {self.position}: somebody else advanced it while a step at "
                f"{doubtful.request.position} was without an answer",
                position=self.position,
            )
        return self.position

    def _refresh(self, attempts: Attempts) -> Procedure[SessionInfo]:
        # What is left of a generation of ours must not move the session any more.
        settle = self._stale
        request = session_pb2.GetSessionRequest(session_id=self.id, settle=settle)
        response = yield from self._ask(GET_SESSION, request, attempts)
        info = SessionInfo.decode(response.session)
        if settle and self._received is not None and info.position > self._received:
            try:
                info = yield from self._undo(info, self._received, attempts)
            except StaleBranchError as error:  # a crash may have come between
                self._take_branch(error)
                return (yield from self._refresh(attempts))
        doubtful = self._doubtful
        if doubtful is not None and info.position == doubtful.after:
            self._tail.add(doubtful.request.position, doubtful.data, 0)
        self._tail.moved(info.position)
        self.position, self.branch = info.position, info.branch
        self._stale, self._unanswered = False, None
        if settle:
            self._generation = self._received = None
        return info

    def _keep_piece(self, piece: Piece, message: session_pb2.GenerateResponse) -> None:
        drawn: Data = piece.tokens if len(piece.tokens) else piece.values.reshape(-1, 1)
        if len(drawn):
            self._tail.add(piece.position - len(drawn), drawn, durable_position(message))


class _Doubtful:
    """A step that was sent, and not answered yet."""

    def __init__(self, request: session_pb2.StepRequest, after: int, data: Data) -> None:
        """``after`` is the position after it, ``data`` what it reads."""
        self.request = request
        self.after = after
        self.data = data

    def is_repeated_by(self, request: session_pb2.StepRequest) -> bool:
        """Whether another one is the same step."""
        mine = self.request
        return (
            mine.inputs == request.inputs and mine.outputs.every_step == request.outputs.every_step
        )
