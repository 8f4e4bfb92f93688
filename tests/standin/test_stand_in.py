"""The stand-in itself: it finds what it is there to find.

Each play is a short program over the stand-in; what it prints is compared.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.standin.build import UnbuiltError
from tests.standin.process import run_inside

BEGIN = """
import ctypes, dataclasses, json
from tests.standin import trace
cuda = ctypes.CDLL("libcudart.so.13")
TO_DEVICE, TO_HOST, SIZE, NON_BLOCKING = 1, 2, 64, 1
def made(function, *arguments):
    found = ctypes.c_void_p()
    assert function(ctypes.byref(found), *arguments) == 0
    return found
def copy(to, source, direction, bytes=SIZE):
    return cuda.cudaMemcpyAsync(to, source, ctypes.c_size_t(bytes), direction, stream)
def values(memory):
    return list(ctypes.string_at(memory, SIZE))
stream = made(cuda.cudaStreamCreateWithFlags, NON_BLOCKING)
device = made(cuda.cudaMalloc, ctypes.c_size_t(SIZE))
pinned = made(cuda.cudaHostAlloc, ctypes.c_size_t(SIZE), 0)
answer = made(cuda.cudaHostAlloc, ctypes.c_size_t(SIZE), 0)
ctypes.memset(pinned, 7, SIZE)
trace.clear()
"""
END = """
counts = dataclasses.asdict(trace.counted(trace.take()))
print(json.dumps({"said": said, "counts": counts}))
"""


def play(script: str) -> tuple[Any, dict[str, Any]]:
    """What a program has kept in ``said``, and what it has called."""
    try:
        found = json.loads(run_inside("-c", BEGIN + script + END))
    except UnbuiltError as error:
        pytest.skip(f"no stand-in for CUDA: {error}")
    return found["said"], found["counts"]


def test_an_answer_is_there_once_it_was_waited_for() -> None:
    said, counts = play("""
said = [copy(device, pinned, TO_DEVICE), copy(answer, device, TO_HOST)]
said.append(set(values(answer)) == {7})
cuda.cudaStreamSynchronize(stream)
said.append(set(values(answer)) == {7})
""")
    assert said == [0, 0, False, True]
    assert (counts["h2d"], counts["d2h"], counts["waits"]) == (1, 1, 1)
    assert (counts["pageable"], counts["races"], counts["streams"]) == (0, 0, 1)
    assert counts["copies"] == [64]


def test_who_writes_over_what_is_still_to_be_copied_is_found_out() -> None:
    _, counts = play("""
said = copy(device, pinned, TO_DEVICE)
ctypes.memset(pinned, 8, SIZE)
cuda.cudaStreamSynchronize(stream)
""")
    assert counts["races"] == 1


def test_an_event_waits_for_what_was_before_it_and_no_more() -> None:
    said, counts = play("""
later = made(cuda.cudaHostAlloc, ctypes.c_size_t(SIZE), 0)
event = made(cuda.cudaEventCreateWithFlags, 2)
trace.clear()
copy(device, pinned, TO_DEVICE)
copy(answer, device, TO_HOST)
cuda.cudaEventRecord(event, stream)
copy(later, device, TO_HOST)
cuda.cudaEventSynchronize(event)
said = [set(values(answer)) == {7}, set(values(later)) == {7}]
""")
    assert said == [True, False]
    assert counts["waits"] == 1


def test_a_copy_of_pageable_memory_waits() -> None:
    said, counts = play("""
pageable = ctypes.create_string_buffer(b"9" * SIZE, SIZE)
said = copy(device, pageable, TO_DEVICE)
cuda.cudaMemcpy(pinned, device, ctypes.c_size_t(SIZE), TO_HOST)
""")
    assert said == 0
    assert (counts["pageable"], counts["waits"], counts["h2d"], counts["d2h"]) == (1, 1, 1, 1)


def test_copies_of_a_recording_are_done_when_it_is_launched() -> None:
    """Two recordings on one stream, each with its own nodes."""
    said, counts = play("""
graphs = []
for _ in range(2):
    cuda.cudaStreamBeginCapture(stream, 0)
    copy(device, pinned, TO_DEVICE)
    copy(answer, device, TO_HOST)
    graph = made(lambda at: cuda.cudaStreamEndCapture(stream, at))
    graphs.append(made(cuda.cudaGraphInstantiate, graph, ctypes.c_uint64(0)))
