"""Two runs under way: the second is queued before anybody waits for the first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.standin.build import UnbuiltError
from tests.standin.process import run_inside

BEGIN = """
import contextlib, dataclasses, io, json
import numpy as np
from models.compile.arena import compile_model
from service.engine.execution.ahead.runner import Ask
from service.engine.execution.cuda.runner import CudaRunner
from service.engine.work.columns import Outputs
from service.engine.work.sampling import Draws
from tests.recurrent import char_case
from tests.standin import trace
from tests.standin.scenes import FILTERED, GPU, begin_step

with contextlib.redirect_stdout(io.StringIO()):
    graph = compile_model(char_case().model, device="cuda")
    runner = CudaRunner(graph, slots=200, max_batch=16, place=GPU, several=False)
def begin(rows, at=1):
    ask = Ask(
        rows=slice(0, rows), outputs=Outputs(sample=True, raw=True),
        draws=Draws.repeated(FILTERED, rows), positions=np.full(rows, at),
    )
    return begin_step(runner, "char", rows, [ask])
for rows in (16, 4, 16):
    begin(rows).finish()
trace.clear()
"""
IN_TURN = """
under_way, said = [], []
for number in range(6):
    under_way.append(begin((16, 4)[number % 2]))
    if len(under_way) == 2:
        (found,) = under_way.pop(0).finish()
        said.append(len(found.columns["sampled_tokens"]))
(found,) = under_way.pop().finish()
said.append(len(found.columns["sampled_tokens"]))
events = trace.take()
kinds = [event.kind.name for event in events if event.kind.name not in ("QUERY", "ON_DEVICE")]
print(json.dumps([said, kinds, dataclasses.asdict(trace.counted(events))]))
"""


FAILING = """
said = []
for after in (0, 1):  # launches: the step's, or its head's
    first = begin(16)
    trace.fail(719, after=after)
    for work in (lambda: begin(4).finish(), first.finish):
        try:
            said.append(type(work()[0]).__name__)
        except Exception as error:
            said.append(str(error))
    said.append(runner.is_lost(RuntimeError("something")))
    trace.fail(0)
    for rows in (4, 16, 4):
        (found,) = begin(rows).finish()
        said.append(len(found.columns["sampled_tokens"]))
    said.append(runner.is_lost(RuntimeError("something")))
print(json.dumps([said, dataclasses.asdict(trace.counted(trace.take()))]))
"""


MIDWAY = """
from service.engine.execution.runtime import Bound
run = Bound.run
def broken(self):
    raise RuntimeError("not launched")
under_way = [begin(16)]
Bound.run = broken
try:
    begin(16, at=2)
except RuntimeError as error:
    said = [str(error)]
Bound.run = run
under_way[0].finish()
under_way = [begin(16, at=3), begin(16, at=4)]
said += [len(own.finish()[0].columns["sampled_tokens"]) for own in under_way]
print(json.dumps([said, dataclasses.asdict(trace.counted(trace.take()))]))
"""
DYING = """
under_way = begin(16)
trace.fail(700)
said = []
for half in (lambda: begin(4), under_way.finish):
    try:
        half()
    except Exception as error:
        said += ["700" in str(error), runner.is_lost(error)]
print(json.dumps(said))
"""


Plays = dict[str, Any]


@pytest.fixture(scope="module")
def played() -> Plays:
    """What each has printed; one process for all, as opening a runner takes longer than any."""
    plays = {"in turn": IN_TURN, "failing": FAILING, "midway": MIDWAY, "dying": DYING}
    try:
        said = run_inside("-c", BEGIN + "trace.clear()\n".join(plays.values()))
    except UnbuiltError as error:
        pytest.skip(f"no stand-in for CUDA: {error}")
    return dict(zip(plays, map(json.loads, said.splitlines()), strict=True))


def test_a_run_is_queued_behind_the_one_before_it(played: Plays) -> None:
    said, kinds, counts = played["in turn"]
    assert said == [16, 4] * 3
    run = ["TO_DEVICE", "GRAPH_LAUNCH", "GRAPH_LAUNCH", "TO_HOST", "TO_HOST"]
    assert kinds[: 2 * len(run) + 1] == [*run, *run, "WAIT"]
    assert kinds[2 * len(run) + 1 :][: len(run) + 1] == [*run, "WAIT"]
    assert counts["waits"] == 6


def test_no_memory_is_written_to_before_its_copy_is_done(played: Plays) -> None:
    _, _, counts = played["in turn"]
    assert counts["races"] == 0
    assert counts["illegal"] == []
    assert counts["pageable"] == 0
    assert counts["streams"] == 1


def test_what_the_device_says_is_raised_and_the_runner_goes_on_where_it_can(played: Plays) -> None:
    """The error is that of the call that found it; a device that fails for good is lost."""
    said, counts = played["failing"]
    for own in (said[:7], said[7:]):
        assert all("CUDA failure 719" in str(words) or "719" in str(words) for words in own[:2])
        assert own[2:] == [True, 4, 16, 4, False]
    assert counts["illegal"] == []
    assert counts["races"] == 0


def test_what_a_run_that_failed_midway_has_queued_is_waited_for(played: Plays) -> None:
    said, counts = played["midway"]
    assert said == ["not launched", 16, 16]
    assert counts["races"] == 0
    assert counts["illegal"] == []


def test_where_the_device_dies_no_run_that_is_under_way_is_said_to_have_worked(
    played: Plays,
) -> None:
    assert played["dying"] == [True, True] * 2
