"""Whether the time that an answer takes tells that another has an id: `python -m tests.e2e.access.timing`.

Calls on an id that another has and on two that nobody has take turns, in a new order each round. How
far apart the medians of the two are that nobody has, in samples drawn again and again, is what is no
difference. It wants a machine that does nothing else.
"""  # noqa: E501

from __future__ import annotations

import argparse
import queue
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from cellar.v1 import session_pb2 as pb
from cellar.v1 import session_pb2_grpc
from cellar.v1.values_pb2 import Inputs
from service.auth.principal import Role
from tests.e2e.process import running
from tests.recurrent import char_case, write_repository
from tests.service.auth.tokens import Tokens, bearer

ABSENT = "nobody-has-an-id", "nobody-has-one--"
FOREIGN = {"open": "alice-has-it----", "stored": "alice-has-kept--", "stranded": "alice-lost-model"}
_DRAWN = 2000


@contextmanager
def asked_on_a_stream(stub: Any, metadata: Any) -> Iterator[Callable[[str], None]]:
    """Attaches ids to a stream that goes on."""
    outgoing: queue.SimpleQueue[pb.StreamRequest | None] = queue.SimpleQueue()
    answers = stub.Stream(iter(outgoing.get, None), metadata=metadata)
    outgoing.put(pb.StreamRequest(start=pb.StreamStart(model="letters")))
    next(answers)

    def attach(name: str) -> None:
        message = pb.StreamAttach(session_ids=[name], channels=[1])
        outgoing.put(pb.StreamRequest(attach=message))
        (error,) = next(answers).attached.errors
        assert error.reason == "SESSION_UNKNOWN"

    yield attach
    outgoing.put(None)


def refused(call: Callable[..., Any], request: Any, metadata: Any) -> None:
    """A call that is to be refused."""
    code = grpc.StatusCode.OK
    try:
        call(request, metadata=metadata)
    except grpc.RpcError as error:
        code = error.code()
    assert code is grpc.StatusCode.NOT_FOUND


def measure(ask: Callable[[str], None], names: tuple[str, ...], rounds: int) -> np.ndarray:
    """Seconds of each call, (rounds, names)."""
    seconds, order = np.empty((rounds, len(names))), list(range(len(names)))
    for row in range(-rounds // 10, rounds):  # the first ones warm up
        random.shuffle(order)
        for column in order:
            began = time.perf_counter()
            ask(names[column])
            seconds[max(row, 0), column] = time.perf_counter() - began
    return seconds


def judge(what: str, seconds: np.ndarray) -> bool:
    """Print what was found; whether the foreign id is told from none by nothing."""
    chance = np.random.default_rng(1)
    drawn = seconds[chance.integers(0, len(seconds), (_DRAWN, len(seconds)))]
    medians = np.median(drawn, axis=1)
    noise_us = 1e6 * np.quantile(np.abs(medians[:, 1] - medians[:, 2]), 0.975)
    foreign, first, second = 1e6 * np.median(seconds, axis=0)
    apart = abs(foreign - (first + second) / 2)
    print(
        f"{what:20} foreign {foreign:7.1f} µs   absent {first:7.1f} and {second:7.1f} µs   "
        f"apart {apart:5.2f} µs; two absent ones {noise_us:5.2f} µs (97.5 %)",
        flush=True,
    )
    return bool(apart <= noise_us)


def main() -> int:
    """Measure all; status 1 where something tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    rounds, is_quiet = parser.parse_args().rounds, True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = write_repository(
            folder / "models", char_case(), char_case(seed=3, name="fleeting")
        )
        tokens = Tokens(folder / "tokens.json")
        alice, bob = (bearer(tokens.add(who, Role.STEP)) for who in ("alice", "bob"))
        flags = (f"--tokens={tokens.path}", f"--store=lmdb:{folder / 'store'}")
        with running(models, *flags) as server, grpc.insecure_channel(server.address) as channel:
            stub: Any = session_pb2_grpc.SessionServiceStub(channel)
            for state, model in (("stored", "letters"), ("stranded", "fleeting")):
                request = pb.OpenSessionRequest(model=model, session_id=FOREIGN[state])
                stub.OpenSession(request, metadata=alice)
            server.terminate()
            server.wait()
        shutil.rmtree(models / "fleeting")
        with running(models, *flags) as server, grpc.insecure_channel(server.address) as channel:
            stub = session_pb2_grpc.SessionServiceStub(channel)
            request = pb.OpenSessionRequest(model="letters", session_id=FOREIGN["open"])
            stub.OpenSession(request, metadata=alice)
            with asked_on_a_stream(stub, bob) as attach:
                ways: dict[str, Callable[[str], None]] = {
                    "GetSession": lambda name: refused(
                        stub.GetSession, pb.GetSessionRequest(session_id=name), bob
                    ),
                    "Step": lambda name: refused(
                        stub.Step, pb.StepRequest(session_id=name, inputs=Inputs(text="x")), bob
                    ),
                    "attach": attach,
                }
                for state, foreign in FOREIGN.items():
                    for what, ask in ways.items():
                        seconds = measure(ask, (foreign, *ABSENT), rounds)
                        is_quiet &= judge(f"{what}, {state}", seconds)
    print("nothing tells" if is_quiet else "SOMETHING TELLS, or the machine is busy")
    return 0 if is_quiet else 1


if __name__ == "__main__":
    raise SystemExit(main())
