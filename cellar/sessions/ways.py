"""The rules by which one session is gone on with in several ways: each is a fork of its own.

Knows nothing of channels, threads or event loops: see ``calls/procedures.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from cellar.calls.procedures import GenerateProcedure, Procedure
from cellar.calls.retry import CLEANUP_TIMEOUT_S
from cellar.connection.connection import new_session_id
from cellar.errors import BadInputError, CellarError
from cellar.sessions.session_protocol import SessionProtocol
from cellar.values import arguments
from cellar.values import inputs as inputs_
from cellar.values import outputs as outputs_
from cellar.values.inputs import StepInputs
from cellar.values.outputs import Sampling

_MOST_OF_ID = 48  # characters of a session's id that its forks' have, too


class Ways:
    """What several generations of one session have in common; they differ in their seeds."""

    def __init__(
        self,
        session: SessionProtocol,
        prompt: StepInputs | None,
        n: int,
        max_steps: int,
        sampling: Sampling,
        stop: str | Sequence[str],
        timeout_s: float | None,
    ) -> None:
        """Nothing has been sent yet.

        Raises:
            BadInputError: an argument is wrong.
        """
        self._session = session
        self._n = arguments.whole("n", n, least=1)
        self._max_steps = arguments.whole("max_steps", max_steps)
        self._stops = arguments.texts("stop", stop)
        self._timeout_s = arguments.optional_seconds("timeout_s", timeout_s)
        self._sampling = sampling
        nothing = prompt is None or (isinstance(prompt, str) and not prompt)
        steps = None if nothing else inputs_.encode(prompt, session.model)  # type: ignore[arg-type]
        self._prompt = None if steps is None else steps.data
        with outputs_.refusing():
            sampling.message(lambda: 0)
        if sampling.seed is not None and sampling.seed + self._n - 1 > arguments.MOST_UINT64:
            raise BadInputError(
                f"seed: {sampling.seed} leaves no seeds for {self._n} generations: they have this "
                f"one and the next ones, up to {arguments.MOST_UINT64}",
                metadata={"field": "seed"},
            )

    def open(self) -> Procedure[list[SessionProtocol]]:
        """Opens a session for each; the first reads the prompt, and the others begin like it.

        When one cannot be opened none is left.
        """
        name = f"{self._session.id[:_MOST_OF_ID]}.{new_session_id()[:8]}"
        opened = list[SessionProtocol]()
        try:
            opened.append((yield from self._fork(self._session, f"{name}.0")))
            if self._prompt is not None:
                yield from opened[0].feed(self._prompt, 1024, {}, self._timeout_s)
            for number in range(1, self._n):
                opened.append((yield from self._fork(opened[0], f"{name}.{number}")))
        except CellarError:
            for session in opened:
                with suppress(CellarError):
                    yield from session.close(session.closing_s(CLEANUP_TIMEOUT_S))
            raise
        return opened

    def generate(self, number: int, session: SessionProtocol) -> GenerateProcedure:
        """One of the generations, of a session that was opened for it."""
        seed = None if self._sampling.seed is None else self._sampling.seed + number
        return session.generate(
            None, self._max_steps, replace(self._sampling, seed=seed), self._stops,
            self._timeout_s, object(),
        )  # fmt: skip

    def _fork(self, session: SessionProtocol, name: str) -> Procedure[SessionProtocol]:
        return session.fork(name, None, "", 0, None, True, 0, self._timeout_s)
