"""What a training run is about: data, a network, a loss and scores, for each kind of task.

The fitting loop knows only `Task`; a new kind of task is a new subclass.
"""

import math
from abc import ABC, abstractmethod
from pathlib import Path

import onnx
import torch
from rich.table import Table
from torch import Tensor, nn

from models.manifest import Manifest
from training.config import TrainingConfig
from training.networks import RecurrentNetwork, State
from training.sections import Note, Section
from training.streams import Streams


class Task(ABC):
    """Data prepared for one network."""

    config: TrainingConfig
    network: RecurrentNetwork
    streams: Streams
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

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """The final scores of the network, for the manifest."""

    @abstractmethod
    def score_table(self, scores: dict[str, float]) -> Table:
        """The scores for people, beside what they compare with."""

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
    def held_out(self) -> Tensor:
        """Inputs to check an export on, ``(1, time + 1, …)``: the last step is only a target."""

    @abstractmethod
    def nats(self, prediction: Tensor, inputs: Tensor) -> float:
        """Mean loss of predictions ``(1, time, width)`` for inputs ``(1, time + 1, …)``."""
