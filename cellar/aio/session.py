"""The asynchronous session."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack, overload

from cellar.aio.drive import drive
from cellar.aio.generation import Generation, Generations
from cellar.aio.opening import Opening
from cellar.aio.transport import Transport
from cellar.calls.closing import not_hiding
from cellar.calls.procedures import Procedure
from cellar.calls.retry import CLEANUP_TIMEOUT_S, CLOSING_TIMEOUT_S
from cellar.errors import CellarError
from cellar.sessions.session_protocol import SessionProtocol
from cellar.sessions.ways import Ways
from cellar.values.future import Future
from cellar.values.inputs import StepInputs
from cellar.values.model_info import ModelInfo, SessionInfo
from cellar.values.outputs import DEFAULT_LEVELS, OutputOptions, Sampling
from cellar.values.predictions import Prediction, Predictions
from cellar.values.results import Forecast

T = TypeVar("T")


class Session:
    """A session on a server: one sequence in progress. For one task at a time.

    Attributes:
        id: its id.
        model: its model, of another version once it was upgraded.

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

    def __repr__(self) -> str:
        """Which session it is, of which model, and where."""
        where = f"at {self.position}{', perhaps elsewhere' if self.in_doubt else ''}"
        return f"<cellar session {self.id!r} of {self.model.title}, {where}>"

    @property
    def model(self) -> ModelInfo:
        """Its model."""
        return self._protocol.model

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

    @overload
    def generate(
        self,
        prompt: StepInputs | None = None,
        *,
        n: None = None,
        max_steps: int = 200,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: StepInputs | None = None,
        *,
        n: int,
        max_steps: int = 200,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Opening[Generations]: ...

    def generate(
        self,
        prompt: StepInputs | None = None,
        *,
        n: int | None = None,
        max_steps: int = 200,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Generation | Opening[Generations]:
        """Continues the sequence on the server; the session reads what it generates.

        It starts when the first piece is asked for. A failure after that piece is not retried.
        A generation may be left at any time: by its ``close``, or by going on with the session,
        which ends it. The session has then read the pieces that have come, and no more.

        With ``n`` it is continued in so many ways, each in a session of its own that is forked from
        this one, which stays where it is. They are a context manager, which closes them.

        Args:
            prompt: steps to read first; None when the session has read something before.
            n: how many ways, which read the prompt once between them.
            max_steps: how many steps to generate at most.
            temperature: divides the logits; 0 always takes the most likely token.
            top_k: draw among the k most likely tokens only; 0 means all.
            top_p: draw among the fewest tokens whose probabilities sum to at least this.
            seed: the same seed at the same position gives the same; None takes a random one. Of
                several generations, the others have the seeds that follow.
            stop: ends once the generated text holds this, or one of these.
            timeout_s: overrides the client's, for the whole generation.

        Raises:
            NotStartedError: the session has read nothing, and there is no prompt.
            BadInputError: the prompt or an option is wrong.
            CellarError: any other.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        if n is not None:
            ways = Ways(self._protocol, prompt, n, max_steps, sampling, stop, timeout_s)
            return Opening(lambda: self._gone_on_with(ways))
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

    async def export(self, *, timeout_s: float | None = None) -> bytes:
        """Copies the session's whole state into a snapshot; the session stays where it is.

        ``Client.import_session`` makes a session of it, on every server that has the model's file.
        It holds what the session has come to, not what it has read: keep it like a secret.
        """
        return await self._run(self._protocol.export(timeout_s))

    def fork(
        self,
        *,
        id: str | None = None,
        position: int | None = None,
        model: str = "",
        version: int = 0,
        idle_timeout_s: float | None = None,
        ephemeral: bool = False,
        history_steps: int | Literal["all"] | None = None,
        timeout_s: float | None = None,
    ) -> Opening[Session]:
        """Opens another session that stands where this one stands; this one stays as it is.

        ``await`` it, or ``async with`` it.

        Args:
            id: the new session's id; a random one when None.
            position: where the new one stands; None is where this one stands. An earlier one wants
                the session's history.
            model: of the new one, whose states have the shapes of this one's; empty: this one's.
                A session of another model has this one's state, and predicts nothing before it has
                read a step.
            version: that model's version; 0 means the highest, or this one's without a model.
            idle_timeout_s: overrides this session's.
            ephemeral: see ``Client.session``.
            history_steps: the same; None: as this one keeps.
            timeout_s: overrides the client's, for this request.

        Raises:
            SessionExistsError: there is a session of that id.
            StateMismatchError: the model's states have other shapes.
            HistoryMissingError: the state at that position is not kept.
            CellarError: any other.
        """
        procedure = self._protocol.fork(
            id, position, model, version, idle_timeout_s, ephemeral, history_steps, timeout_s
        )
        return Opening(lambda: self._forked(procedure))

    async def rewind(
        self,
        *,
        position: int | None = None,
        steps: int | None = None,
        timeout_s: float | None = None,
    ) -> SessionInfo:
        """Goes back to an earlier position, on another ``branch``.

        The session is then as if it had read just that, in one step after the other. What the
        server can go back to is its history, see ``Client.session``, and its last generation.

        Args:
            position: where it is to stand; or
            steps: how many are taken back.
            timeout_s: overrides the client's.

        Raises:
            HistoryMissingError: what was read before is not kept; ``history_position`` says what
                is.
            BadInputError: it has not been there yet.
            CellarError: any other.
        """
        return await self._run(self._protocol.rewind(position, steps, timeout_s))

    async def upgrade(self, *, version: int = 0, timeout_s: float | None = None) -> SessionInfo:
        """Goes on with another version of its model, on another ``branch``; ``model`` is that then.

        That version reads all that the session has read, tokens by their text and values by the
        names of their features: the session is as if it had been open there, in one step after the
        other. For that the server must have kept its whole history (``history_steps="all"``).
        If it fails the session is as it was; only where nobody answered it may be upgraded for all
        that: ``upgrade`` again finds out.

        Args:
            version: 0 means the highest. Where it is the session's own, nothing happens.
            timeout_s: overrides the client's; all that was read is read again within it.

        Raises:
            HistoryMissingError: what it has read is not kept from position 0 on.
            BadInputError: something that it has read has no place in that version.
            StateMismatchError: it was opened with a state that does not fit that version.
            ModelUnknownError: there is no such version.
            CellarError: any other.
        """
        return await self._run(self._protocol.upgrade(version, timeout_s))

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

    async def _forked(self, procedure: Procedure[SessionProtocol]) -> Session:
        return Session(await self._run(procedure), self._transport)

    async def _gone_on_with(self, ways: Ways) -> Generations:
        each = []
        for number, protocol in enumerate(await self._run(ways.open())):
            session = Session(protocol, self._transport)
            pieces = self._transport.generate(ways.generate(number, protocol), tells_begin=True)
            each.append(Generation(pieces, over=session._leave))
        generations = Generations(each)
        try:
            for generation in each:
                await generation._begin()
        except BaseException:
            await generations.close()
            raise
        return generations

    async def _leave(self) -> None:
        await self.__aexit__(None, None, None)

    async def _settle(self, generation: object) -> None:
        with suppress(CellarError):  # then the next request does it
            await self._run(self._protocol.settle(generation, CLEANUP_TIMEOUT_S))

    async def _run(self, procedure: Procedure[T]) -> T:
        return await drive(procedure, self._transport.perform)
