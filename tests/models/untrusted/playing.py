"""Has a server's loader load bad model files, and judges what becomes of them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from models.errors import ModelError
from models.repository import ModelRepository
from service.engine.engine import Engine
from service.engine.execution.runtime import CPU
from service.loading import Loader
from service.metrics import Metrics
from service.settings import Settings
from tests.models.untrusted.mutations import OUTSIDE, Bad, mutated
from tests.recurrent import char_case, series_case, whole_case
from tests.service.foreign import MANIFEST, publish_foreign

LIMIT_S = 10.0
MEMORY = 2**30
_MOST_GROWN = 2 * 2**30


@dataclass(slots=True)
class Found:
    """What became of the files."""

    served: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By the beginning of how they were made."""
    in_trial: Counter[str] = field(default_factory=Counter)
    """Those that only the trial stopped, by what became of it."""
    reasons: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def sound_models(folder: Path) -> list[onnx.ModelProto]:
    """Models to make bad ones of, each with its manifest."""
    found = []
    for case in (char_case("gru"), series_case(), whole_case()):
        case.manifest.embed(case.model.proto)
        found.append(case.model.proto)
    foreign = onnx.load_model(str(publish_foreign(folder, "seed")))
    MANIFEST.embed(foreign)
    return [*found, foreign, foreign]


def play(root: Path, *, seed: int, first: int, count: int) -> Found:
    """Write so many bad files, those of a seed from one on, and have them loaded."""
    root.mkdir(parents=True)
    sound = sound_models(root / "seeds")
    (root / OUTSIDE).mkdir()
    (root / OUTSIDE / "secret").write_bytes(os.urandom(2**16))
    models = root / "models"
    publish_foreign(models, "sound")
    bad: dict[str, Bad] = {}
    for number in range(first, first + count):
        dice = random.Random(f"{seed}:{number}")
        name = f"m{number}"
        bad[name] = mutated(dice.choice(sound), dice)
        write(models / name / "1", bad[name], root)
    found = Found()
    before = _resident()
    served, reasons, found.slowest_s = asyncio.run(_loaded(models))
    if _resident() - before > _MOST_GROWN:
        found.wrong.append(f"{seed}:{first}+{count}: memory grew by {_resident() - before:,} bytes")
    for name, one in bad.items():
        told = f"--seed {seed} --case {name[1:]}: {one.how!r}"
        reason = reasons.get(name)
        if name in served:
            found.served += 1
            if one.is_refused:
                found.wrong.append(f"{told}: it is served")
        elif reason is None:
            found.wrong.append(f"{told}: nobody has said a word of it")
        else:
            found.refused[one.how.partition(":")[0]] += 1
            if not reason.isprintable() or len(reason) > 1200 or "Traceback" in reason:
                found.wrong.append(f"{told}: no clear line: {reason[:300]!r}")
            if "the runtime" in reason:
                found.in_trial[f"{one.how} {reason.partition('the runtime ')[2][:30]}"] += 1
            found.reasons.append(f"{told}: {reason}")
    if "sound" not in served:
        found.wrong.append(f"{seed}:{first}+{count}: a sound one is not served")
    return found


def write(folder: Path, bad: Bad, root: Path) -> None:
    """Lay a model's files into a folder, with the links that lead out of it."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bad.model)
    if bad.sidecar is not None:
        (folder / "manifest.json").write_bytes(bad.sidecar)
    if bad.files:
        for name, data in bad.files.items():
            (folder / name).write_bytes(data)
        (folder / "link").symlink_to(root / OUTSIDE / "secret")
        (folder / "folder").symlink_to(root / OUTSIDE)
        os.mkfifo(folder / "pipe")


async def _loaded(models: Path) -> tuple[set[str], dict[str, str], float]:
    """Who is served, and why the others are not, and how long the longest took."""
    settings = Settings.model_validate(
        {
            "models": models,
            "max_sessions": 8,
            "spare_slots": 64,
            "max_paths": 8,
            "default_paths": 8,
            "max_batch": 16,
            "load_timeout_s": LIMIT_S,
            "load_memory": MEMORY,
            "max_model_bytes": 2**26,
            "shards": 1,
        }
    )
    engine = Engine(settings, Metrics())
    with ThreadPoolExecutor(max_workers=1) as executor:
        loader = Loader(engine, settings, (CPU,), executor)
        began = time.monotonic()
        try:
            await loader.load(ModelRepository(models, most_bytes=settings.max_model_bytes))
        except ModelError as error:
            return set(), {"none": str(error)}, 0.0
        finally:
            lasted = time.monotonic() - began
            engine.stop()
    reasons = {one.name: one.reason for one in engine.registry.unavailable()}
    return {one.name for one in engine.registry.all()}, reasons, lasted


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
