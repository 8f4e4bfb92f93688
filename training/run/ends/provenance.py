"""How a model came to be, in words that give away nothing of the machine it was made on."""

import platform
import shlex
from datetime import UTC, datetime
from importlib import metadata

from models.manifest import Provenance
from training.families.parsing import AnyConfig
from training.run.steps.loop import Loop
from training.settings import flag_of


def command_of(config: AnyConfig) -> str:
    """The command line that repeats a run, with file names only."""
    words = ["cellar-train", config.task]
    defaults = type(config).model_fields
    for name, value in config.public().items():
        default = defaults[name].default
        if name == "task" or value is None or value in (default, str(default)):
            continue
        flag = flag_of(name)
        if value is True:
            words.append(flag)
        elif isinstance(value, list):
            words += [word for item in value for word in (flag, str(item))]
        else:
            words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def provenance_of(config: AnyConfig, loop: Loop) -> Provenance:
    """How the model of a finished loop came to be."""
    further = [f"cellar-train resume RUN {words}" for words in loop.further]
    names = ("torch", "onnx", "onnxruntime", "onnxruntime-gpu")
    packages = {name: metadata.version(name) for name in names if _installed(name)}
    return Provenance(
        command="; ".join([command_of(config), *further]),
        created=datetime.now(UTC).replace(microsecond=0),
        data=loop.task.source,
        data_sha256=loop.task.sha256,
        seed=config.seed,
        steps=loop.step,
        seconds=round(loop.spent_s, 3),
        config=config.public(),
        versions={"python": platform.python_version(), **packages},
    )


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
