"""Tiny Shakespeare: nats per character after a short training, in torch and as served."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import cellar
from benchmarks.bench import Findings
from benchmarks.processes import CellarServer
from benchmarks.rounds import Figure
from benchmarks.scores.course import Course, Subject
from training.families.char.task import CharTask
from training.run.files.folder import TrainedRun

TEXT = "tinyshakespeare.txt"
SEEDS = 3
SEQUENCES, STEPS = 16, 256
KEYS = ("shakespeare_cold256_3min", "onnx_gap_nats")


def measure(course: Course, findings: Findings) -> None:
    text = course.data(TEXT)
    runs = [
        course.train(
            task="char",
            name=f"shakespeare-{seed}",
            text=[text],
            budget_s=course.budget_s,
            seed=seed,
        )
        for seed in range(min(SEEDS, course.seeds))
    ]
    findings.figures[KEYS[0]] = Figure.mean_of([run.scores["cold256"] for run in runs])
    findings.notes["shakespeare_carried"] = float(np.mean([run.scores["carried"] for run in runs]))
    findings.notes["shakespeare_steps"] = float(np.mean([run.steps for run in runs]))
    findings.figures[KEYS[1]] = Figure.of([served_gap(course, runs[0])])


def served_gap(course: Course, run: TrainedRun) -> float:
    """How far the served model is from the network, in nats per character.

    The same held-out text through both: whole sequences, and step by step through a stream. The
    larger difference of the two.
    """
    task = run.task
    assert isinstance(task, CharTask), "the run is on text"
    tokens = task.corpus.validation[: SEQUENCES * (STEPS + 1)].reshape(SEQUENCES, STEPS + 1)
    read, following = tokens[:, :-1], tokens[:, 1:]
    with torch.no_grad():
        logits, _ = task.network(read, task.network.initial_state(SEQUENCES))
    expected = nats(logits, following)
    server = CellarServer(course.models)
    try:
        with cellar.connect(server.address) as client:
            name = task.config.name
            found = client.predict(name, list(read.numpy()), every_step=True, raw=True)
            whole = np.asarray(found.predictions.raw).reshape(SEQUENCES, STEPS, -1)
            with client.stream(name, raw=True) as stream:
                channels = stream.open(SEQUENCES)
                replies = [stream.step(channels, column.numpy()) for column in read.T]
            single = np.stack([np.asarray(reply.predictions.raw) for reply in replies], axis=1)
    finally:
        server.close()
    return max(
        abs(nats(torch.from_numpy(served), following) - expected) for served in (whole, single)
    )


def nats(logits: torch.Tensor, following: torch.Tensor) -> float:
    """Mean cross-entropy of logits (sequences, steps, vocabulary), in double precision."""
    return float(cross_entropy(logits.double().flatten(0, 1), following.flatten()))


SUBJECT = Subject(name="characters", keys=KEYS, measure=measure)
