"""What inputs and predictions mean: the part of a manifest that tensors do not say."""

from collections.abc import Mapping
from typing import Any

from models.manifest import Prediction, PredictionKind, TokensInput, ValuesInput
from training.errors import ConfigError
from training.importing.options import Ask, ImportOptions, Predicts
from training.importing.symbols import (
    read_labels,
    read_vocabulary,
    split_names,
    vocabulary_among,
)


def tokens_of(
    options: ImportOptions, ask: Ask, *, size: int, beside: Mapping[str, Any], name: str = "tokens"
) -> TokensInput:
    """An input of symbols: from the option, from what lies beside the weights, or asked for.

    Raises:
        ConfigError: the symbols are not given, or are not ``size``.
    """
    known = None if options.vocabulary else vocabulary_among(beside, size=size)
    if known is None:
        question = f"the network reads {size} symbols and the file does not say which"
        given = options.vocabulary or ask("--vocabulary", question, "symbols.json")
        known = read_vocabulary(given, size=size)
    return TokensInput(name=name, vocabulary=known)


def values_of(options: ImportOptions, ask: Ask, *, width: int, name: str = "values") -> ValuesInput:
    """An input of values with names.

    Raises:
        ConfigError: there are no names, or not as many as values.
    """
    question = f"the network reads {width} number{'s' * (width > 1)} per step, without names"
    example = ",".join(["open", "high", "low", "close"][:width]) + ("" if width <= 4 else ",…")
    given = options.features or ask("--features", question, example)
    names = split_names(given, option="--features", size=width, of="a step has")
    return ValuesInput(name=name, features=names)


def predicted(
    options: ImportOptions,
    ask: Ask,
    *,
    inputs: TokensInput | ValuesInput,
    width: int,
    per_step: bool,
    output: str | None = None,
) -> Prediction:
    """What ``width`` columns of a prediction stand for.

    A score for each symbol of the input is taken for the logits of the next one, anything else on
    values for raw numbers.

    Raises:
        ConfigError: it cannot be told, or the options do not fit.
    """
    kind = options.predicts or (Predicts.LABELS if options.labels else None)
    is_vocabulary = isinstance(inputs, TokensInput) and len(inputs.vocabulary) == width
    if kind is None and is_vocabulary:
        kind = Predicts.LOGITS
    elif kind is None and isinstance(inputs, ValuesInput):
        kind = Predicts.RAW
    elif kind is None:
        question = (
            f"the prediction has {width} columns, which are not the symbols it reads: are they "
            "logits, labels or raw numbers"
        )
        answer = ask("--predicts", question, "labels")
        if answer not in list(Predicts):
            raise ConfigError(f"--predicts: '{answer}' is none of {', '.join(Predicts)}")
        kind = Predicts(answer)
    if kind is Predicts.LOGITS and not is_vocabulary:
        raise ConfigError(
            f"--predicts logits: they score the symbols of the input, and {width} columns do not: "
            "say labels or raw"
        )
    labels: tuple[str, ...] = ()
    if kind is Predicts.LABELS:
        question = f"the prediction scores {width} labels, without names"
        labels = read_labels(options.labels or ask("--labels", question, "yes,no"), size=width)
    elif options.labels:
        raise ConfigError(f"--labels: the prediction is said to be {kind}: leave one of them out")
    return Prediction(
        output=output or {"logits": "logits", "labels": "scores", "raw": "prediction"}[kind],
        kind=PredictionKind(kind),
        width=width,
        labels=labels,
        per_step=per_step,
    )
