"""Two versions of a model on the same live sessions: ``python -m examples.two_versions``.

Version 2 is version 1, trained for longer, so its states mean about the same. Each of the sessions
on version 1 is forked into version 2; then both read what comes, and the likelihood of every
character says who had expected it. The sessions notice nothing, until the better version takes
over: ``upgrade`` reads their history again with it.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

import cellar
from examples.serving import publish, served
from training.families.char.network import CharNetwork
from training.settings import Cell

DOCS = Path(__file__).parents[1] / "docs"
BATCH, WINDOW, STEPS = 16, 32, (100, 500)
SESSIONS, READ, COMES = 12, 80, 60  # characters that sessions have read, and that come then


@dataclass(frozen=True, slots=True)
class Text:
    """A text, and the model's symbols for it."""

    text: str
    symbols: tuple[str, ...]

    @property
    def ids(self) -> NDArray[np.int64]:
        """Each character's token."""
        known = {symbol: token for token, symbol in enumerate(self.symbols)}
        return np.array([known[symbol] for symbol in self.text])


def main() -> int:
    text = "\n".join(path.read_text("utf-8") for path in sorted(DOCS.glob("*.md")))
    known = Text(text, tuple(sorted({*text})))
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        publish_versions(Path(folder), known)
        print(f"trained in {time.monotonic() - began:.0f} s")
        with served(Path(folder)) as address, cellar.connect(address) as client:
            old, new = compare(client, text[-SESSIONS * (READ + COMES) :])
    print(f"nats a character: version 1 {old:.2f}, version 2 {new:.2f}")
    return 0


def compare(client: cellar.Client, text: str) -> tuple[float, float]:
    """What both versions lose on what comes in live sessions: mean nats a character."""
    losses = []
    for start in range(0, len(text), READ + COMES):
        read, comes = text[start : start + READ], text[start + READ : start + READ + COMES]
        with client.session("docs", version=1, history_steps="all") as live:
            live.step(read)
            with live.fork(version=2, ephemeral=True) as other:
                losses.append((surprise(live, comes), surprise(other, comes)))
            upgrade = getattr(live, "upgrade", None)  # of servers and clients that have it
            if upgrade is not None and losses[-1][1] < losses[-1][0]:
                upgrade(version=2)
                assert client.attach(live.id).model.version == 2
    old, new = np.mean(losses, axis=0)
    return float(old), float(new)


def surprise(session: cellar.Session, text: str) -> float:
    """How unlikely the session had taken a text to be, in nats a character; it has read it then."""
    ids = [session.model.vocabulary.index(symbol) for symbol in text]
    expected = session.steps(text, probabilities=True).probabilities
    assert expected is not None, "they were asked for"
    # What is expected after a character is the next one.
    return float(-np.log(expected[np.arange(len(ids) - 1), ids[1:]]).mean())


def publish_versions(folder: Path, text: Text) -> None:
    """Trains a model, publishes it, trains it further, and publishes it again."""
    torch.manual_seed(1)
    torch.set_num_threads(1)  # so little is not worth two
    network = CharNetwork(vocabulary=text.symbols, cell=Cell.LSTM, hidden=64, embedding=16)
    ids = torch.from_numpy(text.ids[: -SESSIONS * (READ + COMES)])
    rate = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for steps in STEPS:
        for _ in range(steps):
            learn(network, rate, ids)
        publish(folder, network, "docs")


def learn(network: CharNetwork, rate: torch.optim.Optimizer, ids: Tensor) -> None:
    """One step of training on windows from anywhere."""
    starts = torch.randint(0, len(ids) - WINDOW - 1, (BATCH, 1))
    window = ids[starts + torch.arange(WINDOW + 1)]
    logits, _ = network(window[:, :-1], network.initial_state(BATCH))
    loss = cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
    rate.zero_grad()
    loss.backward()
    rate.step()


if __name__ == "__main__":
    sys.exit(main())
