"""What a caller wants back, and its wire form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, TypedDict

from google.protobuf.duration_pb2 import Duration

from cellar.errors import BadInputError
from cellar.v1 import values_pb2
from cellar.values import arguments

DEFAULT_LEVELS = (0.1, 0.5, 0.9)


@contextmanager
def refusing() -> Iterator[None]:
    """Turns the refusals of protobuf (a negative count, a wrong type) into our own.

    Raises:
        BadInputError: protobuf refused a value.
    """
    try:
        yield
    except BadInputError:
        raise
    except (TypeError, ValueError) as error:
        raise BadInputError(f"an option does not fit: {error}") from error


def duration(seconds: float | None) -> Duration | None:
    """The wire form of so many seconds, if there are any; within ``refusing``."""
    if seconds is None:
        return None
    found = Duration()
    found.FromNanoseconds(round(seconds * 1e9))
    return found


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

    def __post_init__(self) -> None:
        """Checks what each is.

        Raises:
            BadInputError: one is no such number; the message names it.
        """
        for name in ("temperature", "top_p"):
            object.__setattr__(self, name, arguments.number(name, getattr(self, name)))
        object.__setattr__(self, "top_k", arguments.whole("top_k", self.top_k))
        if self.seed is not None:
            seed = arguments.whole("seed", self.seed, most=arguments.MOST_UINT64)
            object.__setattr__(self, "seed", seed)

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
    quantiles: float | Sequence[float]
    raw: bool


_CHECKS: dict[str, Callable[[str, object], object]] = {
    "argmax": arguments.flag,
    "top_k": arguments.whole,
    "probabilities": arguments.flag,
    "sample": lambda name, value: _sampling(name, value),
    "quantiles": arguments.levels,
    "raw": arguments.flag,
}
_OPTIONS = tuple(_CHECKS)
_OF_DRAWS = tuple(each.name for each in fields(Sampling) if each.name not in _OPTIONS)


def encode(
    options: OutputOptions, *, every_step: bool, seed: Callable[[], int]
) -> values_pb2.Outputs:
    """The wire form; ``seed`` provides a seed when a sampling has none."""
    given: dict[str, Any] = {}
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            raise _unknown(name)
        given[name] = check(name, value)
    sample = given.pop("sample", None)
    with refusing():
        return values_pb2.Outputs(
            **given,
            sample=sample.message(seed) if sample else None,
            every_step=arguments.flag("every_step", every_step),
        )


def _sampling(name: str, value: object) -> Sampling | None:
    if value is not None and not isinstance(value, Sampling):
        raise arguments.refused(name, "a cellar.Sampling, or None", value)
    return value


def _unknown(name: str) -> BadInputError:
    meant = get_close_matches(name, (*_OPTIONS, *_OF_DRAWS), n=1)
    hint = arguments.nearest(name, _OPTIONS)
    if meant and meant[0] in _OF_DRAWS:
        hint = f"; a draw is asked for by sample=cellar.Sampling({meant[0]}=…)"
    return BadInputError(f"{name}: predictions have no such option{hint}", metadata={"field": name})


def levels(options: OutputOptions) -> tuple[float, ...]:
    """The levels of the quantiles that come back, if any do."""
    if "quantiles" not in options:
        return DEFAULT_LEVELS
    return arguments.levels("quantiles", options["quantiles"]) or DEFAULT_LEVELS
