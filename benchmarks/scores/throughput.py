"""What the training loop adds to the network: characters per second beside a bare loop.

The bare loop has the same module, optimiser, precision, batch and data, and nothing else: no
records and progress bar. Both take turns.
"""

import time
from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from torch.nn.functional import cross_entropy

from benchmarks.bench import Findings
from benchmarks.rounds import Figure
from benchmarks.scores.characters import TEXT
from benchmarks.scores.course import Course, Subject
from training.families.char.settings import CharConfig
from training.families.char.task import CharTask
from training.families.parsing import parse_config
from training.families.registry import prepare
from training.networks.recurrent import State
from training.run.progress import watch
from training.run.steps.devices import fabric_of
from training.run.steps.loop import Loop
from training.run.steps.optimisers import optimisers_of

ROUNDS = 5
ROUND_S = 4.0
KEYS = ("training_throughput_ratio",)


def measure(course: Course, findings: Findings) -> None:
    config = parse_config({"task": "char", "text": [course.data(TEXT)], "steps": 1_000_000})
    assert isinstance(config, CharConfig), "the task is char"
    ours = watched(config, course)
    bare = bare_steps(config)
    for steps in (ours, bare):  # what is compiled and allocated at first does not count
        speed(steps, ROUND_S)
    ratios = []
    for number in range(ROUNDS):
        order = (ours, bare) if number % 2 else (bare, ours)
        found = {id(steps): speed(steps, ROUND_S) for steps in order}
        ratios.append(found[id(ours)] / found[id(bare)])
        findings.notes["training_characters_per_s"] = found[id(ours)] * config.batch * config.window
    findings.figures[KEYS[0]] = Figure.of(ratios)


def speed(steps: Iterator[None], seconds: float) -> float:
    """Steps per second."""
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        next(steps)
        count += 1
    return count / spent


def watched(config: CharConfig, course: Course) -> Iterator[None]:
    """A run's own steps, with its records and progress bar."""
    loop = Loop(prepare(config), fabric_of(config))
    return watch(loop, loop.run(), course.console)


def bare_steps(config: CharConfig) -> Iterator[None]:
    """The same network, trained by hand."""
    task = prepare(config)
    assert isinstance(task, CharTask), "the settings are for text"
    fabric: Fabric = fabric_of(config)  # for its precision alone
    network, optimisers = task.network, optimisers_of(task.network, config)
    tokens = task.corpus.train
    state: State = network.initial_state(config.batch)
    step = 0
    while True:
        index = task.streams.at(step).index
        with fabric.autocast():
            logits, state = network(tokens[index], state)
        loss = cross_entropy(logits.flatten(0, 1), tokens[index + 1].flatten())
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        for optimiser in optimisers:
            optimiser.step()
        state = tuple(part.detach() for part in state)
        step += 1
        yield


SUBJECT = Subject(name="throughput", keys=KEYS, measure=measure)
