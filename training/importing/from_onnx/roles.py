"""Decides what the inputs and outputs of an external graph are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import ConfigError, DataError
from training.importing.from_onnx.external import ExternalGraph, Place, stem
from training.importing.options import Ask, ImportOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnState:
    """A state that the graph keeps to itself, and that has to become an input and an output."""

    place: Place
    source: str
    """The input it starts from in the graph, which no output follows; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """What each input and output is."""

    steps: str
    prediction: str
    lengths: str | None
    pairs: dict[str, str]
    """State inputs and the outputs that hold what follows."""
    own: tuple[OwnState, ...]
    obstacle: str | None
    """Why no session can continue it, if none can."""


def find_roles(graph: ExternalGraph, options: ImportOptions, ask: Ask) -> Roles:
    """Match states, then name what is left.

    Raises:
        ConfigError: an input or output has to be named by an option.
        DataError: the graph has none.
    """
    pairs = _given(graph, options)
    pairs |= _paired_by_operators(graph, pairs, options.file)
    _check_states(graph, pairs, options.file)
    own, obstacle = _own_states(graph, pairs)
    lengths = graph.lengths()
    dropped = {state.source for state in own}
    left = [name for name in graph.inputs if name not in {*pairs, *dropped, lengths}]
    free = [name for name in graph.outputs if name not in pairs.values()]
    if options.input is None and len(left) > 1:
        pairs |= _paired_by_name(graph, left, free)
        _check_states(graph, pairs, options.file)
        left = [name for name in left if name not in pairs]
        free = [name for name in free if name not in pairs.values()]
    free = _tensors(graph, free, options)
    steps = _one_of(left, options.input, "--input", "input", "the steps", options.file, ask)
    prediction = _one_of(
        free, options.output, "--output", "output", "the prediction", options.file, ask
    )
    unknown = [name for name in left if name != steps]
    if unknown:
        outputs = ", ".join(name for name in free if name != prediction) or "none"
        raise ConfigError(
            f"{options.file}: input '{unknown[0]}' is neither the steps ('{steps}') nor a state "
            f"that could be matched to an output (left: {outputs}): give --state, for example "
            f"--state {unknown[0]}=OUTPUT"
        )
    if not pairs and not own and obstacle is None:
        obstacle = "it has no recurrent state"
    return Roles(
        steps=steps,
        prediction=prediction,
        lengths=lengths,
        pairs=pairs,
        own=own,
        obstacle=obstacle,
    )


def optional_states(graph: ExternalGraph, options: ImportOptions) -> set[str]:
    """The inputs with a value of their own that are states: what they are then is the start."""
    found = {text.partition("=")[0] for text in options.state} & graph.optional.keys()
    for place in graph.places:
        name = graph.origin(graph.initial(place))
        outputs = graph.node(place.node).output
        if (
            name in graph.optional
            and len(outputs) > place.end
            and graph.reached(outputs[place.end])
        ):
            found.add(name)
    for name in graph.optional.keys() - found:
        before = stem(name)
        if before and sum(stem(other) == before for other in graph.outputs) == 1:
            found.add(name)
    return found


def _given(graph: ExternalGraph, options: ImportOptions) -> dict[str, str]:
    """The pairs that the options name."""
    pairs = {}
    for text in options.state:
        before, _, after = text.partition("=")
        if before not in graph.inputs or after not in graph.outputs:
            raise ConfigError(
                f"--state {text}: give an input and an output as input=output; the inputs are "
                f"{', '.join(graph.inputs)}, the outputs {', '.join(graph.outputs)}"
            )
        pairs[before] = after
    return pairs


def _paired_by_operators(graph: ExternalGraph, given: dict[str, str], file: Path) -> dict[str, str]:
    """Inputs that operators start from, and the outputs that hold what they end with."""
    ends: dict[str, set[str]] = {}
    for place in graph.places:
        name = graph.origin(graph.initial(place))
        if name in graph.inputs and name not in given:
            outputs = graph.node(place.node).output
            end = outputs[place.end] if len(outputs) > place.end else ""
            reached = graph.reached(end) - set(given.values())
            ends[name] = ends.get(name, reached) & reached
    for name, outputs_of in ends.items():
        if len(outputs_of) > 1:
            raise ConfigError(
                f"{file}: several outputs ({', '.join(sorted(outputs_of))}) hold what follows "
                f"state '{name}': give --state, for example --state {name}={min(outputs_of)}"
            )
    return {name: found.pop() for name, found in ends.items() if found}


def _own_states(
    graph: ExternalGraph, pairs: dict[str, str]
) -> tuple[tuple[OwnState, ...], str | None]:
    """The states to be brought out, and what keeps one from being so."""
    if not graph.runs_forwards:
        return (), "it reads its sequences from both ends"
    own = []
    for place in graph.places:
        start = graph.initial(place)
        origin = graph.origin(start)
        if origin in pairs:
            continue
        if origin in graph.inputs:
            own.append(OwnState(place=place, source=origin))
            continue
        if (obstacle := graph.obstacle(start)) is not None:
            node = graph.node(place.node)
            return (), f"the initial state of its {node.op_type} '{node.name}' {obstacle}"
        own.append(OwnState(place=place, source=""))
    return tuple(own), None


def _tensors(graph: ExternalGraph, names: Sequence[str], options: ImportOptions) -> list[str]:
    """The outputs that may be a prediction: tensors of float32."""
    kinds = {name: graph.kind(name) for name in names}
    asked = [options.output] if options.output in kinds else names
    if asked and not any(kinds[name] == "float32" for name in asked):
        name = asked[0]
        fix = (
            "export the network in float32 (model.float())"
            if "float" in kinds[name]
            else "let the graph give its scores or numbers themselves, without argmax or sequences"
        )
        raise DataError(
            f"{options.file}: output '{name}' is {kinds[name]}, and a prediction is float32: {fix}"
        )
    return [name for name in names if kinds[name] == "float32" or name == options.output]


def _check_states(graph: ExternalGraph, pairs: Mapping[str, str], file: Path) -> None:
    """States are float32: the arena keeps nothing else."""
    for name in (name for pair in pairs.items() for name in pair):
        if (kind := graph.kind(name)) == "float32":
            continue
        fix = (
            "export the network in float32 (model.float())"
            if "float" in kind
            else "cast it inside the graph, to float32 at its end and back at its beginning (whole "
            "numbers are exact up to 16,777,216)"
        )
        raise DataError(f"{file}: state '{name}' is {kind}, and a session keeps float32: {fix}")


def _paired_by_name(
    graph: ExternalGraph, inputs: Sequence[str], outputs: Sequence[str]
) -> dict[str, str]:
    """Pairs of one shape whose names differ only in the words for before and after."""
    pairs = {}
    for name in inputs:
        alike = [
            other
            for other in outputs
            if stem(name)
            and stem(other) == stem(name)
            and _may_be_equal(graph.dims(name), graph.dims(other))
        ]
        if len(alike) == 1:
            pairs[name] = alike[0]
    return pairs


def _may_be_equal(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    return len(one) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(one, other, strict=True)
    )


def _one_of(
    names: Sequence[str],
    given: str | None,
    option: str,
    side: str,
    role: str,
    file: Path,
    ask: Ask,
) -> str:
    if not names:
        raise DataError(f"{file}: every {side} is a state: none is left to be {role}")
    if given is None and len(names) > 1:
        question = f"several {side}s may be {role}: {', '.join(names)}"
        given = ask(option, question, names[0])
    if given is not None and given not in names:
        raise ConfigError(f"{option} {given}: it must be one of {', '.join(names)}")
    return given or names[0]
