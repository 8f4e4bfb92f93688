"""One network reads, another one writes: ``python -m examples.encoder_decoder [WORD …]``.

An encoder and a decoder are trained together, to write a word backwards: the state that the first
has come to is where the second begins. They are served as two models, and a fork carries the state
of a session of the one into a session of the other.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import cellar
from examples.serving import publish, served
from training.families.char.network import CharNetwork
from training.settings import Cell

LETTERS = "abcdefgh"
BEGIN, END = ">", "\n"
SYMBOLS = (*LETTERS, BEGIN, END)
SHORTEST, LONGEST = 2, 4
BATCH, STEPS, HIDDEN = 64, 800, 80


def main() -> int:
    words = sys.argv[1:] or ["bad", "head", "cafe", "edge", "feed", "gag"]
    if not all(SHORTEST <= len(word) <= LONGEST and {*word} <= {*LETTERS} for word in words):
        print(f"words have {SHORTEST} to {LONGEST} letters of {LETTERS}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        encoder, decoder = trained(STEPS)
        publish(Path(folder), encoder, "encoder")
        publish(Path(folder), decoder, "decoder")
        print(f"trained in {time.monotonic() - began:.0f} s")
        with served(Path(folder)) as address, cellar.connect(address) as client:
            for word in words:
                print(f"{word} {backwards(client, word)}")
    return 0


def backwards(client: cellar.Client, word: str) -> str:
    """What the decoder writes once the encoder has read a word."""
    with client.session("encoder") as reader:
        reader.step(word)
        with reader.fork(model="decoder") as writer:  # stands where the reader stands
            return (
                writer.generate(BEGIN, stop=END, max_steps=LONGEST + 1, temperature=0)
                .text()
                .strip()
            )


def trained(steps: int) -> tuple[CharNetwork, CharNetwork]:
    """An encoder and a decoder, whose states have the same shapes and the same meaning."""
    torch.manual_seed(1)
    torch.set_num_threads(1)  # so little is not worth two
    dice = np.random.default_rng(1)
    encoder, decoder = (
        CharNetwork(vocabulary=SYMBOLS, cell=Cell.GRU, hidden=HIDDEN, embedding=16)
        for _ in range(2)
    )
    parameters = [*encoder.parameters(), *decoder.parameters()]
    rate = torch.optim.AdamW(parameters, lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(rate, steps)
    for _ in range(steps):
        length = int(dice.integers(SHORTEST, LONGEST + 1))
        words = torch.from_numpy(dice.integers(0, len(LETTERS), (BATCH, length)))
        begin, end = (torch.full((BATCH, 1), SYMBOLS.index(symbol)) for symbol in (BEGIN, END))
        told = words.flip(1)
        _, state = encoder(words, encoder.initial_state(BATCH))
        logits, _ = decoder(torch.cat([begin, told], 1), state)
        loss = cross_entropy(logits.flatten(0, 1), torch.cat([told, end], 1).flatten())
        rate.zero_grad()
        loss.backward()
        rate.step()
        schedule.step()
    return encoder.eval(), decoder.eval()


if __name__ == "__main__":
    sys.exit(main())
