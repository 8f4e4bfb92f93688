"""Terms are linked where they stand and told where they are used, and nowhere else."""

import re

import pytest

from training.reports.glossary import TERMS, Glossary


def test_the_first_of_each_term_is_linked_and_the_rest_is_escaped() -> None:
    glossary = Glossary()
    linked = glossary.link("wQL <of> the LSTM & another LSTM")
    assert linked == (
        '<a href="#term-quantile-loss">wQL</a> &lt;of&gt; the <a href="#term-lstm">LSTM</a> '
        "&amp; another LSTM"
    )
    assert [term.name for term in glossary.terms] == ["LSTM", "quantile loss"]


def test_longer_terms_come_before_those_in_them() -> None:
    glossary = Glossary()
    glossary.link("the quantile loss in its 80 % interval")
    assert [term.name for term in glossary.terms] == ["80 % interval", "quantile loss"]


def test_parts_of_words_are_none() -> None:
    glossary = Glossary()
    text = "flossy --clip-loss, a sessionless grunt"
    assert glossary.link(text) == text
    assert glossary.terms == []


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_each_term_is_found_by_its_name(term: object) -> None:
    glossary = Glossary()
    glossary.link(term.name)  # type: ignore[attr-defined]
    assert glossary.terms == [term]


def test_anchors_are_unlike() -> None:
    anchors = [term.anchor for term in TERMS]
    assert len(set(anchors)) == len(anchors)
    assert all(re.fullmatch(r"term-[a-z0-9-]+", anchor) for anchor in anchors)
