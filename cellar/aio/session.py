"""The asynchronous session."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar, Unpack

import numpy as np

from cellar.aio.drive import drive
from cellar.aio.transport import Transport
from cellar.closing import not_hiding
from cellar.errors import CellarError
from cellar.future import Future
from cellar.inputs import StepInputs
from cellar.model_info import ModelInfo, SessionInfo
from cellar.outputs import DEFAULT_LEVELS, OutputOptions, Sampling
from cellar.predictions import Floats, Prediction, Predictions
from cellar.procedures import Procedure
from cellar.results import Forecast, Piece
from cellar.retry import CLEANUP_TIMEOUT_S, CLOSING_TIMEOUT_S
from cellar.session_protocol import SessionProtocol

T = TypeVar("T")


class Generation(AsyncIterator[Piece]):
    """A generation in progress: iterate over its pieces, or take it whole."""

    def __init__(
        self, pieces: AsyncGenerator[Piece, None], settle: Callable[[], Awaitable[None]]
    ) -> None:
        """Use ``Session.generate``."""
        self._pieces = pieces
        self._settle = settle

    async def __anext__(self) -> Piece:
        """The next piece, as soon as it has come."""
        return await anext(self._pieces)

    def __repr__(self) -> str:
        """How to take what it gives."""
        return "<cellar generation: iterate over it, or take its .text() or .values()>"

    async def text(self) -> str:
        """All that is still to come, as text."""
        return "".join([piece.text async for piece in self])

    async def values(self) -> Floats:
        """All that is still to come, as values (steps,)."""
        return np.concatenate([np.zeros(0, np.float32), *[piece.values async for piece in self]])

    async def close(self) -> None:
        """Stops the generation where it is; the session's ``position`` tells then where that is.

        It is behind the last piece that the server wrote, which may not have come any more, and on
        another ``branch`` if the server had gone on past that.
        """
        await self._pieces.aclose()
        await self._settle()


class Session:
    """A session on a server: one sequence in progress. For one task at a time.

    Attributes:
        id: its id.
        model: its model.

    After a step that failed with ``error.ambiguous``, repeat that step: it is applied once,
    whatever happened. Any other request finds out first whether it was applied, and goes on from
    there. ``refresh`` finds out at once; from then on the same step again is another one.

    Once somebody else has reset the session, or closed it and opened it anew, every request fails
    with ``StaleBranchError``, and changes nothing: ``Client.attach`` takes it up from there.

    A server that answers before it writes may lose the last steps in a crash. They are kept here
    for that long, and sent once more; only if somebody else has gone on with the session meanwhile,
    that is a ``StaleBranchError`` too.
    """

    def __init__(self, protocol: SessionProtocol, transport: Transport) -> None:
        """Use ``Client.session`` or ``Client.attach``."""
        self._protocol = protocol
        self._transport = transport
        self.id: str = protocol.id
        self.model: ModelInfo = protocol.model

    def __repr__(self) -> str:
        """Which session it is, of which model, and where."""
        where = f"at {self.position}{', perhaps elsewhere' if self.in_doubt else ''}"
        return f"<cellar session {self.id!r} of {self.model.title}, {where}>"

    @property
    def position(self) -> int:
        """Steps consumed, as far as this client knows: the last that a server has told.

        Where ``in_doubt``, the next request finds out first; so does ``refresh``.
        """
        return self._protocol.position

    @property
    def in_doubt(self) -> bool:
        """Whether the session may be elsewhere than at ``position``.

        So it is after a step or a reset that nobody answered, and a generation that has not come to
        its end and was left without ``close``; until the next request, or ``refresh``.
        """
        return self._protocol.in_doubt

    @property
    def branch(self) -> int:
        """Names the session's unbroken past; 0 if the server does not say.

        New when it is opened or reset, and where a generation that was broken off is taken back.
        Every request is for it alone.
        """
        return self._protocol.branch

    async def step(
        self,
        inputs: StepInputs,
        *,
        commit: bool = True,
        timeout_s: float | None = None,
        **outputs: Unpack[OutputOptions],
    ) -> Prediction:
        """Advances by one or more steps, all or none, and predicts after the last one.

        Args:
            inputs: text, token ids or values: see ``StepInputs``.
            commit: False predicts as if, and leaves the session where it is.
            timeout_s: overrides the client's.
            **outputs: which predictions come back: see ``OutputOptions``.

        Raises:
            BadInputError: an input or an option is wrong.
            PositionMismatchError: somebody else advanced the session, or the server lost
                steps; ``refresh`` accepts the session as it is.
            StepConflictError: another step was applied at this position.
            CellarError: any other.
        """
        return await self._run(self._protocol.step(inputs, outputs, commit, timeout_s))

    async def steps(
        self,
        inputs: StepInputs,
        *,
        commit: bool = True,
        timeout_s: float | None = None,
        **outputs: Unpack[OutputOptions],
    ) -> Predictions:
        """Advances like ``step``, and predicts after every step."""
        return await self._run(self._protocol.steps(inputs, outputs, commit, timeout_s))

    async def peek(
        self,
        inputs: StepInputs,
        *,
        timeout_s: float | None = None,
        **outputs: Unpack[OutputOptions],
    ) -> Prediction:
        """Predicts as if these steps came next, and leaves the session where it is."""
        return await self._run(self._protocol.step(inputs, outputs, False, timeout_s))

    async def feed(
        self,
        inputs: StepInputs,
        *,
        chunk_steps: int = 1024,
        timeout_s: float | None = None,
        **outputs: Unpack[OutputOptions],
    ) -> Prediction:
        """Advances by a long input, in several requests, and predicts after the last step.

        When one fails, ``position`` tells how much was consumed. ``timeout_s`` is per request.
        """
        return await self._run(self._protocol.feed(inputs, chunk_steps, outputs, timeout_s))

    def generate(
        self,
        prompt: StepInputs | None = None,
        *,
        max_steps: int = 200,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Generation:
        """Continues the sequence on the server; the session reads what it generates.

        It starts when the first piece is asked for. A failure after that piece is not retried.
        A generation may be left at any time: by its ``close``, or by going on with the session,
        which ends it. The position is read again before the next request.

        Args:
            prompt: steps to read first; None when the session has read something before.
            max_steps: how many steps to generate at most.
            temperature: divides the logits; 0 always takes the most likely token.
            top_k: draw among the k most likely tokens only; 0 means all.
            top_p: draw among the fewest tokens whose probabilities sum to at least this.
            seed: the same seed at the same position gives the same; None takes a random one.
            stop: ends once the generated text holds this, or one of these.
            timeout_s: overrides the client's, for the whole generation.

        Raises:
            NotStartedError: the session has read nothing, and there is no prompt.
            BadInputError: the prompt or an option is wrong.
            CellarError: any other.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        mine = object()
        procedure = self._protocol.generate(prompt, max_steps, sampling, stop, timeout_s, mine)
        return Generation(self._transport.generate(procedure), lambda: self._settle(mine))

    async def forecast(
        self,
        horizon: int,
        *,
        paths: int = 0,
        quantiles: float | Sequence[float] = DEFAULT_LEVELS,
        seed: int = 0,
        include_paths: bool = False,
        future: Future | None = None,
        timeout_s: float | None = None,
    ) -> Forecast:
        """Forecasts by sampled paths, and leaves the session where it is.

        Args:
            horizon: steps ahead.
            paths: paths to sample; 0 lets the server choose.
            quantiles: the level wanted, or the levels, each strictly in (0, 1).
            seed: the same seed at the same position gives the same forecast.
            include_paths: returns the paths too.
            future: for a model that reads features beside the value (``model.beside``), a row of
                them per step ahead: see ``Future``. The one for the last step may be left out.
            timeout_s: overrides the client's.

        Raises:
            NotStartedError: the session has read nothing.
            BadInputError: an option is wrong, or the future is missing or wrong.
            CellarError: any other.
        """
        return await self._run(
            self._protocol.forecast(
                horizon, paths, quantiles, seed, include_paths, future, timeout_s
            )
        )

    async def refresh(self, *, timeout_s: float | None = None) -> SessionInfo:
        """Asks the server where the session stands, and goes on from there."""
        return await self._run(self._protocol.refresh(timeout_s))

    async def reset(self, *, timeout_s: float | None = None) -> None:
        """Goes back to position 0 and the initial state."""
        await self._run(self._protocol.reset(timeout_s))

    async def close(self, *, timeout_s: float | None = None) -> None:
        """Closes the session on the server; one that is gone already is closed."""
        await self._run(self._protocol.close(timeout_s))

    async def __aenter__(self) -> Self:
        """Returns the session."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the session.

        A failure to do so hides neither what the block came to nor the error that ended it: it is
        logged, and the session expires when it has been idle for long enough.
        """
        with not_hiding(f"session {self.id}"):
            bound = CLEANUP_TIMEOUT_S if error else CLOSING_TIMEOUT_S
            await self.close(timeout_s=self._protocol.closing_s(bound))

    async def _settle(self, generation: object) -> None:
        with suppress(CellarError):  # then the next request does it
            await self._run(self._protocol.settle(generation, CLEANUP_TIMEOUT_S))

    async def _run(self, procedure: Procedure[T]) -> T:
        return await drive(procedure, self._transport.perform)
