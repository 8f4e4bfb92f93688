"""The label of a sequence."""

import csv
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.data.notes import Note
from training.families.classify.network import (
    BidirectionalClassifier,
    Classifier,
    StreamedClassifier,
)
from training.families.classify.prepared import Batch, ClassifyData
from training.families.classify.scores import (
    Judged,
    by_label,
    confusion_matrix,
    confusions,
    progress,
    verdict,
)
from training.families.classify.settings import ClassifyConfig
from training.families.meaning import Meaning
from training.families.reading_order import Shuffled
from training.families.task import HeldOut, Task
from training.networks.recurrent import State
from training.reports.numbers import percent
from training.reports.sections import Section

SCORED_AT_ONCE = 256
PARITY_SEQUENCES = 64


class ClassifyTask(Task):
    """Say which label a sequence has; at every step, if it is read one way."""

    config: ClassifyConfig
    network: Classifier
    unit = "sequences"
    loss_name = "nats per sequence"
    default_budget_s = 60.0
    most_epochs = 120.0

    def __init__(self, config: ClassifyConfig) -> None:
        """Read the sequences and build the network.

        Raises:
            DataError: they cannot be used.
        """
        self.config = config
        self.data = ClassifyData(config)
        self.source, self.sha256 = self.data.source, self.data.sha256
        self.tested = self.source if config.test is None else config.test.name
        self.network = _network(config, self.data)
        self._train = torch.from_numpy(self.data.split.train)
        self._validation = torch.from_numpy(self.data.split.validation)
        self._test = torch.from_numpy(self.data.split.test)
        self._sequences = self.data.sequences
        self.streams = Shuffled(count=len(self._train), batch=config.batch, seed=config.seed)

    def meaning(self) -> Meaning:
        """Labels, and symbols or columns, in the order of their numbers."""
        return self.data.meaning()

    def adopt(self, meaning: Meaning, *, of: str) -> None:
        """Number labels and symbols as another network does.

        Raises:
            DataError: there are labels that it does not know, or other columns.
        """
        if meaning == self.meaning():
            return
        self.data.adopt(meaning, of=of)
        self.network = _network(self.config, self.data)
        self._sequences = self.data.sequences

    def shortfall(self, scores: dict[str, float]) -> str | None:
        """Always saying the commonest label."""
        own, blind = scores["accuracy"], scores["commonest.accuracy"]
        if own >= blind:
            return None
        return (
            f"it is right for {percent(own)}, always saying the commonest label for "
            f"{percent(blind)}"
        )

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was done to the sequences."""
        return self.data.notes

    def to(self, device: torch.device) -> None:
        """Move the sequences to a device."""
        self._sequences = self._sequences.to(device)

    def training_state(self, batch: int) -> State:  # noqa: ARG002
        """Nothing: every sequence begins anew."""
        return ()

    def loss(self, model: nn.Module, index: Tensor, state: State) -> tuple[Tensor, State]:
        """Cross-entropy of the label: at the last step and, to a share, on the way there."""
        batch = self._sequences.batch(self._train[index])
        logits = self._logits(model, batch)
        if logits.ndim == 2:
            return cross_entropy(logits, batch.targets), state
        rows, time, _ = logits.shape
        targets = batch.targets[:, None].expand(rows, time)
        every = cross_entropy(logits.transpose(1, 2), targets, reduction="none")  # (rows, time)
        share = batch.valid / batch.lengths[:, None]  # (rows, time): sums to 1 in each row
        on_the_way = (every * share).sum(dim=1)
        loss = torch.lerp(every[batch.last], on_the_way, self.config.early)
        return loss.mean(), state

    @torch.no_grad()
    def validation_loss(self, model: nn.Module) -> float:
        """Mean cross-entropy after whole sequences; of the training part if none is held out."""
        rows = self._validation if len(self._validation) else self._train
        total = 0.0
        for part in rows.split(SCORED_AT_ONCE):
            batch = self._sequences.batch(part)
            total += float(cross_entropy(self._final(model, batch), batch.targets, reduction="sum"))
        return total / len(rows)

    def scores(self) -> dict[str, float]:
        """Scores on the test part, and those of always saying the commonest label."""
        return self.judge().scores

    @torch.no_grad()
    def judge(self) -> Judged:
        """What the network says of every test sequence."""
        finals, curves = [], []
        for part in self._test.split(SCORED_AT_ONCE):
            batch = self._sequences.batch(part)
            logits = self._logits(self.network, batch)
            finals.append(logits if logits.ndim == 2 else logits[batch.last])
            if logits.ndim == 3:
                curves.append((logits.argmax(dim=-1), batch.lengths))
        return Judged(
            labels=self.data.labels,
            logits=torch.cat(finals).double().cpu(),
            targets=self._sequences.targets[self._test.to(self._sequences.targets.device)].cpu(),
            commonest=int(self.data.sequences.targets[self._train].mode().values),
            so_far=tuple((said.cpu(), lengths.cpu()) for said, lengths in curves),
        )

    def score_table(self, scores: dict[str, float]) -> Table:
        """The scores beside what needs no network."""
        table = Table(title=f"labels of {len(self._test):,} held-out sequences of {self.tested}")
        for column in ("who", "accuracy", "among its first 3", "nats"):
            table.add_column(column, justify="left" if column == "who" else "right")
        table.add_row(
            "this network",
            percent(scores["accuracy"], digits=2),
            percent(scores["top3_accuracy"], digits=2),
            f"{scores['nats']:.4f}",
        )
        blind = percent(scores["commonest.accuracy"], digits=2)
        table.add_row("always the commonest label", blind, "–", "–")
        table.caption = verdict(scores)
        return table

    def sections(self) -> list[Section]:
        """What is taken for what, each label's scores, and how soon the label is known."""
        judged = self.judge()
        sections = [
            Section(
                title="What is taken for what",
                text="Each row of the figure is the sequences of one label, by what the network "
                "said; what is right lies on the diagonal.",
                pictures=(confusion_matrix(judged),),
                table=found if (found := confusions(judged)).rows else None,
            ),
            Section(
                title="Label by label",
                text="Precision: how often it is right when it says so. Recall: how many of the "
                "label's sequences it finds.",
                table=by_label(judged),
            ),
        ]
        if judged.so_far:
            sections.append(
                Section(
                    title="How soon the label is known",
                    text="Accuracy of the label so far, by the number of steps read; sequences "
                    "that are over count with their last one.",
                    pictures=(progress(judged),),
                )
            )
        return sections

    def write_samples(self, folder: Path) -> Path:
        """Write what the network says of each test sequence."""
        path = folder / "predictions.csv"
        judged = self.judge()
        chances = torch.softmax(judged.logits, dim=-1)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["place", "label", "predicted", "probability"])
            for row, chance in zip(self._test.tolist(), chances, strict=True):
                example, said = self.data.examples[row], int(chance.argmax())
                probability = f"{float(chance[said]):.4f}"
                writer.writerow([example.place, example.label, self.data.labels[said], probability])
        return path

    def held_out(self) -> HeldOut:
        """The first test sequences."""
        batch = self.data.sequences.batch(self._test[:PARITY_SEQUENCES])
        return HeldOut(steps=batch.x, targets=batch.targets, lengths=batch.lengths)

    def nats(self, prediction: Tensor, held_out: HeldOut) -> float:
        """Mean cross-entropy of the label after whole sequences."""
        if prediction.ndim == 3:
            rows = torch.arange(len(prediction))
            prediction = prediction[rows, held_out.row_lengths - 1]
        return float(cross_entropy(prediction.double(), held_out.targets))

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(rows, time, labels); or (rows, labels) where whole sequences are read."""
        if isinstance(self.network, BidirectionalClassifier):
            whole: Tensor = model(batch.x, batch.lengths)
            return whole
        logits: Tensor = model(batch.x, self.network.initial_state(len(batch.x)))[0]
        return logits

    def _final(self, model: nn.Module, batch: Batch) -> Tensor:
        """(rows, labels), after whole sequences."""
        logits = self._logits(model, batch)
        return logits if logits.ndim == 2 else logits[batch.last]


def _network(config: ClassifyConfig, data: ClassifyData) -> Classifier:
    encoder = data.encoder(config)
    settings: dict[str, Any] = {
        "labels": data.labels,
        "cell": config.cell,
        "layers": config.layers,
        "hidden": config.hidden,
        "dropout": config.dropout,
        "nonlinearity": config.nonlinearity,
    }
    if config.bidirectional:
        return BidirectionalClassifier(encoder, **settings, merge=config.merge)
    return StreamedClassifier(encoder, **settings, learns_initial=config.learn_initial_state)
