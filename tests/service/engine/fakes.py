"""A device whose arithmetic gives every mix-up away."""

import threading

import numpy as np
from numpy.typing import NDArray

from models.manifest import Manifest, Prediction, PredictionKind, State, TokensInput
from service.engine.work.columns import Answers, Floats, Inputs, Ints, Outputs
from service.engine.work.sampling import Draws

VOCABULARY = 64
MODULUS = 9973


def fake_manifest(*, lengths: bool = True) -> Manifest:
    """The manifest of the model that ``FakeRunner`` plays."""
    return Manifest(
        name="fake",
        input=TokensInput(vocabulary=tuple(chr(0x4E00 + i) for i in range(VOCABULARY))),
        lengths="lengths" if lengths else None,
        states=(State(input="s", output="s_next", shape=(1,)),),
        prediction=Prediction(output="y", kind=PredictionKind.LOGITS, width=VOCABULARY),
    )


def advance(state: int, token: int) -> int:
    """The fake recurrence: any lost, doubled or swapped step changes the number."""
    return (state * 31 + token + 1) % MODULUS


def run_alone(tokens: list[int]) -> list[int]:
    """The states after each step of a sequence that has the device for itself."""
    states = []
    state = 0
    for token in tokens:
        state = advance(state, token)
        states.append(state)
    return states


class FakeRunner:
    """Keeps one number per slot; ``raw`` answers hold it, ``argmax`` holds it modulo 64."""

    own_thread = False

    def __init__(self, slots: int) -> None:
        self.state = np.full(slots, -1, np.int64)  # garbage: only `fresh` may make it a zero
        self.batches: list[list[int]] = []  # the slots written by each run
        self.fail_next = False
        self.gate = threading.Event()
        self.gate.set()
        self.lets_one_in = False  # the gate closes behind it

    def step(
        self,
        *,
        read: Ints,
        write: Ints,
        fresh: NDArray[np.bool_],
        inputs: Inputs,
        lengths: Ints,
        every_step: bool,
    ) -> Floats:
        self.gate.wait()
        if self.lets_one_in:
            self.gate.clear()
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("the device caught fire")
        self.batches.append(write.tolist())
        rows, time = inputs.shape[:2]
        state = np.where(fresh, 0, self.state[read])
        every = np.zeros((rows, time), np.int64)
        for t in range(time):
            new = (state * 31 + inputs[:, t].astype(np.int64) + 1) % MODULUS
            state = np.where(t < lengths, new, state)
            every[:, t] = state
        self.state[write] = state
        found = every if every_step else state
        return _predictions(found)

    @property
    def can_decode(self) -> bool:
        return False

    def decode(self, **columns: object) -> NDArray[np.int32]:
        raise AssertionError("it cannot decode")

    def blank(self, rows: int) -> Inputs:
        return np.zeros((rows, 1), np.int64)

    def recall(self, slots: Ints) -> Floats:
        return _predictions(self.state[slots])

    def copy(self, read: int, write: Ints) -> None:
        self.state[write] = self.state[read]

    def answer(
        self, predictions: Floats, outputs: Outputs, draws: Draws | None, positions: Ints
    ) -> Answers:
        if outputs.probabilities:
            raise RuntimeError("no such head")
        token = (predictions[:, 0].astype(np.int64) % VOCABULARY).astype(np.int32)
        return Answers.of(
            raw=predictions.copy() if outputs.raw else None,
            argmax=token if outputs.argmax else None,
            sampled_tokens=token if outputs.sample else None,
        )


def _predictions(states: NDArray[np.int64]) -> Floats:
    return states[..., None].astype(np.float32)