before = trace.counted(trace.take())
trace.clear()
for graph in graphs:
    cuda.cudaGraphLaunch(graph, stream)
cuda.cudaStreamSynchronize(stream)
said = [before.h2d, before.recorded, len(before.illegal), set(values(answer)) == {7}]
""")
    assert said == [0, 2, 0, True]
    assert (counts["graph_launches"], counts["graph_nodes"]) == (2, 4)
    assert (counts["h2d"], counts["d2h"], counts["waits"]) == (2, 2, 1)


REFUSED = (
    "cuda.cudaStreamSynchronize(stream)",
    "cuda.cudaDeviceSynchronize()",
    "cuda.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(64))",
    "cuda.cudaHostAlloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(64), 0)",
    "cuda.cudaFree(device)",
    "cuda.cudaMemcpy(answer, device, ctypes.c_size_t(64), TO_HOST)",
    "copy(device, ctypes.create_string_buffer(SIZE), TO_DEVICE)",
)


def test_what_must_not_be_done_while_recording() -> None:
    calls = "".join(f"\nsaid.append({call})" for call in REFUSED)
    said, counts = play(f"said = []\ncuda.cudaStreamBeginCapture(stream, 0){calls}\n")
    assert said == [900] * len(REFUSED)
    assert len(counts["illegal"]) == len(REFUSED)
    names = [call.partition("(")[0].removeprefix("cuda.") for call in REFUSED]
    for name, illegal in zip(names, counts["illegal"], strict=True):
        assert ("cudaMemcpyAsync" if name == "copy" else name) in illegal


def test_work_beside_a_recording_is_not_in_it() -> None:
    _, counts = play("""
other = made(cuda.cudaStreamCreateWithFlags, NON_BLOCKING)
cuda.cudaStreamBeginCapture(stream, 0)
said = cuda.cudaMemcpyAsync(device, pinned, ctypes.c_size_t(SIZE), TO_DEVICE, other)
""")
    assert len(counts["illegal"]) == 1
    assert "ESCAPED" in counts["illegal"][0]


def test_a_copy_must_stay_inside_its_memory_and_go_where_it_says() -> None:
    said, counts = play("""
said = [copy(device, pinned, TO_DEVICE, 4097), copy(device, pinned, TO_HOST)]
""")
    assert said == [1, 1]
    assert len(counts["illegal"]) == 2


def test_a_device_that_has_failed_stays_so() -> None:
    """The server's own runner says that it is lost, and no sooner."""
    said, _ = play("""
import contextlib, io, numpy as np
from models.compile.arena import compile_model
from service.engine.execution.cuda.runner import CudaRunner
from tests.recurrent import char_case
from tests.standin.scenes import GPU
with contextlib.redirect_stdout(io.StringIO()):
    graph = compile_model(char_case().model, device="cuda")
    runner = CudaRunner(graph, slots=9, max_batch=4, place=GPU)
def step():
    one = np.ones(1, np.int64)
    return runner.step(
        read=one, write=one, fresh=one.astype(bool), inputs=one[:, None], lengths=one,
        every_step=True,
    )
step()
said = [runner.is_lost(RuntimeError("something"))]
trace.fail(700)
try:
    step()
except Exception as error:
    said += [str(error), runner.is_lost(error)]
""")
    assert said[0] is False
    assert "700" in said[1]
    assert said[2] is True


def test_a_model_without_states_makes_no_handles_for_those_who_ask() -> None:
    said, counts = play("""
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
import numpy as np
from models.compile.stateless import compile_stateless
from service.engine.execution.runtime import Place
from service.engine.execution.stateless import StatelessRunner
from tests.foreign import whole_lookup
graph = compile_stateless(whole_lookup(7, 7))
runner = StatelessRunner(graph, place=Place("cuda"), isolated=True)
runner.predict([np.zeros(5, np.int64)])
trace.clear()
together = Barrier(4)
def ask(_):
    together.wait()
    return len(runner.predict([np.zeros(5, np.int64)]))
with ThreadPoolExecutor(4) as callers:
    said = list(callers.map(ask, range(4)))
""")
    assert said == [1, 1, 1, 1]
    assert counts["handles"] == 0
