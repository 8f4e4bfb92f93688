"""The next character of a text."""

from pathlib import Path

import onnx
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.manifest import Manifest
from training.config import CharConfig
from training.data.stdlib import read_stdlib
from training.data.text import read_texts, split
from training.evaluate import carried, cold256
from training.networks import CharNetwork, State
from training.quantised import SCORE, int8_nats_cost
from training.streams import Streams
from training.tasks import Task

VALIDATION_WINDOWS = 48
SAMPLE_CHARACTERS = 600
SAMPLE_TEMPERATURE = 0.8
PARITY_STEPS = 512


class CharTask(Task):
    """Predict each character of a text from those before it."""

    config: CharConfig
    network: CharNetwork
    unit = "characters"
    loss_name = "nats per character"
    default_budget_s = 120.0

    def __init__(self, config: CharConfig) -> None:
        """Read the text and build the network.

        Raises:
            DataError: the text cannot be used.
        """
        if config.stdlib:
            text = read_stdlib(limit_characters=config.limit_characters)
        else:
            text = read_texts(config.text, limit_characters=config.limit_characters)
        self.config = config
        self.corpus = split(text, window=config.window)
        self.source, self.sha256 = self.corpus.source, self.corpus.sha256
        self.network = CharNetwork(
            vocabulary=self.corpus.vocabulary,
            cell=config.cell,
            layers=config.layers,
            hidden=config.hidden,
            embedding=config.embedding,
            dropout=config.dropout,
        )
        self.streams = Streams(
            length=len(self.corpus.train) - 1,
            batch=config.batch,
            window=config.window,
            seed=config.seed,
        )
        self._train = self.corpus.train
        self._validation = self.corpus.validation

    def to(self, device: torch.device) -> None:
        """Move the text to a device."""
        self._train = self._train.to(device)
        self._validation = self._validation.to(device)

    def training_state(self, batch: int) -> State:
        """The network's initial state."""
        return self.network.initial_state(batch)

    def loss(self, model: nn.Module, index: Tensor, state: State) -> tuple[Tensor, State]:
        """Cross-entropy of the next character."""
        index = index.to(self._train.device)
        logits, state = model(self._train[index], state)
        return cross_entropy(logits.flatten(0, 1), self._train[index + 1].flatten()), state

    def validation_loss(self, model: nn.Module) -> float:
        """`cold256` over a few windows."""
        return cold256(
            model, self.network.initial_state, self._validation, windows=VALIDATION_WINDOWS
        )

    def scores(self) -> dict[str, float]:
        """`cold256` and `carried` over the held-out tenth, in float32."""
        initial = self.network.initial_state
        return {
            "cold256": cold256(self.network, initial, self._validation),
            "carried": carried(self.network, initial, self._validation),
        }

    def score_table(self, scores: dict[str, float]) -> Table:
        """Both scores, in nats."""
        table = Table(title=f"nats per character on the held-out tenth of {self.source}")
        table.add_column("protocol")
        table.add_column("nats", justify="right")
        table.add_row("cold256: windows of 256 from the initial state", f"{scores['cold256']:.4f}")
        table.add_row("carried: one pass, state carried", f"{scores['carried']:.4f}")
        return table

    def exported_scores(self, proto: onnx.ModelProto, manifest: Manifest) -> dict[str, float]:
        """What serving in int8 would cost."""
        return {SCORE: int8_nats_cost(self.corpus.validation, proto, manifest)}

    def write_samples(self, folder: Path) -> Path:
        """Write text that the network generates."""
        path = folder / "sample.txt"
        path.write_text(self.generate(SAMPLE_CHARACTERS), encoding="utf-8")
        return path

    @torch.no_grad()
    def generate(self, count: int) -> str:
        """Draw ``count`` characters, starting after a line end (or the text's first character)."""
        vocabulary = self.network.vocabulary
        device = self._train.device
        token = vocabulary.index("\n") if "\n" in vocabulary else int(self._train[0])
        draws = torch.Generator().manual_seed(self.config.seed)
        state = self.network.initial_state(1)
        drawn: list[str] = []
        for _ in range(count):
            logits, state = self.network(torch.tensor([[token]], device=device), state)
            chances = torch.softmax(logits[0, 0].cpu() / SAMPLE_TEMPERATURE, dim=-1)
            token = int(torch.multinomial(chances, 1, generator=draws))
            drawn.append(vocabulary[token])
        return "".join(drawn)

    def held_out(self) -> Tensor:
        """The head of the validation text."""
        return self.corpus.validation[: PARITY_STEPS + 1].unsqueeze(0)

    def nats(self, prediction: Tensor, inputs: Tensor) -> float:
        """Mean cross-entropy of the next character."""
        return float(cross_entropy(prediction[0].double(), inputs[0, 1:]))
