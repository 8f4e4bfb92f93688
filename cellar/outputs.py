"""What a caller wants back, and its wire form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

from cellar.errors import BadInputError
from cellar.v1 import values_pb2

DEFAULT_LEVELS = (0.1, 0.5, 0.9)


@contextmanager
def refusing() -> Iterator[None]:
    """Turns the refusals of protobuf (a negative count, a wrong type) into our own.

    Raises:
        BadInputError: protobuf refused a value.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise BadInputError(f"an option does not fit: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a sample is drawn.

    Attributes:
        temperature: divides the logits; 0 always takes the most likely token.
        top_k: draw among the k most likely tokens only; 0 means all.
        top_p: draw among the fewest tokens whose probabilities sum to at least this.
        seed: the same seed at the same position gives the same draw; None takes a random one.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def message(self, seed: Callable[[], int]) -> values_pb2.Sampling:
        """The wire form; ``seed`` provides one when none is given."""
        with refusing():
            return values_pb2.Sampling(
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                seed=seed() if self.seed is None else self.seed,
            )


class OutputOptions(TypedDict, total=False):
    """Which predictions come back.

    With none chosen the server decides: argmax for models that predict tokens or labels, the
    quantiles .1 .5 .9 for models that predict a distribution, raw for all others.

    Attributes:
        argmax: the most likely next token, or label.
        top_k: the k most likely next tokens, or labels, with their probabilities.
        probabilities: the probability of every token, or label.
        sample: one draw from the predictive distribution (not of labels).
        quantiles: quantiles of the next value at these levels, each strictly in (0, 1).
        raw: the model's own output, untouched.
    """

    argmax: bool
    top_k: int
    probabilities: bool
    sample: Sampling | None
    quantiles: Sequence[float]
    raw: bool


def encode(
    options: OutputOptions, *, every_step: bool, seed: Callable[[], int]
) -> values_pb2.Outputs:
    """The wire form; ``seed`` provides a seed when a sampling has none."""
    sample = options.get("sample")
    with refusing():
        return values_pb2.Outputs(
            argmax=options.get("argmax", False),
            top_k=options.get("top_k", 0),
            probabilities=options.get("probabilities", False),
            sample=sample.message(seed) if sample else None,
            quantiles=[float(level) for level in options.get("quantiles", ())],
            raw=options.get("raw", False),
            every_step=every_step,
        )


def levels(options: OutputOptions) -> tuple[float, ...]:
    """The levels of the quantiles that come back, if any do."""
    return tuple(float(level) for level in options.get("quantiles", ())) or DEFAULT_LEVELS
