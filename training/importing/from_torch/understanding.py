"""Imports a torch ``state_dict``."""

from typing import Any

from models.manifest import TokensInput, ValuesInput
from training.errors import ConfigError
from training.importing.from_torch.rebuilding import Rebuilt, stack_of
from training.importing.from_torch.weights import FoundNetwork, Weights, find_network, read_weights
from training.importing.meaning import predicted, tokens_of, values_of
from training.importing.options import Ask, ImportOptions, Reads
from training.importing.publishing import Understood
from training.importing.stack import model_of
from training.importing.starts import told_starts, with_starts
from training.importing.symbols import vocabulary_among
from training.settings import Cell


def understand(options: ImportOptions, ask: Ask, *, name: str) -> Understood:
    """Recognise the network in a file of weights and write it as a portable graph.

    Raises:
        DataError: the file is not readable, or holds something else.
        ConfigError: something is missing that the file does not say, or does not fit it.
    """
    weights = read_weights(options.file)
    found = find_network(weights.tensors, where=options.file)
    inputs = _inputs(found, weights, options, ask)
    reads = _reads(found, options, ask)
    one_hot = found.embedding is None and isinstance(inputs, TokensInput)
    kind: dict[str, Any] = {
        "one_hot": one_hot,
        "nonlinearity": options.nonlinearity,
        "reads": reads,
    }
    stack = stack_of(found, **kind)
    starts = told_starts(options, stack.states, {})
    states = with_starts(stack.states, starts)
    prediction = predicted(
        options, ask, inputs=inputs, width=stack.width, per_step=reads is Reads.EVERY
    )
    proto, manifest = model_of(stack, inputs, prediction, name=name)
    return Understood(
        proto=proto,
        manifest=manifest.model_copy(update={"states": states}),
        source=Rebuilt(found, [state.start for state in states], **kind).run,
        starts=starts,
        facts=_facts(found, inputs, options, reads),
    )


def _inputs(
    found: FoundNetwork, weights: Weights, options: ImportOptions, ask: Ask
) -> TokensInput | ValuesInput:
    """Symbols where there is an embedding; otherwise one-hot symbols or values."""
    width = found.layers[0].inputs
    if found.embedding is not None:
        return tokens_of(options, ask, size=len(found.embedding.weight), beside=weights.beside)
    if options.vocabulary or (
        options.features is None and vocabulary_among(weights.beside, size=width)
    ):
        return tokens_of(options, ask, size=width, beside=weights.beside)

    def or_one_hot(option: str, question: str, example: str) -> str:
        return ask(option, f"{question} (--vocabulary if they are one-hot symbols)", example)

    return values_of(options, or_one_hot, width=width)


def _reads(found: FoundNetwork, options: ImportOptions, ask: Ask) -> Reads:
    if all(len(layer.directions) == 1 for layer in found.layers):
        if options.reads not in (None, Reads.EVERY):
            raise ConfigError(
                "--reads: this network runs forwards only, and predicts after every step: the "
                "prediction after the last one is that of the whole; leave --reads out"
            )
        return Reads.EVERY
    if options.reads is not None:
        return options.reads
    question = "the network is bidirectional, and its weights do not say what the head reads"
    answer = ask("--reads", question, "final")
    if answer not in list(Reads):
        raise ConfigError(f"--reads: '{answer}' is none of {', '.join(Reads)}")
    return Reads(answer)


def _facts(
    found: FoundNetwork, inputs: TokensInput | ValuesInput, options: ImportOptions, reads: Reads
) -> list[tuple[str, str]]:
    facts = []
    if isinstance(inputs, TokensInput):
        how = (
            "one-hot"
            if found.embedding is None
            else f"{found.embedding.name}, {found.embedding.weight.shape[1]} wide"
        )
        facts.append(("input", f"{len(inputs.vocabulary)} symbols, {how}"))
    else:
        facts.append(("input", f"{', '.join(inputs.features)}: as the network was trained on them"))
    for layer in found.layers:
        cell = f"{layer.cell}" + (
            f" ({options.nonlinearity}; --nonlinearity says otherwise)"
            if layer.cell is Cell.RNN
            else ""
        )
        both = "bidirectional " * (len(layer.directions) == 2)
        facts.append((layer.name, f"{both}{cell}, {layer.inputs} -> {layer.hidden} units"))
    if found.head is None:
        facts.append(("head", "none: the last layer's outputs are the prediction"))
    else:
        outputs, width = found.head.weight.shape
        seen = "" if reads is Reads.EVERY else f", on {reads}"
        facts.append(("head", f"{found.head.name}, {width} -> {outputs}{seen}"))
    return facts
