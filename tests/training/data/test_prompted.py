"""One to many: a label first, then a sequence that has it."""

from pathlib import Path

import pytest
import torch

import cellar
from models.repository import ModelRepository
from service.engine.served.inputs import InputReader
from tests.e2e.process import running
from training.data.text.prompted import read_prompted
from training.errors import ConfigError, DataError
from training.families.parsing import parse_config
from training.run.fit import train

SOUNDS = {"cat": "meow", "dog": "woof", "owl": "hoot"}


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    for label, sound in SOUNDS.items():
        lines = [sound + "!" * count for count in range(12)]
        (folder / f"{label}.txt").write_text("\n".join([*lines, lines[0]]))
    return folder


def test_each_sequence_stands_behind_its_label_and_in_one_part(sounds: Path) -> None:
    corpus = read_prompted(sounds, window=16, seed=1)
    assert corpus.vocabulary[-3:] == ("<cat>", "<dog>", "<owl>")
    written = [
        "".join(corpus.vocabulary[token] for token in part.tolist()).splitlines()
        for part in (corpus.train, corpus.validation)
    ]
    assert [len(lines) for lines in written] == [32, 4]  # 3 x 12: what stands there twice is once
    expected = {f"<{label}>{sound}{'!' * n}" for label, sound in SOUNDS.items() for n in range(12)}
    assert {*written[0], *written[1]} == expected
    assert "dropped" in " ".join(note.what for note in corpus.notes)


def test_a_test_that_came_is_held_out(tmp_path: Path) -> None:
    for part, endings in (("train", range(12)), ("test", range(20, 23))):
        folder = tmp_path / part
        folder.mkdir()
        for label, sound in SOUNDS.items():
            (folder / f"{label}.txt").write_text("\n".join(sound + "!" * n for n in endings))
    corpus = read_prompted(tmp_path, window=16, seed=1)
    held_out = "".join(corpus.vocabulary[token] for token in corpus.validation.tolist())
    assert sorted(held_out.splitlines()) == sorted(
        f"<{label}>{sound}{'!' * n}" for label, sound in SOUNDS.items() for n in range(20, 23)
    )
    (tmp_path / "test").rename(tmp_path.parent / "elsewhere")
    with pytest.raises(DataError, match="it is one part of a data set; give all of its parts"):
        read_prompted(tmp_path, window=16, seed=1)


def test_a_line_break_within_a_text_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "poems.csv"
    table.write_text('text,label\n"one\ntwo",a\nthree,b\n')
    with pytest.raises(DataError, match="line break in it"):
        read_prompted(table, window=4, seed=0)


def test_settings_that_do_not_go_with_labels_are_refused(sounds: Path) -> None:
    for settings, message in (
        ({"min_count": 2}, "leave out limit-characters, min-count and normalise"),
        ({"stdlib": True}, "give one of text files, stdlib and labelled texts"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_config({"task": "char", "labelled": sounds, **settings})


def test_a_label_makes_the_network_write_what_it_says(tmp_path: Path, sounds: Path) -> None:
    torch.set_num_threads(1)
    models = tmp_path / "models"
    run = train(
        parse_config(
            {
                "task": "char",
                "name": "sounds",
                "labelled": sounds,
                "hidden": 48,
                "embedding": 12,
                "batch": 8,
                "window": 16,
                "restart": 2,
                "steps": 250,
                "learning_rate": 0.01,
                "optimiser": "adamw",
                "dropout": 0,
                "device": "cpu",
                "models": models,
                "runs": tmp_path / "runs",
            }
        )
    )
    assert run.finished
    model = ModelRepository(models).load("sounds")
    reader = InputReader(model.manifest)
    assert not reader.text("woof").bad.any()  # text is still text
    with running(models) as server, cellar.connect(server.address) as client:
        vocabulary = client.model("sounds").vocabulary
        for label, sound in SOUNDS.items():
            with client.session("sounds") as session:
                start = [vocabulary.index(f"<{label}>")]
                written = session.generate(start, max_steps=20, temperature=0, stop=["\n"]).text()
            assert written.rstrip("\n").rstrip("!") == sound
