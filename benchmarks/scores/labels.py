"""Labels: Japanese Vowels with its published test, and names with no name in both parts."""

from typing import Any

from benchmarks.bench import Findings
from benchmarks.rounds import Figure
from benchmarks.scores.course import Course, Subject
from training.data.labelled.japanese_vowels import write_tables

VOWELS, NAMES = "japanese_vowels", "names.tar.gz"
VOWEL_SEEDS, NAME_SEEDS = 5, 3
VOWEL_SETTINGS: dict[str, Any] = {
    "epochs": 120,
    "validation_share": 0.0,
    "precision": "fp32",
    "threads": 1,
}
"""Chosen on validation utterances of the training part; then all 270 are trained on."""
KEYS = ("japanese_vowels_accuracy", "names_top1", "names_top3")


def measure(course: Course, findings: Findings) -> None:
    train, test = write_tables(course.data(VOWELS), course.folder)
    vowels = [
        course.train(
            task="classify",
            name=f"vowels-{seed}",
            data=train,
            test=test,
            seed=seed,
            **VOWEL_SETTINGS,
        )
        for seed in range(min(VOWEL_SEEDS, course.seeds))
    ]
    findings.figures[KEYS[0]] = Figure.mean_of([run.scores["accuracy"] for run in vowels])
    names = [
        course.train(task="classify", name=f"names-{seed}", data=course.data(NAMES), seed=seed)
        for seed in range(min(NAME_SEEDS, course.seeds))
    ]
    findings.figures[KEYS[1]] = Figure.mean_of([run.scores["accuracy"] for run in names])
    findings.figures[KEYS[2]] = Figure.mean_of([run.scores["top3_accuracy"] for run in names])


SUBJECT = Subject(name="labels", keys=KEYS, measure=measure)
