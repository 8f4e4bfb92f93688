"""What a training run is about: data, a network, a loss and scores, for each kind of task.

The fitting loop knows only `Task`; a new kind of task is a new subclass.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from rich.table import Table
from torch import Tensor, nn

from models.manifest import Manifest
from training.data.notes import Note
from training.families.meaning import Meaning
from training.families.reading_order import ReadingOrder
from training.networks.recurrent import State
from training.reports.sections import Section
from training.settings import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Sequences to check an export on, and what `Task.nats` compares predictions with."""

    steps: Tensor
    """(rows, time, …)"""
    targets: Tensor
    """What follows each step, ``(rows, time, …)``; or a label for each row, ``(rows,)``."""
    lengths: Tensor | None = None
    """(rows,) int64: valid steps per row; None: all."""

    @property
    def row_lengths(self) -> Tensor:
        """Valid steps per row, ``(rows,)`` int64."""
        rows, time = self.steps.shape[:2]
        return torch.full((rows,), time) if self.lengths is None else self.lengths


class Task(ABC):
    """Data prepared for one network."""

    config: TrainingConfig
    network: nn.Module
    streams: ReadingOrder
    unit: str
    """What a step consumes, in the plural: characters, values."""
    loss_name: str
    forward_methods: tuple[str, ...] = ()
    """Methods of the network, besides the call itself, that `loss` uses."""
    default_budget_s: float
    """How long a run trains that says nothing of its length."""
    most_epochs: float = math.inf
    """A budget of time buys no more passes over the data than this."""
    validations: int = 12
    """How often a run is validated."""
    scoring_s: float = math.inf
    """About the most that `scores` may take, of what can be scored in part."""
    source: str
    sha256: str

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move what training reads to a device."""

    @abstractmethod
    def training_state(self, batch: int) -> State:
        """The state that training starts a pass with."""

    @abstractmethod
    def loss(self, model: nn.Module, index: Tensor, state: State) -> tuple[Tensor, State]:
        """Mean loss over a window ``index (batch, window)`` of places in the sequence."""

    @abstractmethod
    def validation_loss(self, model: nn.Module) -> float:
        """Loss on held-out data, cheap enough to be asked for often."""

    def seen_loss(self) -> float | None:
        """`validation_loss` of the network on as much data that it trained on; None: not asked."""
        return None

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """The final scores of the network, for the manifest."""

    @abstractmethod
    def score_table(self, scores: dict[str, float]) -> Table:
        """The scores for people, beside what they compare with."""

    @abstractmethod
    def shortfall(self, scores: dict[str, float]) -> str | None:
        """Which simplest baseline the scores are worse than, in a sentence; None: none."""

    @abstractmethod
    def meaning(self) -> Meaning:
        """What the network's numbers stand for."""

    @abstractmethod
    def adopt(self, meaning: Meaning, *, of: str) -> None:
        """Read the data as the network of the run ``of`` does, and build one like it.

        Its weights are to be loaded afterwards. To be called before anything else is made of the
        task.

        Raises:
            DataError: the data has what that network does not know; the message names it.
        """

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was dropped, filled, merged or found odd in the data."""
        return ()

    def exported_scores(
        self,
        proto: onnx.ModelProto,  # noqa: ARG002
        manifest: Manifest,  # noqa: ARG002
    ) -> dict[str, float]:
        """Scores that only the exported model has."""
        return {}

    def sections(self) -> list[Section]:
        """The task's own parts of the run's report, drawn with the final network."""
        return []

    @abstractmethod
    def write_samples(self, folder: Path) -> Path:
        """Write what the network makes of its own; return the file."""

    @abstractmethod
    def held_out(self) -> HeldOut:
        """Data to check an export on."""

    @abstractmethod
    def nats(self, prediction: Tensor, held_out: HeldOut) -> float:
        """Mean loss of predictions ``(rows, time, width)`` or, of whole rows, ``(rows, width)``."""
