"""A run's folder: settings, metrics, samples, report and the checkpoint to resume from."""

import io
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import torch

from training.errors import RunError
from training.families.parsing import AnyConfig, read_config, write_config
from training.families.task import Task
from training.run.files.storage import reason_of

KEPT_MODEL = "model.onnx"
"""The file of a model that was not published."""
REPORT = "report.html"
CHECKPOINT = "checkpoint.pt"
CHECKPOINT_FORMAT = 3


def numbered_folder(parent: Path, name: str) -> Path:
    """Make the next free folder ``<parent>/<name>-<number>``."""
    number = 1
    while True:
        path = parent / f"{name}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        return path


Checkpoint: TypeAlias = dict[str, Any]
"""What `Loop.checkpoint` returned: tensors, numbers and words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run ended with."""

    model: str | None
    """The name and version it published; None: its model was kept back."""
    best_step: int
    """The step whose weights it is of."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Files of one training run."""

    path: Path

    @classmethod
    def create(cls, config: AnyConfig, checkpoint: Checkpoint) -> "RunFolder":
        """Make the next free folder ``<runs>/<name>-<number>`` with settings and a checkpoint.

        Where these cannot be written, no folder is left.
        """
        folder = cls(numbered_folder(config.runs, config.name))
        try:
            folder.write("config.json", write_config(config.anchored()).encode())
            folder.save_checkpoint(checkpoint)
        except OSError:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        return folder

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / REPORT

    def config(self) -> AnyConfig:
        """The settings of the run.

        Raises:
            RunError: this is no run folder.
        """
        file = self.path / "config.json"
        try:
            text = file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(f"{self.path}: no run folder: it has no config.json") from error
        except OSError as error:
            raise RunError(f"{file}: cannot be read: {reason_of(error)}") from error
        except UnicodeDecodeError as error:
            raise RunError(f"{file}: damaged: it is no text") from error
        return read_config(text, where=str(file))

    def write(self, name: str, data: bytes) -> Path:
        """Write a file: whole or not at all, even if the machine stops in the middle."""
        target = self.path / name
        staging = self.path / f".{name}.{os.getpid()}"
        try:
            with staging.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staging, target)
        except OSError as error:
            raise OSError(error.errno, reason_of(error), str(target)) from error
        finally:
            with suppress(OSError):
                staging.unlink(missing_ok=True)
        return target

    def write_model(self, proto: onnx.ModelProto) -> Path:
        """Keep a model that is not published."""
        return self.write(KEPT_MODEL, proto.SerializeToString())

    def drop_model(self) -> None:
        """Remove a model that was kept before a better one was published."""
        (self.path / KEPT_MODEL).unlink(missing_ok=True)

    def write_json(self, name: str, content: Any) -> Path:
        """Write a JSON file."""
        return self.write(name, (json.dumps(content, indent=2) + "\n").encode())

    def write_history(self, records: list[dict[str, float]]) -> None:
        """Write the metrics of the whole run so far, one JSON object a line."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        self.write("metrics.jsonl", lines.encode())

    def history(self) -> list[dict[str, float]]:
        """The metrics that `write_history` wrote."""
        lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def outcome(self) -> Outcome | None:
        """What this run ended with; None while it has not.

        Raises:
            RunError: its metrics.json is damaged.
        """
        file = self.path / "metrics.json"
        if not file.is_file():
            return None
        try:
            metrics = json.loads(file.read_text(encoding="utf-8"))
            return Outcome(model=metrics["model"], best_step=metrics["best_step"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file}: damaged: remove it, and the run can be resumed") from error

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write what `load_checkpoint` returns."""
        buffer = io.BytesIO()
        torch.save({"format": CHECKPOINT_FORMAT, **checkpoint}, buffer)
        self.write(CHECKPOINT, buffer.getvalue())

    def load_checkpoint(self) -> Checkpoint:
        """Read the checkpoint; tensors come to the CPU.

        Raises:
            RunError: there is none, or it is not readable.
        """
        file = self.path / CHECKPOINT
        if not file.is_file():
            raise RunError(
                f"{self.path}: no {CHECKPOINT}: the run stopped before its first one; train anew"
            )
        try:
            checkpoint: Checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a broken file
            raise RunError(f"{file}: not a readable checkpoint: {error}") from error
        if checkpoint.get("format") != CHECKPOINT_FORMAT:
            raise RunError(f"{file}: made by another version of Cellar; train anew")
        return checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """What a call of `train` or `resume` left behind."""

    folder: Path
    task: Task
    steps: int
    total_steps: int | None
    finished: bool
    """False when it was stopped: `resume` the folder to go on."""
    scores: dict[str, float]
    model: Path | None
    """The published file, when finished and not kept back."""
    kept: Path | None = None
    """The file of a finished model that was not published, being no better than a baseline."""
