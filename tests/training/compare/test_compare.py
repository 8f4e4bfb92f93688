"""Cells on the same budget: which one wins, and whether it is luck."""

import json
import re
from pathlib import Path

import pytest

from models.repository import ModelRepository
from training.cli import main
from training.compare.verdict import Comparison, Trial, rivals_of

SMALL = ["--hidden", "8", "--embedding", "4", "--batch", "4", "--window", "8", "--device", "cpu"]


def comparison(scores: dict[str, list[float]], *, rises: bool = False) -> Comparison:
    trials = [
        Trial(
            cell=cell,
            source="data",
            loss_name="nats",
            seed=seed,
            score=score,
            scores={},
            weights=1,
            steps=10,
            seconds=2.0,
            session_bytes=4,
            history=[],
            run=Path(),
            model=Path(),
        )
        for cell, found in scores.items()
        for seed, score in enumerate(found)
    ]
    return Comparison(budget="", score_name="score", rises=rises, rivals=rivals_of(trials))


def test_the_best_mean_wins_whichever_way_the_score_goes() -> None:
    scores = {"rnn": [3.0, 3.2], "lstm": [1.0, 1.2], "gru": [2.0, 2.2]}
    assert [rival.cell for rival in comparison(scores).ranked] == ["lstm", "gru", "rnn"]
    assert [r.cell for r in comparison(scores, rises=True).ranked] == ["rnn", "gru", "lstm"]
    assert comparison(scores).lead == pytest.approx(1.0)
    assert comparison(scores).rivals[0].steps_per_s == 5.0


def test_noise_is_that_of_welchs_test() -> None:
    # By hand: variances .01 and .04 over 3 each; freedom (.05/3)^2 / ((.01/3)^2/2 + (.04/3)^2/2)
    # = 2.94, so t of 2 degrees: 4.303 x sqrt(.05/3).
    found = comparison({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.2, 1.8]})
    assert found.noise == pytest.approx(4.303 * (0.05 / 3) ** 0.5)
    assert "a does best" in found.verdict()[0]
    assert "That is more than the noise" in found.verdict()[1]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"a": [1.0, 1.4], "b": [1.1, 1.5]}, "That is NOT more than the noise"),
        ({"a": [1.0], "b": [2.0]}, "may be luck. --seeds 3"),
        ({"a": [1.0, 1.0], "b": [1.0, 1.0]}, "a and b are level"),
        ({"a": [1.0, 1.0], "b": [2.0, 2.0]}, "That is more than the noise"),
    ],
)
def test_verdict_is_plain(scores: dict[str, list[float]], said: str) -> None:
    assert said in " ".join(comparison(scores).verdict())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the quick brown fox " * 40)
    return tmp_path


def test_command_trains_each_cell_and_publishes_the_winner_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--cells", "rnn,gru", "--seeds", "2", "--steps", "4", "--publish"]
    assert main(["compare", "char", "--text", "text.txt", "--name", "fox", *options, *SMALL]) == 0
    shown = capsys.readouterr().out
    home = folder / "runs" / "compare-1"
    found = json.loads((home / "compare.json").read_text())
    assert set(found["cells"]) == {"rnn", "gru"}
    assert found["budget"] == "4 steps each"
    runs = [run for cell in found["cells"].values() for run in cell["runs"]]
    assert sorted(run["seed"] for run in runs) == [0, 0, 1, 1]
    assert {run["steps"] for run in runs} == {4}
    assert all((home / run["run"] / "report.html").exists() for run in runs)
    winner = found["cells"][found["winner"]]
    assert winner["score"] == min(cell["score"] for cell in found["cells"].values())
    assert winner["session_bytes"] == 8 * 4
    repository = ModelRepository(folder / "model-repository")
    assert repository.names() == ["fox"]
    published = repository.load("fox").manifest.scores["cold256"]
    assert published == min(run["scores"]["cold256"] for run in winner["runs"])
    html = (home / "compare.html").read_text(encoding="utf-8")
    assert "cellar-train compare char --name fox --hidden 8 " in html
    assert " --cells rnn,gru --seeds 2" in html
    assert f"{found['winner']} does best" in shown
    assert "it is worse than its simplest baseline: it needs " in shown
    assert f"{found['winner']} does best" in re.sub(r"<[^>]+>", "", html)
    assert html.count("<img") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["char", "--text", "text.txt", "--cells", "lstm"], "two different ones"),
        (["char", "--text", "text.txt", "--cells", "lstm,tree"], "there is no 'tree'"),
        (["char", "--text", "text.txt", "--seeds", "0"], "seeds: at least 1"),
        (["char", "--text", "text.txt", "--hidden", "0"], "hidden: "),
        (["char", "--text", "no.txt"], "no.txt: there is no such file"),
    ],
)
def test_mistakes_leave_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(folder.glob("runs/*"))
