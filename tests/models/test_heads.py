"""Heads: argmax, top-k, probabilities and sampling, row by row in the graph."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from models.graph.heads import token_heads
from service.engine.work.sampling import path_seeds, uniforms

VOCABULARY = 7
HEADS = {
    name: ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for name, graph in token_heads(VOCABULARY).items()
}
rows_of_logits = arrays.arrays(np.float32, (5, VOCABULARY), elements=st.floats(-20, 20, width=32))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return found


def sample(
    logits: NDArray[np.float32],
    *,
    temperature: float = 1.0,
    top_k: int = 10**9,
    top_p: float = 1.0,
    seed: int = 1,
    filtered: bool = True,
) -> NDArray[np.int32]:
    rows = len(logits)
    seeds = np.full(rows, seed, np.uint64)
    feed = {
        "logits": logits,
        "temperature": np.full((rows, 1), temperature, np.float32),
        "uniform": uniforms(seeds, np.arange(rows))[:, None],
    }
    if filtered:
        feed["top_k"] = np.full((rows, 1), top_k, np.int64)
        feed["top_p"] = np.full((rows, 1), top_p, np.float32)
    (tokens,) = HEADS["sample_filtered" if filtered else "sample"].run(None, feed)
    found: NDArray[np.int32] = tokens
    return found


@given(rows_of_logits)
def test_argmax_top_k_and_probabilities_agree_with_numpy(logits: NDArray[np.float32]) -> None:
    (argmax,) = HEADS["argmax"].run(None, {"logits": logits})
    (probabilities,) = HEADS["probabilities"].run(None, {"logits": logits})
    tokens, top = HEADS["top_k"].run(None, {"logits": logits, "k": np.array([3])})
    assert np.array_equal(argmax, logits.argmax(axis=1))
    np.testing.assert_allclose(probabilities, softmax(logits), rtol=1e-4, atol=1e-7)
    assert np.array_equal(top, np.take_along_axis(probabilities, tokens, axis=1))
    assert (np.diff(top, axis=1) <= 0).all()


@given(rows_of_logits, st.integers(1, VOCABULARY), st.floats(0.05, 1.0), st.integers(0, 2**32))
@settings(max_examples=200)
def test_draws_stay_within_top_k_and_top_p(
    logits: NDArray[np.float32], top_k: int, top_p: float, seed: int
) -> None:
    tokens = sample(logits, top_k=top_k, top_p=top_p, seed=seed)
    probabilities = softmax(logits)
    for row, token in enumerate(tokens.tolist()):
        mine = probabilities[row, token]
        likelier = probabilities[row][probabilities[row] > mine]
        assert len(likelier) < top_k
        assert likelier.sum() < top_p + 1e-5


@pytest.mark.parametrize("filtered", [False, True])
def test_draws_follow_the_distribution(filtered: bool) -> None:
    logits = np.log(np.array([[0.1, 0.3, 0.15, 0.4, 0.03, 0.015, 0.005]], np.float32))
    count = 40_000
    tokens = sample(np.repeat(logits, count, axis=0), filtered=filtered)
    shares = np.bincount(tokens, minlength=VOCABULARY) / count
    np.testing.assert_allclose(shares, softmax(logits)[0], atol=0.01)
    sharper = sample(np.repeat(logits, count, axis=0), temperature=0.5, filtered=filtered)
    squared = softmax(logits)[0] ** 2
    shares = np.bincount(sharper, minlength=VOCABULARY) / count
    np.testing.assert_allclose(shares, squared / squared.sum(), atol=0.01)


@given(rows_of_logits, st.integers(0, 2**32))
def test_a_draw_does_not_depend_on_its_neighbours(logits: NDArray[np.float32], seed: int) -> None:
    together = sample(logits, top_p=0.9, seed=seed)
    reversed_rows = logits[::-1]
    position_of = np.arange(5)
    for row in range(5):
        feed = {
            "logits": reversed_rows[4 - row : 5 - row],
            "temperature": np.ones((1, 1), np.float32),
            "top_k": np.full((1, 1), 10**9),
            "top_p": np.full((1, 1), 0.9, np.float32),
            "uniform": uniforms(np.full(1, seed, np.uint64), position_of[row : row + 1])[:, None],
        }
        (alone,) = HEADS["sample_filtered"].run(None, feed)
        assert alone[0] == together[row]


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_uniform_numbers_are_uniform_and_open(seed: int) -> None:
    found = uniforms(np.full(100_000, seed, np.uint64), np.arange(100_000))
    assert found.dtype == np.float32
    assert found.min() > 0
    assert found.max() < 1
    assert abs(found.mean() - 0.5) < 0.005
    assert abs(found.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.015
    assert len(np.unique(path_seeds(seed, 1000))) == 1000
