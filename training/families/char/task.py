"""The next character of a text."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.manifest import Manifest
from training.data.notes import Note
from training.data.text.characters import Corpus, read_texts, split
from training.data.text.prompted import read_prompted
from training.data.text.stdlib import read_stdlib
from training.errors import listed
from training.families.char.counting import CountingNats, counting_nats
from training.families.char.evaluation import Patience, carried, cold256
from training.families.char.network import CharNetwork
from training.families.char.quantised import SCORE, int8_nats_cost
from training.families.char.report import samples_section
from training.families.char.report import sections as char_sections
from training.families.char.settings import CharConfig
from training.families.meaning import Meaning, translation
from training.families.reading_order import Streams, Stretch
from training.families.task import HeldOut, Task
from training.networks.recurrent import State
from training.reports.numbers import percent
from training.reports.sections import Section
from training.settings import Nonlinearity

VALIDATION_WINDOWS = 48
SAMPLE_CHARACTERS = 600
SAMPLE_TEMPERATURE = 0.8
REPORTED_CHARACTERS = 300
SHARES = ("cold256.share", "carried.share")
"""Scores that say how much of the text other scores are of, where it is not all."""
TEMPERATURES = (0.3, 0.6, 0.8, 1.0)
PARITY_STEPS = 512


class CharTask(Task):
    """Predict each character of a text from those before it."""

    config: CharConfig
    network: CharNetwork
    unit = "characters"
    loss_name = "nats per character"
    default_budget_s = 180.0

    def __init__(self, config: CharConfig) -> None:
        """Read the text and build the network.

        Raises:
            DataError: the text cannot be used.
        """
        self.config = config
        self.corpus = _read(config)
        self.source, self.sha256 = self.corpus.source, self.corpus.sha256
        self.network = _network(config, self.corpus)
        self.streams = Streams(
            stretches=(Stretch(start=0, length=len(self.corpus.train) - 1),),
            batch=config.batch,
            window=config.window,
            seed=config.seed,
            restart=config.restart,
        )
        self._train = self.corpus.train
        self._validation = self.corpus.validation
        self._in_part = False
        """Whether the last scores are of a part of the text, for want of time."""

    def meaning(self) -> Meaning:
        """The symbols, in the order of their numbers."""
        return {"vocabulary": list(self.network.vocabulary), "unknown": self.network.unknown}

    def adopt(self, meaning: Meaning, *, of: str) -> None:
        """Number the text by another network's vocabulary.

        Raises:
            DataError: it has characters that are not in there.
        """
        if meaning == self.meaning():
            return
        self.corpus = _renumbered(self.corpus, meaning, of=of)
        self.network = _network(self.config, self.corpus)
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

    def seen_loss(self) -> float:
        """`cold256` over as many windows of the training text."""
        return cold256(
            self.network, self.network.initial_state, self._train, windows=VALIDATION_WINDOWS
        )

    def scores(self) -> dict[str, float]:
        """`cold256` and `carried` over the held-out tenth, in float32."""
        initial, tokens = self.network.initial_state, self._validation
        if math.isinf(self.scoring_s):
            return {
                "cold256": cold256(self.network, initial, tokens),
                "carried": carried(self.network, initial, tokens),
            }
        first, second = Patience(self.scoring_s / 2), Patience(self.scoring_s)
        found = {
            "cold256": cold256(self.network, initial, tokens, patience=first),
            "carried": carried(self.network, initial, tokens, patience=second),
        }
        self._in_part = min(first.share, second.share) < 1
        shares = dict(zip(SHARES, (first.share, second.share), strict=True))
        return found | {name: share for name, share in shares.items() if share < 1}

    def score_table(self, scores: dict[str, float]) -> Table:
        """Both scores, in nats."""
        table = Table(title=f"nats per character on the held-out tenth of {self.source}")
        table.add_column("protocol")
        table.add_column("nats", justify="right")
        table.add_row("cold256: windows of 256 from the initial state", f"{scores['cold256']:.4f}")
        table.add_row("carried: one pass, state carried", f"{scores['carried']:.4f}")
        counts = self._counts()
        for name, nats in counts.named.items():
            table.add_row(f"beside it: counting {name}", f"{nats:.4f}", style="dim")
        table.caption = verdict(scores["cold256"], counts)
        shares = [
            f"{percent(scores[key])} for {key.partition('.')[0]}" for key in SHARES if key in scores
        ]
        if shares:
            table.caption += (
                f" The budget was short: scored on a part of that tenth, {', '.join(shares)}; "
                "cellar-train export scores all of it."
            )
        return table

    def shortfall(self, scores: dict[str, float]) -> str | None:
        """Counting characters, or pairs of them."""
        simplest, nats = self._counts().best
        if scores["cold256"] <= nats:
            return None
        return (
            f"it needs {scores['cold256']:.3f} nats per character, counting {simplest} {nats:.3f}"
        )

    def _counts(self) -> CountingNats:
        symbols = len(self.corpus.vocabulary)
        return counting_nats(self.corpus.train, self.corpus.validation, symbols=symbols)

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was done to the text, and what is odd in it."""
        return self.corpus.notes

    def exported_scores(self, proto: onnx.ModelProto, manifest: Manifest) -> dict[str, float]:
        """What serving in int8 would cost."""
        if self.config.nonlinearity is Nonlinearity.RELU:
            return {}  # an h without bound is not served in 8 bits
        return {SCORE: int8_nats_cost(self.corpus.validation, proto, manifest)}

    def sections(self) -> list[Section]:
        """Samples, what memory buys, the hardest characters, coloured text."""
        texts = self.generate(REPORTED_CHARACTERS, TEMPERATURES)
        samples = list(zip(TEMPERATURES, texts, strict=True))
        if self._in_part:
            return [samples_section(samples)]
        return char_sections(self.network, self.corpus.validation, samples)

    def write_samples(self, folder: Path) -> Path:
        """Write text that the network generates."""
        path = folder / "sample.txt"
        (text,) = self.generate(SAMPLE_CHARACTERS, [SAMPLE_TEMPERATURE])
        path.write_text(text, encoding="utf-8")
        return path

    @torch.no_grad()
    def generate(self, count: int, temperatures: Sequence[float]) -> list[str]:
        """Draw ``count`` characters at each temperature.

        They follow a line end, or the text's first character where it has none.
        """
        vocabulary = self.network.vocabulary
        rows = len(temperatures)
        start = vocabulary.index("\n") if "\n" in vocabulary else int(self._train[0])
        tokens = torch.full((rows, 1), start, device=self._train.device)
        scale = torch.tensor(temperatures)[:, None]  # (rows, 1)
        draws = torch.Generator().manual_seed(self.config.seed)
        state = self.network.initial_state(rows)
        drawn = []
        with _one_thread():
            for _ in range(count):
                logits, state = self.network(tokens, state)  # (rows, 1, vocabulary)
                chances = torch.softmax(logits[:, 0].cpu() / scale, dim=-1)
                drawn.append(torch.multinomial(chances, 1, generator=draws))  # (rows, 1)
                tokens = drawn[-1].to(tokens.device)
        return ["".join(vocabulary[token] for token in row) for row in torch.cat(drawn, 1).tolist()]

    def held_out(self) -> HeldOut:
        """The head of the validation text."""
        head = self.corpus.validation[None, : PARITY_STEPS + 1]
        return HeldOut(steps=head[:, :-1], targets=head[:, 1:])

    def nats(self, prediction: Tensor, held_out: HeldOut) -> float:
        """Mean cross-entropy of the next character."""
        return float(cross_entropy(prediction[0].double(), held_out.targets[0]))


