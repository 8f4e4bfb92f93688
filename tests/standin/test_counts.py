"""What one batch costs a GPU beside its arithmetic: launches, copies and waits, by head.

Counted over the stand-in, under the real CUDA provider. `python -m tests.standin` prints the table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pytest

from tests.standin.__main__ import MODELS, SIZES, all_scenes
from tests.standin.build import UnbuiltError
from tests.standin.scenes import CHUNK, COPY, DECODE, HEADS, MANY, RECALL

Scenes = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """The most that a batch of any size may call: see `Counts`."""

    launches: int = 0
    graph_launches: int = 0
    h2d: int = 1
    d2h: int = 1
    waits: int = 1
    pageable: int = 0
    allocations: int = 0


ONE_HEAD = Ceiling(graph_launches=2)
"""Of a step and one way of answering: two replays, a copy each way, one wait."""

CEILINGS = {
    ("char", "step"): Ceiling(graph_launches=1, d2h=0),
    ("char", "argmax"): ONE_HEAD,
    ("char", "top-k"): ONE_HEAD,
    ("char", "sample"): ONE_HEAD,
    ("char", "filtered sample"): ONE_HEAD,
    ("char", "raw"): Ceiling(graph_launches=1),
    ("char", MANY): Ceiling(graph_launches=5, d2h=2),
    ("char", CHUNK): Ceiling(graph_launches=2, h2d=2, d2h=0),
    ("char", DECODE): Ceiling(graph_launches=1),
    ("char", RECALL): Ceiling(launches=3, waits=3),
    ("char", COPY): Ceiling(launches=12, d2h=0, waits=2),
    ("series", "step"): Ceiling(graph_launches=1, d2h=0),
    ("series", "quantiles"): ONE_HEAD,
    ("series", "sample"): ONE_HEAD,
    ("series", "raw"): Ceiling(graph_launches=1),
    ("series", MANY): Ceiling(graph_launches=3, d2h=2),
    ("series", CHUNK): Ceiling(graph_launches=2, h2d=2, d2h=0),
    ("series", DECODE): Ceiling(graph_launches=1),
    ("series", RECALL): Ceiling(launches=1, waits=3),
    ("series", COPY): Ceiling(launches=24, d2h=0, waits=2),
}


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    try:
        return all_scenes(times=0)
    except UnbuiltError as error:
        pytest.skip(f"no stand-in for CUDA: {error}")


def test_every_model_size_and_head_was_counted(scenes: Scenes) -> None:
    models = [(f"{kind} {cell}", size) for kind, cell in MODELS for size in SIZES]
    assert [(scene["model"], scene["size"]) for scene in scenes] == models
    for scene in scenes:
        heads = HEADS[scene["model"].split()[0]]
        assert [batch["head"] for batch in scene["batches"]] == list(heads)
        for batch in scene["batches"]:
            # A batch that ran nothing would pass whatever else is asked here.
            counts = batch["counts"]
            assert counts["launches"] + counts["graph_nodes"] > 0


def test_nothing_is_done_that_cuda_would_refuse(scenes: Scenes) -> None:
    """Above all while it records, where a wait or an allocation is an error."""
    assert all(scene["opening"]["recorded"] for scene in scenes)
    for scene in scenes:
        for counts in _all_counts(scene):
            assert counts["illegal"] == []
            assert counts["races"] == 0


def test_the_arena_is_never_copied(scenes: Scenes) -> None:
    """Nor one of its tensors: a row is read and written where it lies."""
    for scene in scenes:
        tensors = scene["arena_bytes"]
        for batch in scene["batches"]:
            for copies in (batch["first"]["copies"], batch["counts"]["copies"]):
                assert copies
                assert max(copies) < tensors[-1]
                assert not set(copies) & set(tensors)


def test_a_batch_calls_no_more_than_it_may(scenes: Scenes) -> None:
    over = []
    for scene in scenes:
        for batch in scene["batches"]:
            ceiling = CEILINGS[scene["model"].split()[0], batch["head"]]
            for name, most in asdict(ceiling).items():
                if (found := batch["counts"][name]) > most:
                    where = f"{batch['model']}, batch {batch['size']}, {batch['head']}"
                    over.append(f"{where}: {found} {name}, and {most} are allowed")
    assert over == []


def _all_counts(scene: dict[str, Any]) -> list[dict[str, Any]]:
    batches = scene["batches"]
    return [scene["opening"], *(batch[name] for batch in batches for name in ("first", "counts"))]
