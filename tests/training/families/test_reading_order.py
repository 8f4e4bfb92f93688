"""The reading order: every place read, states carried, everything a function of the step."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.families.reading_order import Streams, Stretch


def test_a_pass_reads_a_long_sequence_once() -> None:
    streams = Streams(stretches=(Stretch(start=0, length=6400),), batch=10, window=16, seed=1)
    windows = [streams.at(step) for step in range(streams.windows_per_pass)]
    places = torch.cat([window.index.flatten() for window in windows])
    assert sorted(places.tolist()) == list(range(6400))
    assert [window.fresh.tolist() for window in windows] == [[True] * 10] + [[False] * 10] * 39


@given(st.integers(20, 3000), st.integers(1, 9), st.integers(2, 20), st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_streams_walk_on_from_where_they_were(
    length: int, batch: int, window: int, step: int
) -> None:
    streams = Streams(
        stretches=(Stretch(start=0, length=length),), batch=batch, window=window, seed=3
    )
    now, following = streams.at(step), streams.at(step + 1)
    assert now.index.shape == (batch, window)
    assert int(now.index.min()) >= 0
    assert int(now.index.max()) < length
    assert torch.equal(now.index, streams.at(step).index)
    if not following.fresh.all():
        assert torch.equal((now.index[:, -1] + 1) % length, following.index[:, 0])


def test_each_pass_starts_elsewhere() -> None:
    streams = Streams(stretches=(Stretch(start=0, length=5000),), batch=4, window=10, seed=0)
    starts = {int(streams.at(turn * streams.windows_per_pass).index[0, 0]) for turn in range(8)}
    assert len(starts) == 8


def test_streams_restart_in_turn() -> None:
    streams = Streams(
        stretches=(Stretch(start=0, length=6400),), batch=8, window=16, seed=1, restart=4
    )
    fresh = torch.stack([streams.at(step).fresh for step in range(streams.windows_per_pass)])
    assert fresh[0].all()
    assert (fresh[1:].sum(dim=1) == 2).all()  # a quarter of the streams at each step
    for stream in fresh[1:].T:
        places = torch.flatten(torch.nonzero(stream))
        assert (places.diff() == 4).all()
