"""Labels of sequences, from files to a published model that gives the network's numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.manifest import Manifest, PredictionKind, TokensInput, ValuesInput
from models.repository import ModelRepository
from training.data.text.characters import UNKNOWN
from training.errors import ConfigError, DataError
from training.export.onnx_model import OnnxModel
from training.families.classify.prepared import ClassifyData
from training.families.classify.scores import (
    Judged,
    by_label,
    confusion_matrix,
    confusions,
    progress,
    verdict,
)
from training.families.classify.settings import ClassifyConfig
from training.families.classify.task import ClassifyTask
from training.families.parsing import parse_config
from training.run.files.folder import RunFolder, TrainedRun
from training.run.fit import resume, train


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """The first letter is the label: it must be kept to the end of the word."""
    dice = np.random.default_rng(0)
    rows = ["text,label"]
    for _ in range(240):
        label = "xyz"[dice.integers(3)]
        rows.append(f"{label}{''.join(dice.choice(list('abc'), dice.integers(3, 9)))},{label}")
    path = tmp_path / "words.csv"
    path.write_text("\n".join(rows))
    return path


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    """Rising or falling, in units and at an offset that only standardised values are learnt in."""
    dice = np.random.default_rng(0)
    rows = ["sequence,label,level,noise"]
    for number in range(60):
        rising, start = dice.random() < 0.5, dice.normal(0, 1)
        for step in range(dice.integers(4, 12)):
            level = 5000 + 1e3 * (start + (0.3 if rising else -0.3) * step)
            rows.append(f"{number},{'up' if rising else 'down'},{level},{dice.normal()}")
    path = tmp_path / "waves.csv"
    path.write_text("\n".join(rows))
    return path


def config(data: Path, where: str = "a", **settings: Any) -> ClassifyConfig:
    folder = data.parent / where
    found = parse_config(
        {
            "task": "classify",
            "data": data,
            "hidden": 24,
            "embedding": 8,
            "dropout": 0.0,
            "noise": 0.1,
            "learning_rate": 0.02,
            "models": folder / "models",
            "runs": folder / "runs",
            "device": "cpu",
            **settings,
        }
    )
    assert isinstance(found, ClassifyConfig)
    return found


def load(config: ClassifyConfig) -> tuple[OnnxModel, Manifest]:
    loaded = ModelRepository(config.models).load("classify")
    return OnnxModel(loaded.proto, loaded.manifest), loaded.manifest


def test_a_streamed_model_says_the_label_so_far(words: Path) -> None:
    settings = config(words, epochs=8)
    run = train(settings)
    assert run.scores["accuracy"] == 1
    assert run.scores["onnx_gap"] < 1e-5
    model, manifest = load(settings)
    assert manifest.is_streamable
    assert manifest.task == "classify"
    assert manifest.prediction.kind is PredictionKind.LABELS
    assert manifest.prediction.labels == ("x", "y", "z")
    assert isinstance(manifest.input, TokensInput)
    assert manifest.input.vocabulary == ("a", "b", "c", "x", "y", "z", UNKNOWN)
    assert manifest.input.unknown == 6
    tokens = np.array([[manifest.input.vocabulary.index(symbol) for symbol in "yabcab"]])
    found, _ = model.run(tokens, model.initial_state(1))
    assert (found["label_scores"][0].argmax(axis=-1) == 1).all()
    rows = (run.folder / "predictions.csv").read_text().splitlines()
    assert rows[0] == "place,label,predicted,probability"
    assert isinstance(run.task, ClassifyTask)
    assert len(rows) == 1 + len(run.task.data.split.test)
    assert {"accuracy", "top3_accuracy", "nats", "commonest.accuracy"} <= manifest.scores.keys()


def test_a_bidirectional_model_reads_whole_sequences(words: Path) -> None:
    settings = config(words, epochs=8, bidirectional=True, cell="lstm", layers=2, merge="sum")
    run = train(settings)
    assert run.scores["accuracy"] == 1
    model, manifest = load(settings)
    assert not manifest.is_streamable
    assert not manifest.prediction.per_step
    assert isinstance(manifest.input, TokensInput)
    tokens = np.array([[manifest.input.vocabulary.index(symbol) for symbol in "zabcab"]])
    found, _ = model.run(tokens, {})
    assert manifest.prediction.labels[found["label_scores"][0].argmax()] == "z"


def test_raw_values_go_in(waves: Path) -> None:
    settings = config(waves, epochs=20, cell="rnn", nonlinearity="relu", learning_rate=0.01)
    assert train(settings).scores["accuracy"] == 1
    model, manifest = load(settings)
    assert manifest.input == ValuesInput(features=("level", "noise"))
    rising = np.array([[[5000 + 300 * step, 0] for step in range(6)]], np.float32)
    found, _ = model.run(rising, model.initial_state(1))
    assert manifest.prediction.labels[found["label_scores"][0, -1].argmax()] == "up"


def weights_of(run: TrainedRun) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = RunFolder(run.folder).load_checkpoint()["network"]
    return weights


@pytest.mark.parametrize("settings", [{"cell": "gru"}, {"bidirectional": True, "layers": 2}])
def test_resumed_run_ends_with_the_same_bits(waves: Path, settings: dict[str, Any]) -> None:
    settings = {"dropout": 0.2, "steps": 13, "batch": 7, **settings}
    whole = train(config(waves, "whole", **settings))
    part = train(config(waves, "parts", **settings), stop_after=5)
    assert not part.finished
    resumed = resume(resume(part.folder, stop_after=9).folder)
    assert resumed.finished
    expected, found = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.scores == whole.scores


def test_sections_show_confusion_labels_and_progress(words: Path) -> None:
    task = ClassifyTask(config(words))
    assert [section.title for section in task.sections()] == [
        "What is taken for what",
        "Label by label",
        "How soon the label is known",
    ]
    assert len(ClassifyTask(config(words, bidirectional=True)).sections()) == 2


def judged(**settings: Any) -> Judged:
    logits = torch.tensor(
        [[3.0, 2, 1, 0], [0, 3, 2, 1], [3, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3]]
    ).double()
    targets = torch.tensor([0, 1, 1, 3, 3])
    return Judged(
        labels=("a", "<b>", "c", "d"), logits=logits, targets=targets, commonest=3, **settings
    )


def test_scores() -> None:
    found = judged()
    scores = found.scores
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["top3_accuracy"] == pytest.approx(4 / 5)
    assert scores["commonest.accuracy"] == pytest.approx(2 / 5)
    assert found.confusion.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert by_label(found).rows[1:3] == (("<b>", "100 %", "50.0 %", "2"), ("c", "–", "–", "0"))
    mistaken = confusions(found).rows
    assert mistaken == (("<b>", "a", "1", "50.0 %"), ("d", "a", "1", "50.0 %"))
    assert "does NOT beat" in verdict({"accuracy": 0.4, "commonest.accuracy": 0.4})


def test_accuracy_by_steps_counts_the_end_of_sequences_that_are_over() -> None:
    said = torch.tensor([[0, 1, 1], [1, 1, 0]])
    rest = torch.tensor([[1, 3], [3, 3], [2, 3]])
    found = judged(
        so_far=((said, torch.tensor([1, 3])), (rest, torch.tensor([2, 1, 2]))),
    )
    # right after 1, 2, 3 steps: a: 1 1 1; b: 1 1 0; b: 1 0 0; d: 1 1 1; d: 0 1 1
    np.testing.assert_allclose(found.by_steps, [4 / 5, 4 / 5, 3 / 5])
    (axes,) = progress(found).figure.axes
    drawn = np.asarray(axes.lines[0].get_ydata(), np.float64)
    np.testing.assert_allclose(drawn, found.by_steps)


def test_a_confusion_matrix_of_many_labels_keeps_its_cells_legible() -> None:
    few = confusion_matrix(judged()).figure
    labels = tuple(f"label {number}" for number in range(40))
    targets = torch.arange(40)
    many = Judged(labels=labels, logits=torch.eye(40).double(), targets=targets, commonest=0)
    assert confusions(many).rows == ()
    figure = confusion_matrix(many).figure
    assert few.get_figwidth() <= 5
    assert figure.get_figwidth() >= 0.3 * 40
    assert len(figure.axes) == 1
    assert len(figure.axes[0].get_xticks()) == 40


def test_a_test_file_is_scored_on_and_kept_out_of_training(words: Path, tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    test.write_text("\n".join(words.read_text().splitlines()[:30]))
    data = ClassifyData(config(words, test=test, validation_share=0.0))
    assert len(data.split.validation) == 0
    assert len(data.split.train) + len(data.split.test) == len(data.examples)
    assert "dropped: also in test.csv" in [note.what for note in data.notes]
    texts = [
        {data.examples[row].sequence for row in part}
        for part in (data.split.train, data.split.test)
    ]
    assert not texts[0] & texts[1]


def test_rare_characters_and_long_sequences_are_said(words: Path) -> None:
    words.write_text(words.read_text() + "\nxé,x\nxabcabcabcabc,x")
    data = ClassifyData(config(words, longest=12))
    found = {note.what: (note.rows, note.detail) for note in data.notes}
    assert found["taken for unknown: rare characters"][0] == 1
    assert "'é'" in found["taken for unknown: rare characters"][1]
    assert found["cut off: long sequences"][0] == 1
    assert int(data.sequences.lengths.max()) == 12


def test_padding_repeats_the_last_step_and_is_never_counted(waves: Path) -> None:
    task = ClassifyTask(config(waves, noise=0.0))
    rows = torch.arange(6)
    batch = task.data.sequences.batch(rows)
    torch.manual_seed(0)
    together = task._logits(task.network, batch)[batch.last]
    for row in rows.tolist():
        alone = task.data.sequences.batch(torch.tensor([row]))
        assert alone.x.shape[1] == int(batch.lengths[row])
        expected = task._logits(task.network, alone)[0, -1]
        torch.testing.assert_close(together[row], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("text,label\na,x\nb,x\n", {}, "all sequences have the label 'x'"),
        ("text,label\na,x\nb,y\n", {}, "2 sequences with 2 labels leave none for the test"),
    ],
)
def test_too_little_is_refused(
    tmp_path: Path, content: str, settings: dict[str, Any], message: str
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        train(config(path, **settings))
    assert [child.name for child in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("text,label\nxa,w\n", r"test.csv, line 2: label 'w' is not in .*words.csv; a label"),
        (
            "sequence,label,v\n1,x,2\n1,x,3\n",
            "its columns of numbers are v, but those of .* are none",
        ),
    ],
)
def test_a_test_of_another_kind_is_refused(
    words: Path, tmp_path: Path, test: str, message: str
) -> None:
    (tmp_path / "test.csv").write_text(test)
    with pytest.raises(DataError, match=message):
        ClassifyData(config(words, test=tmp_path / "test.csv"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "char", "stdlib": True, "bidirectional": True}, "for classify only: .* answer"),
        ({"task": "classify", "data": "x", "merge": "sum"}, "give bidirectional too"),
        ({"task": "classify", "data": "x", "nonlinearity": "relu"}, "relu is for the rnn cell"),
        ({"task": "classify", "data": "x", "test_share": 0}, "nothing to score on"),
        ({"task": "classify"}, "data: Field required"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(settings)


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """Folders train and test, with more labels in the words of one than of the other."""
    dice = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 10)):
        for label in "xyz":
            folder = tmp_path / "words" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                word = label + "".join(dice.choice(list("abc"), 8))
                (folder / f"{number}.txt").write_text(word)
    return tmp_path / "words"


def noted(data: ClassifyData) -> dict[str, str]:
    return {note.what: note.detail for note in data.notes}


def test_parts_that_came_are_kept(parted: Path) -> None:
    data = ClassifyData(config(parted))
    tested = [data.examples[row] for row in data.split.test]
    assert {example.part for example in tested} == {"test"}
    assert len(data.split.train) + len(data.split.validation) == sum(
        example.part == "train" for example in data.examples
    )
    assert noted(data)["split: as it came"].endswith("share of what came for training")
    assert noted(data)["labels: 3"].startswith("x: ")
    assert train(config(parted, epochs=1)).finished


def test_labels_are_told_with_their_counts(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    rows = [f"t{n},{'abcdefghijklmnop'[n % 16]}" for n in range(320)]
    path.write_text("\n".join(["text,label", *rows, "one,rare"]))
    detail = noted(ClassifyData(config(path)))
    assert detail["labels: 17"].startswith("a: 20, b: 20")
    assert detail["labels: 17"].endswith("l: 20 and 5 more, of 1 at least")
    assert detail["labels with fewer than 3 to train on"] == "rare"
    assert detail["labels that are not tested"] == "too few sequences of rare"


def test_groups_stay_on_one_side(words: Path) -> None:
    lines = words.read_text().splitlines()
    rows = [f"{line},person {n // 6}" for n, line in enumerate(lines[1:])]
    words.write_text("\n".join([f"{lines[0]},person", *rows]))
    data = ClassifyData(config(words, group="person"))
    sides = [
        {data.examples[row].group for row in part.tolist()}
        for part in (data.split.train, data.split.validation, data.split.test)
    ]
    assert all(sides)
    assert sum(map(len, sides)) == len(set().union(*sides)) == 40
    assert "no one of 40 groups is in two of them" in noted(data)["split"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": "words/test"}, "it has a test part of its own; leave out --test"),
        (
            {"group": r"/(\w)/\d"},
            "group '.' is in the (train and the test|test and the train) part as",
        ),
        ({"group": "("}, "not a regular expression"),
        ({"text_column": "text"}, "--text-column is for tables"),
    ],
)
def test_what_does_not_go_with_parts(parted: Path, settings: dict[str, Any], message: str) -> None:
    if "test" in settings:
        settings = {"test": parted / "test"}
    with pytest.raises(DataError, match=message):
        ClassifyData(config(parted, **settings))


def test_a_part_alone(parted: Path) -> None:
    for name in ("train", "test"):
        (parted.parent / name).mkdir()
        (parted / name).rename(parted.parent / name / name)
    data = ClassifyData(config(parted.parent / "train"))
    assert len(data.split.test) > 0
    assert "split: as it came" not in noted(data)
    with pytest.raises(DataError, match="it is the test part alone; give the part to train on"):
        ClassifyData(config(parted.parent / "test"))


def test_a_test_label_that_nobody_trains_on(parted: Path) -> None:
    (parted / "test/w").mkdir()
    (parted / "test/w/1.txt").write_text("w")
    with pytest.raises(DataError, match="label 'w' is not in the training part"):
        ClassifyData(config(parted))
