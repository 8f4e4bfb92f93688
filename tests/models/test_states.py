"""A session's state: by the names in the manifest, and as rows of the arena."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.compile.serving import arena_rows, lay_out, named_states
from models.manifest import (
    Manifest,
    Prediction,
    PredictionKind,
    State,
    TokensInput,
)
from service.engine.execution.cpu.arena import Memory

_SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@given(
    shapes=st.lists(_SHAPES, min_size=1, max_size=5),
    task=st.sampled_from(["char", "foreign"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_written_into_a_slot_is_found_there(
    shapes: list[tuple[int, ...]], task: str, seed: int
) -> None:
    """Whatever lies beside it: states of one shape share a block."""
    manifest = Manifest.model_validate(
        {
            "name": "any",
            "task": task,
            "input": TokensInput(vocabulary=("a", "b")),
            "states": [
                State(input=f"s{number}", output=f"t{number}", shape=shape, batch_axis=len(shape))
                for number, shape in enumerate(shapes)
            ],
            "prediction": Prediction(output="y", kind=PredictionKind.LOGITS, width=2),
        }
    )
    noise = np.random.default_rng(seed)
    memory, slots = Memory(lay_out(manifest), slots=3), np.array([2, 0])
    given_states = [
        {
            state.input: noise.normal(size=math.prod(state.shape)).astype(np.float32)
            for state in reversed(manifest.states)
        }
        for _ in slots
    ]
    rows = [arena_rows(manifest, states) for states in given_states]
    memory.write(slots, [np.stack(parts) for parts in zip(*rows, strict=True)])
    for index, slot in enumerate(slots.tolist()):
        found = named_states(manifest, [tensor[0] for tensor in memory.read(np.array([slot]))])
        assert list(found) == [state.input for state in manifest.states]
        for state in manifest.states:
            assert found[state.input].shape == state.shape
            sent = given_states[index][state.input]
            assert np.array_equal(found[state.input].ravel(), sent)
    assert not any(tensor.any() for tensor in memory.read(np.array([1])))
