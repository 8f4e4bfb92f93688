"""A run's folder: settings, metrics, samples, report and the checkpoint to resume from."""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.errors import RunError
from training.families.parsing import AnyConfig, read_config, write_config
from training.families.task import Task

CHECKPOINT_FORMAT = 2


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


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Files of one training run."""

    path: Path

    @classmethod
    def create(cls, config: AnyConfig) -> "RunFolder":
        """Make the next free folder ``<runs>/<name>-<number>`` and write the settings into it."""
        folder = cls(numbered_folder(config.runs, config.name))
        folder.write("config.json", write_config(config.anchored()).encode())
        return folder

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    def config(self) -> AnyConfig:
        """The settings of the run.

        Raises:
            RunError: this is no run folder.
        """
        file = self.path / "config.json"
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self.path}: no run folder: it has no config.json") from error
        return read_config(text, where=str(file))

    def write(self, name: str, data: bytes) -> Path:
        """Write a file: whole or not at all, even if the machine stops in the middle."""
        target = self.path / name
        staging = self.path / f".{name}.{os.getpid()}"
        with staging.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, target)
        return target

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

    def published(self) -> str | None:
        """The model that this run ended with; None while it has not."""
        file = self.path / "metrics.json"
        if not file.is_file():
            return None
        return str(json.loads(file.read_text(encoding="utf-8"))["model"])

    def save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what `load_checkpoint` returns."""
        buffer = io.BytesIO()
        torch.save({"format": CHECKPOINT_FORMAT, **checkpoint}, buffer)
        self.write("checkpoint.pt", buffer.getvalue())

    def load_checkpoint(self) -> dict[str, Any]:
        """Read the checkpoint; tensors come to the CPU.

        Raises:
            RunError: there is none, or it is not readable.
        """
        file = self.path / "checkpoint.pt"
        if not file.is_file():
            raise RunError(f"{self.path}: no checkpoint.pt: the run stopped before its first one")
        try:
            checkpoint: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
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
    """The published file, when finished."""
