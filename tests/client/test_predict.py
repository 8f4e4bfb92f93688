"""Whole sequences, through both clients and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cellar
from cellar.cli import main
from tests.client.conftest import QUICK
from tests.client.fake import VOCABULARY, FakeServer, Fault, Refusal, run

WORDS = ["abc", "j", "cafe"[:2]]
TOKENS = [[VOCABULARY.index(symbol) for symbol in word] for word in WORDS]
STATES = [run(tokens) for tokens in TOKENS]


def test_one_prediction_for_each_sequence(client: cellar.Client, server: FakeServer) -> None:
    found = client.predict("char", WORDS, raw=True)
    assert (found.model, found.version, len(found)) == ("char", 3, 3)
    assert found.counts.tolist() == [1, 1, 1]
    assert found.predictions.raw is not None
    assert found.predictions.raw[:, 0].tolist() == STATES
    assert found.predictions.positions.tolist() == [3, 1, 2], "the steps read"
    assert found.labels == tuple(VOCABULARY[state % 10] for state in STATES)
    assert [own[0].label for own in found] == list(found.labels)
    same = client.predict("char", [TOKENS[0], np.array(TOKENS[1]), TOKENS[2]], raw=True)
    assert same.predictions.symbols == found.predictions.symbols
    assert server.sessions == {}


def test_predictions_after_every_step(client: cellar.Client) -> None:
    found = client.predict("char", WORDS, every_step=True, raw=True)
    assert found.counts.tolist() == [3, 1, 2]
    assert [len(own) for own in found] == [3, 1, 2]
    assert found[-1].raw[:, 0].tolist() == [run(TOKENS[2][:1]), STATES[2]]
    assert found[0].positions.tolist() == [1, 2, 3]
    assert [own.raw[-1, 0] for own in found[1:]] == STATES[1:]
    assert found.last.raw is not None
    assert found.last.raw[:, 0].tolist() == STATES
    with pytest.raises(IndexError, match="sequence 3 of 3"):
        found[3]


def test_rows_of_values(client: cellar.Client) -> None:
    found = client.predict("wide", [[[1, 2], [3, 4]], np.array([[5.0, 6.0]])], raw=True)
    assert found.predictions.positions.tolist() == [2, 1]


async def test_the_asynchronous_face(server: FakeServer) -> None:
    async with cellar.aio.connect(server.address, retry=QUICK) as client:
        found = await client.predict("char", WORDS, raw=True)
    assert found.predictions.raw is not None
    assert found.predictions.raw[:, 0].tolist() == STATES


@pytest.mark.parametrize(
    "fault",
    [Fault(2, unavailable=True), Fault(1, after=True), Fault(1, before=Refusal("DRAINING"))],
)
def test_it_is_sent_again(client: cellar.Client, server: FakeServer, fault: Fault) -> None:
    server.faults["Predict"] = fault
    assert client.predict("char", ["abc"], raw=True).predictions[0].raw == [STATES[0]]


@pytest.mark.parametrize(
    ("sequences", "complaint"),
    [
        ("abc", "a list of sequences: put the text into a list"),
        ([], "no sequence: send at least one"),
        (["a", ""], "sequence 1: no steps"),
        (["a", [[1, 2]]], "sequence 1: token ids are"),
        (["a", [1, 2]], "carries text or token ids, not both"),
    ],
)
def test_what_makes_no_sense_is_not_sent(
    client: cellar.Client, server: FakeServer, sequences: list[str], complaint: str
) -> None:
    with pytest.raises(cellar.BadInputError, match=complaint):
        client.predict("char", sequences)
    assert server.calls["Predict"] == 0


def test_the_command(
    capsys: pytest.CaptureFixture[str], server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLAR_SERVER", server.address)
    assert main(["predict", "char", *WORDS]) == 0
    out = capsys.readouterr().out
    for word, state in zip(WORDS, STATES, strict=True):
        assert word in out
        assert repr(VOCABULARY[state % 10]) in out
    assert main(["predict", "char", "abc", "--every-step", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["position"] for row in rows] == [1, 2, 3]
    assert main(["predict", "wide", "1,2 3,4", "5,6", "--json"]) == 0
    assert [row["position"] for row in json.loads(capsys.readouterr().out)] == [2, 1]
    assert main(["predict", "wide", "1,2 3"]) == 2
    assert (
        "sequence 1, step 2: '3' is 1 number; model 'wide' reads 2 numbers"
        in capsys.readouterr().err
    )
