"""Runs that start from another run's weights, on other data."""

import csv
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.manifest import TokensInput
from models.repository import ModelRepository
from training.cli import main
from training.data.series.synthetic import synthetic_prices
from training.run.files.folder import RunFolder

FOX = "the quick brown fox jumps over the lazy dog. "
SMALL = ["--batch", "8", "--threads", "1", "--publish"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, its run and its model."""
    home = tmp_path_factory.mktemp("fox")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        (home / "fox.txt").write_text(FOX * 30)
        options = ["--hidden", "16", "--embedding", "8", "--window", "16", "--steps", "200"]
        assert main(["char", "--text", "fox.txt", *options, *SMALL]) == 0
    return home


@pytest.fixture
def fox(home: Path, folder: Path) -> Path:
    """The run, in the working folder."""
    shutil.copytree(home, folder, dirs_exist_ok=True)
    return folder / "runs/char-1"


def test_a_text_with_fewer_characters_keeps_the_vocabulary(folder: Path, fox: Path) -> None:
    (folder / "dog.txt").write_text("the lazy dog jumps over the fox. " * 30)
    options = ["--window", "16", "--from", str(fox / "checkpoint.pt"), "--name", "dog"]
    assert main(["char", "--text", "dog.txt", "--steps", "1", *options, *SMALL]) == 0
    repository = ModelRepository(folder / "model-repository")
    first, second = repository.load("char").manifest, repository.load("dog").manifest
    assert isinstance(first.input, TokensInput)
    assert isinstance(second.input, TokensInput)
    assert second.input.vocabulary == first.input.vocabulary
    # One step from there it still knows what it had learnt.
    assert second.scores["cold256"] < 1.5
    assert second.provenance is not None
    assert "--from checkpoint.pt" in second.provenance.command
    assert str(folder) not in second.model_dump_json()


def test_a_run_from_another_is_stopped_and_resumed_without_it(folder: Path, fox: Path) -> None:
    from training.families.parsing import parse_config
    from training.run.fit import resume, train

    (folder / "dog.txt").write_text("the lazy dog jumps over the fox. " * 30)
    settings = {"task": "char", "text": ["dog.txt"], "window": 16, "from_run": fox, "steps": 6}
    config = parse_config({**settings, "batch": 8, "publish": True})
    whole = train(config)
    part = train(config, stop_after=3)
    for path in fox.iterdir():
        path.unlink()
    found, expected = (
        RunFolder(run.folder).load_checkpoint()["network"] for run in (resume(part.folder), whole)
    )
    assert all(torch.equal(found[name], each) for name, each in expected.items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--text", "german.txt"], "german.txt: characters that runs/char-1 does not know: 'ß',"),
        (["--text", "fox.txt", "--hidden", "32"], "hidden: it is 32, but runs/char-1 has 16"),
        (["--text", "fox.txt", "--cell", "gru"], "cell: it is gru, but runs/char-1 has lstm"),
        (["--text", "fox.txt", "--from", "fox.txt"], "fox.txt: no run folder"),
    ],
)
def test_what_does_not_fit_is_named(
    folder: Path, fox: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    (folder / "german.txt").write_text("maß und süß " * 60)
    before = sorted(folder.rglob("*"))
    start = ["--from", "runs/char-1", "--window", "16", "--steps", "1"]
    assert main(["char", *start, *options, *SMALL]) == 2
    assert said in capsys.readouterr().err
    assert main(["series", "--synthetic", "200", "--from", "runs/char-1"]) == 2
    assert "is a run of char, not of series" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def write_labelled(path: Path, sets: dict[str, str]) -> None:
    """Words of a label are drawn from its letters."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for label, letters in sets.items():
            for word in itertools.islice(itertools.permutations(letters, 4), 40):
                writer.writerow(["".join(word), label])


def test_labels_keep_their_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labelled(folder / "three.csv", {"a": "abcdef", "k": "klmnop", "x": "stuvxy"})
    columns = ["--text-column", "text", "--label-column", "label"]
    options = [*columns, "--hidden", "16", "--embedding", "8", *SMALL]
    assert main(["classify", "--data", "three.csv", "--steps", "60", *options]) == 0
    # The labels of this file alone would be numbered otherwise.
    write_labelled(folder / "two.csv", {"k": "klmnop", "x": "stuvxyz"})
    again = ["classify", "--from", "runs/classify-1", "--steps", "1", *columns, *SMALL]
    assert main([*again, "--data", "two.csv", "--name", "two"]) == 0
    manifest = ModelRepository(folder / "model-repository").load("two").manifest
    assert manifest.scores["accuracy"] > 0.9
    write_labelled(folder / "other.csv", {"k": "klmnop", "new": "abcdef"})
    capsys.readouterr()
    assert main([*again, "--data", "other.csv"]) == 2
    assert "other.csv: labels that runs/classify-1 does not know: 'new'" in capsys.readouterr().err


def test_a_series_is_scaled_as_the_first_was(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("one", "two")):
        prices = synthetic_prices(400, seed=seed)
        prices["Volume"] = np.exp(np.random.default_rng(seed).normal(size=400)) * 10.0**seed
        prices["Other"] = prices["Volume"]
        prices.to_csv(folder / f"{name}.csv", index=False)
    options = ["--value", "Close", "--window", "16", *SMALL]
    first = ["series", "--csv", "one.csv", "--feature", "Volume", "--hidden", "8", "--steps", "40"]
    assert main([*first, *options]) == 0
    again = ["series", "--csv", "two.csv", "--from", "runs/series-1", "--steps", "1", *options]
    assert main([*again, "--feature", "Volume", "--name", "two"]) == 0
    scales = [
        RunFolder(folder / "runs" / run).load_checkpoint()["meaning"]
        for run in ("series-1", "two-1")
    ]
    assert scales[0] == scales[1]
    assert ModelRepository(folder / "model-repository").load("two").manifest.scores["nll"] < 0
    capsys.readouterr()
    assert main([*again, "--feature", "Other"]) == 2
    said = "two.csv: columns beside the value: here Other, in runs/series-1 Volume; make them alike"
    assert said in capsys.readouterr().err
