"""Scores of character models on text they were not trained on.

Mean cross-entropy in nats, from cold windows of 256 and in one carried pass.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.networks.recurrent import Model, State

COLD_WINDOW = 256
BATCH = 64
CARRIED_LIMIT = 150_000
"""The carried pass reads at most so many characters."""

InitialState = Callable[[int], State]


class Patience:
    """How long something may take: asked after each part of it, one of which is always done."""

    def __init__(self, seconds: float = math.inf, *, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._ends_s = clock() + seconds
        self.share = 1.0
        """How much was done before it was over."""

    def is_over(self, share: float) -> bool:
        """Whether to end here, with so much of it done."""
        if share < 1.0 and self._clock() >= self._ends_s:
            self.share = share
            return True
        return False


@torch.no_grad()
def cold256(
    model: Model,
    initial_state: InitialState,
    tokens: Tensor,
    *,
    windows: int | None = None,
    patience: Patience | None = None,
) -> float:
    """Mean nats over whole windows of 256 characters, each from the initial state.

    ``tokens (characters,)``; ``windows`` spreads so many evenly over the text instead of taking
    all. With ``patience`` it takes as many as there is time for, from all over the text. A text of
    fewer than 257 characters is one window.
    """
    width = min(COLD_WINDOW, len(tokens) - 1)
    starts = torch.arange((len(tokens) - 1) // width) * width
    if windows is not None and windows < len(starts):
        starts = starts[torch.linspace(0, len(starts) - 1, windows).long()]
    if patience is not None:
        starts = starts[torch.randperm(len(starts), generator=torch.Generator().manual_seed(0))]
    total, done = 0.0, 0
    for first in range(0, len(starts), BATCH):
        chunk = starts[first : first + BATCH]
        index = (chunk[:, None] + torch.arange(width + 1)).to(tokens.device)
        rows = tokens[index]  # (batch, width + 1)
        logits, _ = model(rows[:, :-1], initial_state(len(rows)))
        total += float(cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum"))
        done += len(chunk)
        if patience is not None and patience.is_over(done / len(starts)):
            break
    return total / (done * width)


@torch.no_grad()
def carried(
    model: Model, initial_state: InitialState, tokens: Tensor, *, patience: Patience | None = None
) -> float:
    """Mean nats of one pass from the initial state, with the state carried all along.

    With ``patience`` it goes as far as there is time.
    """
    tokens = tokens[: CARRIED_LIMIT + 1]
    state = initial_state(1)
    total, done = 0.0, 0
    for start in range(0, len(tokens) - 1, 1024):
        chunk = tokens[start : start + 1025].unsqueeze(0)  # (1, <= 1025)
        logits, state = model(chunk[:, :-1], state)
        total += float(cross_entropy(logits[0], chunk[0, 1:], reduction="sum"))
        done += chunk.shape[1] - 1
        if patience is not None and patience.is_over(done / (len(tokens) - 1)):
            break
    return total / done
