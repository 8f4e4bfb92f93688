"""Splits by groups: nothing of one group in two parts, and every label trained on."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.labelled.splits import grouped


@given(data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_no_group_is_in_two_parts(data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(2, 60))
    labels = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    names = data.draw(st.lists(st.sampled_from("abcdefghij"), min_size=count, max_size=count))
    _, targets = np.unique(labels, return_inverse=True)
    split = grouped(targets, names, validation=0.1, test=0.2, seed=seed)
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    in_parts = [{names[row] for row in part.tolist()} for part in parts]
    assert sum(map(len, in_parts)) == len(set(names))
    assert set(targets[split.train]) == set(targets)


def test_shares_are_as_near_as_groups_allow() -> None:
    targets = np.tile([0, 1], 200)
    names = [f"speaker {n // 10}" for n in range(400)]
    split = grouped(targets, names, validation=0.1, test=0.2, seed=3)
    assert [len(split.train), len(split.validation), len(split.test)] == [280, 40, 80]
    assert np.bincount(targets[split.test]).tolist() == [40, 40]
    other = grouped(targets, names, validation=0.1, test=0.2, seed=4)
    assert split.test.tolist() != other.test.tolist()
    again = grouped(targets, names, validation=0.1, test=0.2, seed=3)
    assert split.test.tolist() == again.test.tolist()


def test_a_group_of_many_is_not_tested_for_want_of_others() -> None:
    names = ["large"] * 90 + [f"small {n}" for n in range(10)]
    targets = np.array([0, 1] * 50)
    split = grouped(targets, names, validation=0.05, test=0.05, seed=0)
    assert {names[row] for row in split.train} >= {"large"}
    assert 4 <= len(split.test) <= 5
    few = grouped(np.array([0, 1, 0, 1]), ["a", "a", "b", "b"], validation=0.0, test=0.1, seed=0)
    assert len(few.test) == 2


def test_the_only_group_of_a_label_is_trained_on() -> None:
    targets = np.array([0] * 9 + [1] + [0] * 9)
    names = ["both"] * 10 + ["other"] * 9
    split = grouped(targets, names, validation=0.0, test=0.5, seed=0)
    assert {names[row] for row in split.test.tolist()} == {"other"}