def verdict(nats: float, counts: CountingNats) -> str:
    """What a score means, beside models that have next to no memory."""
    name, counted = counts.best
    likely = f"{nats:.3f} nats: as unsure as between {math.exp(nats):.1f} equally likely characters"
    if nats < counted:
        return f"{likely}; counting {name} would need {counted:.3f}."
    return f"{likely}. It does NOT beat counting {name} ({counted:.3f}): train longer."


@contextmanager
def _one_thread() -> Iterator[None]:
    """For steps of a row or two: threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _renumbered(corpus: Corpus, meaning: Meaning, *, of: str) -> Corpus:
    """The text in the numbers of another vocabulary; ``of`` is the run that has it.

    Raises:
        DataError: the text has characters that are not in there, and it has no symbol for such.
    """
    vocabulary, unknown = tuple(meaning["vocabulary"]), meaning["unknown"]
    numbers = translation(
        corpus.vocabulary,
        vocabulary,
        unknown=unknown,
        what="characters",
        source=corpus.source,
        of=of,
    )
    notes = list(corpus.notes)
    strangers = [symbol for symbol in corpus.vocabulary if symbol not in vocabulary]
    if strangers:
        parts = torch.cat([numbers[corpus.train], numbers[corpus.validation]])
        notes.append(
            Note(
                what=f"taken for unknown: not in the vocabulary of {of}",
                rows=int((parts == unknown).sum()),
                detail=listed(map(repr, strangers)),
            )
        )
    return dataclasses.replace(
        corpus,
        vocabulary=vocabulary,
        unknown=unknown,
        train=numbers[corpus.train],
        validation=numbers[corpus.validation],
        notes=tuple(notes),
    )


def _network(config: CharConfig, corpus: Corpus) -> CharNetwork:
    return CharNetwork(
        vocabulary=corpus.vocabulary,
        cell=config.cell,
        layers=config.layers,
        hidden=config.hidden,
        embedding=config.embedding,
        dropout=config.dropout,
        nonlinearity=config.nonlinearity,
        learns_initial=config.learn_initial_state,
        unknown=corpus.unknown,
    )


def _read(config: CharConfig) -> Corpus:
    if config.labelled is not None:
        return read_prompted(
            config.labelled, window=config.window, seed=config.seed, encoding=config.encoding
        )
    if config.stdlib:
        text = read_stdlib(limit_characters=config.limit_characters)
    else:
        text = read_texts(
            config.text,
            limit_characters=config.limit_characters,
            normalisation=config.normalise,
            encoding=config.encoding,
        )
    return split(
        text, window=config.window, min_count=config.min_count, most_symbols=config.symbols
    )
